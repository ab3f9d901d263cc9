"""What a training row is told of its context, so that one network steps, fills in and starts episodes."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_vec.model.codec import FieldCodec
from wm_vec.train.data import WorldData

START_SHARE, FILL_SHARE = 0.2, 0.4
"""Of the rows with a hidden context: starts of episodes (nothing known), and same-tick completion; the rest step
with a part of the context hidden."""


def context_batch(
    data: WorldData, rows: Tensor, codec: FieldCodec, dropout: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch of training rows, some with a hidden context.

    Args:
        data: The steps, on the model's device.
        rows: ``(B,)`` int64, which of them.
        codec: For what is an input, and for periods.
        dropout: Share of rows whose context is hidden, wholly or in part.
        generator: Source of the choice, on the CPU.

    Returns:
        ``values`` and ``next_values`` ``(B, N)`` float, ``known`` ``(B, N)`` bool, ``same_tick`` ``(B,)`` bool and
        the loss ``weight`` ``(B, N)`` float, as `CanvasModel.loss` takes them.
    """
    device = data.values.device
    rows = rows.to(device)
    values, next_values = data.values[rows], data.next_values[rows]
    known = data.known[rows] & codec.is_input
    due = (data.tick[rows, None] + 1) % codec.period == 0
    weight = (data.next_known[rows] & due).to(values.dtype)
    same_tick = torch.zeros(len(rows), dtype=torch.bool, device=device)
    if dropout == 0:
        return values, next_values, known, same_tick, weight
    choice = torch.rand(len(rows), generator=generator).to(device) / dropout
    share = torch.rand(len(rows), 1, generator=generator)
    kept = (torch.rand(*values.shape, generator=generator) < share).to(device)
    start_rows = torch.randint(len(data.starts), (len(rows),), generator=generator).to(device)

    hidden, start = choice < 1, choice < START_SHARE
    present = known
    known = known & (kept | ~hidden[:, None]) & ~start[:, None]
    # Told nothing, a row can only mean a start: any other target would blur what starts look like.
    start = start | (hidden & ~known.any(1))
    same_tick = start | (choice < START_SHARE + FILL_SHARE)
    fill = same_tick & ~start
    # Completion: the state itself is what is to be predicted, where it is not told.
    next_values = torch.where(fill[:, None], values, next_values)
    weight = torch.where(fill[:, None], (present & ~known).to(values.dtype), weight)
    next_values = torch.where(start[:, None], data.starts[start_rows], next_values)
    weight = torch.where(start[:, None], data.starts_known[start_rows].to(values.dtype), weight)
    return values, next_values, known, same_tick, weight
