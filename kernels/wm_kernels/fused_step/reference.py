"""The specification of `fused_step`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_kernels.canvas_step.reference import Controls, canvas_step_reference
from wm_kernels.canvas_step.weights import PackedWeights
from wm_kernels.finish_step.reference import Autoreset, Draw, FinishedStep, finish_step_reference


@dataclass(frozen=True)
class Role:
    """What one perspective controls, observes and is paid for, all of it positions of the canvas.

    Attributes:
        acts: The positions that its action's numbers are written to, in order.
        low, high: Bounds that each number is clipped to.
        offset: Subtracted from whole numbers: the first class index.
        observes: The positions that it observes, in order; each once.
        whole: Whether it observes them as int64, rounded, and not as float32.
        reward: The position that pays; -1 for none.
        terminated: The position that ends its episode above one half; -1 for none.
    """

    acts: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    offset: int
    observes: tuple[int, ...]
    whole: bool
    reward: int
    terminated: int


class CanvasState(NamedTuple):
    """What an env step starts from, for B envs, N positions and P perspectives.

    Attributes:
        values: ``(B, N)`` float.
        tick: ``(B,)`` int64, ticks since the start; None without periods.
        elapsed, episode, seed: ``(B,)`` int64.
        returns: ``(B, P)`` float.
        ended: ``(B, P)`` bool; see `finish_step`.
        pending: ``(B,)`` bool; see `finish_step`.
    """

    values: Tensor
    tick: Tensor | None
    elapsed: Tensor
    episode: Tensor
    seed: Tensor
    returns: Tensor
    ended: Tensor
    pending: Tensor


class FusedOutput(NamedTuple):
    """The end of a step, and what is seen of it.

    Attributes:
        finished: As `finish_step` gives it; the leaves are the values, and the ticks before them if there are any.
        observed: For each perspective ``(B, n)`` of the state after resets: float32, or int64.
        last_observed: Likewise before resets.
    """

    finished: FinishedStep
    observed: list[Tensor]
    last_observed: list[Tensor]


def fused_step_reference(
    packed: PackedWeights,
    controls: Controls,
    roles: Sequence[Role],
    state: CanvasState,
    actions: Sequence[Tensor],
    bank: Sequence[Tensor],
    draw: Draw | None,
    horizon: int | None,
    autoreset: Autoreset,
) -> FusedOutput:
    """A whole env step of a canvas: act, draw, predict, finish, observe.

    Args:
        packed: The world's weights and tables.
        controls: How it is acted on; its columns are those of all `roles`, in order.
        roles: The perspectives.
        state: Where it starts.
        actions: For each perspective ``(B, ...)``, whole or floating.
        bank: The leaves of the initial states: ``(M,)`` ticks if there are any, and ``(M, N)`` values.
        draw: Which of them each env would take.
        horizon: Steps after which an episode is truncated; None for no limit.
        autoreset: As in `finish_step`.
    """
    num_envs, several = state.values.shape[0], len(roles) > 1
    raw: list[Tensor] = []
    clipped: list[Tensor] = []
    for role, action in zip(roles, actions, strict=True):
        numbers = action if action.is_floating_point() else action.to(torch.int64) - role.offset
        numbers = numbers.to(state.values.dtype).reshape(num_envs, len(role.acts))
        low, high = state.values.new_tensor(role.low), state.values.new_tensor(role.high)
        current = state.values[:, list(role.acts)]
        gone = state.ended[:, len(raw), None] if several else torch.zeros_like(current, dtype=torch.bool)
        raw.append(torch.where(gone, 0.0, numbers))
        clipped.append(torch.where(gone, current, numbers.clamp(low, high)))
    action = torch.cat(clipped, 1)
    counters = state.seed, state.episode, state.elapsed
    values = canvas_step_reference(packed, controls, state.values, action, *counters, state.tick)

    def column(position: int) -> Tensor:
        return values.new_zeros(num_envs) if position < 0 else values[:, position]

    before, after = [state.values], [values]
    if state.tick is not None:
        before, after = [state.tick, *before], [state.tick + controls.ticks_per_step, *after]
    finished = finish_step_reference(
        before,
        after,
        bank,
        draw,
        torch.cat(raw, 1),
        torch.stack([column(role.reward) for role in roles], 1),
        torch.stack([column(role.terminated) for role in roles], 1) > 0.5,
        None,
        state.elapsed,
        state.episode,
        state.returns,
        state.pending if autoreset == "next_step" else None,
        state.ended if several else None,
        horizon,
        autoreset,
    )

    def seen(values: Tensor, role: Role) -> Tensor:
        picked = values[:, list(role.observes)]
        return picked.round().to(torch.int64) if role.whole else picked

    return FusedOutput(
        finished,
        [seen(finished.state[-1], role) for role in roles],
        [seen(finished.final[-1], role) for role in roles],
    )
