"""`finish_step` without resets in host memory, where a look at the rows costs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wm_kernels.finish_step.reference import AutoresetPlan, FinishedStep, finish_step_reference


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
    """`finish_step_reference` of ``"disabled"`` for plain host tensors; the same bits.

    Steps in which a row diverged, or a sum overflows, are left to the reference.
    """
    total = reward.sum().item()
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
    diverged = torch.zeros_like(elapsed, dtype=torch.bool)
    length, total_reward = elapsed + 1, returns + reward
    over = None if horizon is None else length >= horizon
    if truncated is None:
        truncated = diverged.clone() if over is None else over
    else:
        # A new tensor in any case: it is handed out.
        truncated = truncated.clone() if over is None else truncated | over
    terminated = terminated.clone()
    finished = (terminated.squeeze(1) if terminated.shape[1] == 1 else terminated.any(-1)) | truncated
    return FinishedStep(
        proposed, proposed, reward.clone(), terminated, truncated, diverged, finished, diverged.clone(),
        length, episode, total_reward, length, total_reward,
    )  # fmt: skip
