"""The specification of `canvas_step`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wm_kernels.canvas_step.tables import padded_size
from wm_kernels.canvas_step.weights import PackedWeights
from wm_kernels.philox_normal import philox_normal
from wm_kernels.predict import changing_fields


@dataclass(frozen=True)
class Controls:
    """How a step acts on a canvas of N positions, and what it leaves as it is.

    Attributes:
        columns: ``(A,)`` int64, the positions that the joint action is written to.
        num_positions: N.
        held: ``(1, N)`` bool, positions whose action is held through the step; None for none.
        period: ``(N,)`` int64, ticks between two changes of a position; None where every step changes all of them.
        ticks_per_step: Ticks that a step lasts.
        stream: Of the noise; see `philox_normal`.
        action_column: ``(NP,)`` int32, of every padded position its column of the joint action, -1 for none; not given.
        hold: ``(NP,)`` int32, 1 where `held`; not given.
        padded_period: ``(NP,)`` int64; not given.
    """

    columns: Tensor
    num_positions: int
    held: Tensor | None
    period: Tensor | None
    ticks_per_step: int
    stream: int
    action_column: Tensor = field(init=False)
    hold: Tensor = field(init=False)
    padded_period: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        size = padded_size(self.num_positions)
        column = torch.full((size,), -1, dtype=torch.int32, device=self.columns.device)
        column[self.columns] = torch.arange(len(self.columns), dtype=torch.int32, device=self.columns.device)
        object.__setattr__(self, "action_column", column)
        hold = torch.zeros_like(column)
        if self.held is not None:
            hold[: self.num_positions] = self.held[0].to(torch.int32)
        object.__setattr__(self, "hold", hold)
        period = None
        if self.period is not None:
            period = torch.ones(size, dtype=torch.int64, device=self.columns.device)
            period[: self.num_positions] = self.period
        object.__setattr__(self, "padded_period", period)


def canvas_step_reference(
    packed: PackedWeights,
    controls: Controls,
    values: Tensor,
    action: Tensor,
    seed: Tensor,
    episode: Tensor,
    step: Tensor,
    tick: Tensor | None,
) -> Tensor:
    """Write the action, draw the noise, predict the next values.

    Args:
        packed: The world's weights and tables.
        controls: How it is acted on.
        values: ``(B, N)`` float, in the fields' own units.
        action: ``(B, A)`` float, within its bounds.
        seed, episode, step: ``(B,)`` int64, the counters of the noise.
        tick: ``(B,)`` int64, ticks before the step; None without periods.

    Returns:
        ``(B, N)`` float.
    """
    now = values.index_copy(1, controls.columns, action)
    kept = controls.held
    if controls.period is not None and tick is not None:
        resting = ~changing_fields(tick, controls.period, controls.ticks_per_step)
        kept = resting if kept is None else kept | resting
    noise = philox_normal(seed, episode, step, values.shape[1], controls.stream)
    # Noise and sampler are in float32 or wider, whatever the network is in.
    return packed.predict(now, noise.to(torch.promote_types(values.dtype, torch.float32)), kept)
