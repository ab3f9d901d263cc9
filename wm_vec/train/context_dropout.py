"""Context dropout: hides parts of the context in training, so that one network steps, completes and starts episodes."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_vec.model.codec import FieldCodec
from wm_vec.train.data import WorldData

START_SHARE, FILL_SHARE = 0.2, 0.4
"""Of the examples with a hidden context: starts of episodes (nothing known), and completion within the tick; the
others are steps with a part of the context hidden."""


def context_batch(
    data: WorldData,
    index: Tensor,
    codec: FieldCodec,
    dropout: float,
    generator: torch.Generator,
    ticks_per_step: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch of training examples, some with a hidden context.

    Args:
        data: The steps, on the model's device.
        index: ``(B,)`` int64, which of them.
        codec: For what is an input, and for periods.
        dropout: Share of examples whose context is hidden, wholly or in part.
        generator: Source of the choice, on the CPU.
        ticks_per_step: Ticks of the fields' periods that a step lasts.

    Returns:
        ``values`` and ``next_values`` ``(B, N)`` float, ``known`` ``(B, N)`` bool, ``same_tick`` ``(B,)`` bool,
        ``told`` ``(B, N)`` bool and the loss ``weight`` ``(B, N)`` float, as `CanvasModel.loss` takes them.
    """
    device = data.values.device
    size, index = len(index), index.to(device)
    values, next_values = data.values[index], data.next_values[index]
    known = data.known[index] & codec.is_input
    due = codec.changing(data.tick[index], ticks_per_step)
    told = data.next_known[index]
    weight = (told & due).to(values.dtype)
    same_tick = torch.zeros(size, dtype=torch.bool, device=device)
    if dropout == 0:
        return values, next_values, known, same_tick, told, weight
    choice = torch.rand(size, generator=generator, dtype=torch.float32).to(device) / dropout
    share = torch.rand(size, 1, generator=generator, dtype=torch.float32)
    kept = (torch.rand(values.shape, generator=generator, dtype=torch.float32) < share).to(device)
    drawn = torch.randint(len(data.starts), (size,), generator=generator).to(device)

    hidden, start = choice < 1, choice < START_SHARE
    present = known
    known = known & (kept | ~hidden[:, None]) & ~start[:, None]
    # An example without any context can only be a start: another target would blur the distribution of starts.
    start = start | (hidden & ~known.any(1))
    same_tick = start | (choice < START_SHARE + FILL_SHARE)
    fill = same_tick & ~start
    # Completion: the target is the hidden part of the state itself.
    next_values = torch.where(fill[:, None], values, next_values)
    weight = torch.where(fill[:, None], (present & ~known).to(values.dtype), weight)
    next_values = torch.where(start[:, None], data.starts[drawn], next_values)
    weight = torch.where(start[:, None], data.starts_known[drawn].to(values.dtype), weight)
    # What was no input of a step did not lead to a state by itself.
    told = torch.where(start[:, None], data.starts_known[drawn], torch.where(fill[:, None], present, told))
    return values, next_values, known, same_tick, told & (codec.is_input | ~same_tick[:, None]), weight
