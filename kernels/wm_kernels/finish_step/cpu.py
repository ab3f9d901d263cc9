"""`finish_step` for one healthy row in host memory, where a branch is cheaper than a select."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wm_kernels.finish_step.reference import AutoresetPlan, FinishedStep, finish_step_reference

_THREE_FALSE = torch.zeros(3, 1, dtype=torch.bool)


def finish_step_cpu(
    previous: Sequence[Tensor],
    proposed: list[Tensor],
    bank: Sequence[Tensor],
    bank_index: Tensor | None,
    action: Tensor | None,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    elapsed: Tensor,
    episode: Tensor,
    returns: Tensor,
    pending: Tensor | None,
    horizon: int | None,
    autoreset: AutoresetPlan,
) -> FinishedStep:
    """`finish_step_reference` for one row of plain host tensors without autoreset; the same bits.

    A row that diverged, or whose sum overflows, is left to the reference.
    """
    total = reward.item() if reward.shape[1] == 1 else reward.sum().item()
    for leaf in proposed:
        if leaf.dtype.is_floating_point:
            total += leaf.sum().item()
    if action is not None:
        total += action.sum().item()
    if not math.isfinite(total):
        return finish_step_reference(
            previous, proposed, bank, bank_index, action, reward, terminated, truncated, elapsed, episode, returns,
            pending, horizon, autoreset,
        )  # fmt: skip
    length, total_reward = elapsed + 1, returns + reward
    over, diverged, was_reset = _THREE_FALSE.clone().unbind(0)
    if truncated is not None:
        over = truncated
    if horizon is not None:
        over = over | (length >= horizon)
    ended = terminated.squeeze(1) if terminated.shape[1] == 1 else terminated.any(-1)
    return FinishedStep(
        proposed, proposed, reward.clone(), terminated, over, diverged, ended | over, was_reset,
        length, episode, total_reward, length, total_reward,
    )  # fmt: skip
