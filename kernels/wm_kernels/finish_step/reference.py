"""The specification of `finish_step`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wm_kernels.philox_normal import philox_words

Autoreset = Literal["same_step", "next_step", "disabled"]


class Draw(NamedTuple):
    """Which state of a bank an env's next episode starts from: its word of Philox says so.

    Attributes:
        seed: ``(B,)`` int64.
        episode: ``(B,)`` int64, the number of the episode before the one that starts.
        size: ``()`` int64, states in the bank, below 2^31.
        stream: The stream of the words.
    """

    seed: Tensor
    episode: Tensor
    size: Tensor
    stream: int

    def places(self) -> Tensor:
        """``(B,)`` int64 in ``[0, size)``."""
        words = philox_words(self.seed, self.episode + 1, torch.zeros_like(self.episode), 1, self.stream)
        return (words[:, 0] * self.size) >> 32


class FinishedStep(NamedTuple):
    """The end of a step, for B envs and P perspectives.

    Attributes:
        final: The state's leaves ``(B, ...)`` at the end of the step, before any reset.
        state: The same after resets: what the next step starts from.
        reward: ``(B, P)`` float; 0 where an env diverged or was only reset.
        terminated: ``(B, P)`` bool, also where a perspective has ended in an earlier step of the episode.
        truncated: ``(B,)`` bool.
        diverged: ``(B,)`` bool: the env turned non-finite and was ended at its last finite state.
        finished: ``(B,)`` bool: the episode ended in this step, since every perspective has ended or by truncation.
        was_reset: ``(B,)`` bool: `state` starts a fresh episode.
        elapsed, episode: ``(B,)`` int64, counters after resets.
        returns: ``(B, P)`` float, the episode's sum of rewards after resets.
        ended: ``(B, P)`` bool, the perspectives that have ended in an episode that goes on; None where it was None.
        pending: ``(B,)`` bool, envs that the next step only resets; None but under ``"next_step"``.
        final_elapsed: ``(B,)`` int64, the episode's length before resets; 0 where the step was only a reset.
        final_returns: ``(B, P)`` float, the episode's sum of rewards before resets; 0 likewise.
    """

    final: list[Tensor]
    state: list[Tensor]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    diverged: Tensor
    finished: Tensor
    was_reset: Tensor
    elapsed: Tensor
    episode: Tensor
    returns: Tensor
    ended: Tensor | None
    pending: Tensor | None
    final_elapsed: Tensor
    final_returns: Tensor


def finish_step_reference(
    previous: Sequence[Tensor],
    proposed: Sequence[Tensor],
    bank: Sequence[Tensor],
    draw: Draw | None,
    action: Tensor | None,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    elapsed: Tensor,
    episode: Tensor,
    returns: Tensor,
    pending: Tensor | None,
    ended: Tensor | None,
    horizon: int | None,
    autoreset: Autoreset,
    kernel: bool = False,
) -> FinishedStep:
    """Contain what diverged, end episodes, reset envs from the bank, and count.

    Args:
        previous: The state's leaves before the step, each ``(B, ...)``.
        proposed: The leaves that the dynamics proposes; same shapes and dtypes.
        bank: The leaves of the initial states, each ``(M, ...)``; read only where envs reset.
        draw: The initial state that each env would take; None takes the env's own of B.
        action: ``(B, A)`` float, or None where actions cannot be non-finite.
        reward: ``(B, P)`` float.
        terminated: ``(B, P)`` bool.
        truncated: ``(B,)`` bool from the dynamics, or None.
        elapsed: ``(B,)`` int64, steps of the episode before this one.
        episode: ``(B,)`` int64, episode number.
        returns: ``(B, P)`` float, sum of the episode's rewards before this step.
        pending: ``(B,)`` bool, envs whose episode ended in the last step; only with ``"next_step"``.
        ended: ``(B, P)`` bool, perspectives that ended in an earlier step of the episode: their reward counts as 0,
            whatever it is, and they stay terminated. None where an episode ends with its only perspective.
        horizon: Steps after which an episode is truncated; None for no limit.
        autoreset: ``"same_step"`` resets finished envs at once, ``"next_step"`` spends the next step on it,
            ``"disabled"`` leaves it to the caller.
        kernel: Whether a kernel may run instead; the reference itself has no use for it.

    Returns:
        New tensors, except that under ``"disabled"`` ``final`` and ``state`` are one list and `episode` is as it was,
        and under ``"same_step"`` ``finished`` and ``was_reset`` are one tensor.
    """
    numbers = [_columns(leaf) for leaf in proposed if leaf.is_floating_point() or leaf.is_complex()]
    if action is not None:
        numbers.append(action.to(reward.dtype))
    if ended is not None:
        reward, terminated = reward.masked_fill(ended, 0.0), terminated | ended
    # A finite number less itself is 0, any other NaN, which counts as true.
    every = torch.cat((reward, *numbers), 1)
    diverged = (every - every).any(-1)
    final = [_select(diverged, old, new) for old, new in zip(previous, proposed, strict=True)]
    reward = reward.masked_fill(diverged[:, None], 0.0)
    terminated = terminated | diverged[:, None]
    final_elapsed = elapsed + 1
    over = torch.zeros_like(diverged) if horizon is None else final_elapsed >= horizon
    truncated = over if truncated is None else truncated | over
    if pending is not None:
        # The step of these envs is their reset: nothing that the dynamics proposes for them counts, and what is told
        # is of the episode that begins.
        stepped = ~pending
        diverged, truncated = diverged & stepped, truncated & stepped
        terminated = terminated & stepped[:, None]
        reward = reward.masked_fill(pending[:, None], 0.0)
        returns = returns.masked_fill(pending[:, None], 0.0)
        final_elapsed = final_elapsed.masked_fill(pending, 0)
    final_returns = returns + reward
    finished = (terminated.squeeze(1) if terminated.shape[1] == 1 else terminated.all(-1)) | truncated
    if ended is not None:
        ended = terminated & ~finished[:, None]
    if autoreset == "disabled":
        return FinishedStep(
            final, final, reward, terminated, truncated, diverged, finished, torch.zeros_like(finished),
            final_elapsed, episode, final_returns, ended, None, final_elapsed.clone(), final_returns.clone(),
        )  # fmt: skip
    was_reset = finished if pending is None else pending.clone()
    place = None if draw is None else draw.places()
    fresh = bank if place is None else [leaf[place] for leaf in bank]
    state = [_select(was_reset, start, last) for start, last in zip(fresh, final, strict=True)]
    return FinishedStep(
        final,
        state,
        reward,
        terminated,
        truncated,
        diverged,
        finished,
        was_reset,
        final_elapsed.masked_fill(was_reset, 0),
        episode + was_reset,
        final_returns.masked_fill(was_reset[:, None], 0.0),
        ended,
        None if pending is None else finished.clone(),
        final_elapsed,
        final_returns,
    )


def _columns(leaf: Tensor) -> Tensor:
    """``(B, ...)`` as ``(B, n)``; of no env, too."""
    return leaf.flatten(1) if leaf.dim() > 1 else leaf[:, None]


def _select(mask: Tensor, where_true: Tensor, where_false: Tensor) -> Tensor:
    """`torch.where` by envs: ``(B,)`` mask over ``(B, ...)`` tensors."""
    return torch.where(mask.view(-1, *(1,) * (where_false.dim() - 1)), where_true, where_false)
