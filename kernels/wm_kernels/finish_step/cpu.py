"""`finish_step` in host memory, where a look at the rows costs nothing and only those that end are touched."""

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
    """`finish_step_reference` for plain host tensors, but for ``"next_step"``; the same bits.

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
    if autoreset == "disabled" or bank_index is None:
        return FinishedStep(
            proposed, proposed, reward.clone(), terminated, truncated, diverged, finished, diverged.clone(),
            length, episode, total_reward, length, total_reward,
        )  # fmt: skip
    state = proposed
    rows = finished.nonzero()[:, 0]
    if rows.numel():
        drawn = bank_index[rows]
        state = [last.index_copy(0, rows, initial[drawn]) for initial, last in zip(bank, proposed, strict=True)]
    return FinishedStep(
        proposed, state, reward.clone(), terminated, truncated, diverged, finished, finished,
        length.masked_fill(finished, 0), episode + finished, total_reward.masked_fill(finished[:, None], 0.0),
        length, total_reward,
    )  # fmt: skip
