"""How a step is finished in host memory, where a look at the rows costs nothing and only those that end are touched.

NumPy's operations on a few numbers take a third of the time of torch's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, from_numpy

from wm_kernels.dispatch import is_plain_host_tensor
from wm_kernels.finish_step.reference import FinishedStep
from wm_vec.core.lookahead import PlacesAhead
from wm_vec.core.rows import Rows
from wm_vec.core.starts import Starts, restarted_leaves


def can_finish_on_host(reward: Tensor) -> bool:
    """Whether `finish_on_host` may run: no gradients, no traced or wrapped tensors."""
    return not torch.is_grad_enabled() and is_plain_host_tensor(reward)


def finish_on_host(
    rows: Rows,
    proposed: list[Tensor],
    action: Tensor | None,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    horizon: int | None,
    starts: Starts | None,
    places: PlacesAhead | None,
) -> tuple[Rows, FinishedStep] | None:
    """`wm_kernels.finish_step` and the restarts after it, with the same bits; None if a row may have diverged.

    Args:
        rows: As they were.
        proposed: The leaves that the dynamics proposes.
        action: ``(B, A)`` float, or None where actions cannot be non-finite.
        reward: ``(B, P)`` float.
        terminated: ``(B, P)`` bool.
        truncated: ``(B,)`` bool from the dynamics, or None.
        horizon: Steps after which an episode is truncated; None for no limit.
        starts: Where finished rows start; None leaves them as they are.
        places: What has been drawn ahead.
    """
    rewards, ended = reward.detach().numpy(), terminated.numpy()
    total = reward.sum().item()
    for leaf in proposed:
        if leaf.dtype.is_floating_point:
            total += leaf.sum().item()
    if action is not None:
        total += action.sum().item()
    if not math.isfinite(total):
        return None
    length = rows.elapsed.numpy() + 1
    sums = rows.returns.numpy() + rewards
    # What is handed out is new in any case.
    cut = np.zeros(length.shape, bool) if truncated is None else truncated.numpy().copy()
    if horizon is not None:
        cut |= length >= horizon
    over = (ended[:, 0] if ended.shape[1] == 1 else ended.any(-1)) | cut
    which = over.nonzero()[0]
    final_length, final_sums, finished = from_numpy(length), from_numpy(sums), from_numpy(over)
    none = from_numpy(np.zeros(length.shape, bool))
    state, elapsed, episode, returns = proposed, final_length, rows.episode, final_sums
    if starts is not None and which.size:
        episodes, fresh_length, fresh_sums = rows.episode.numpy().copy(), length.copy(), sums.copy()
        episodes[which] += 1
        fresh_length[which], fresh_sums[which] = 0, 0.0
        elapsed, episode, returns = from_numpy(fresh_length), from_numpy(episodes), from_numpy(fresh_sums)
        state = restarted_leaves(starts, proposed, rows.seed, episode, which, places)
    step = FinishedStep(
        proposed, state, from_numpy(rewards.copy()), from_numpy(ended.copy()), from_numpy(cut), none, finished,
        none.clone() if starts is None else finished, elapsed, episode, returns, final_length, final_sums,
    )  # fmt: skip
    return Rows(state, elapsed, episode, rows.seed, returns, rows.pending), step
