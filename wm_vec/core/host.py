"""How rows are kept and steps finished in host memory, where a look at the rows costs nothing.

A step of few rows is a network of some milliseconds and then a few dozen small operations, each on cold caches. So
counters stay in NumPy from step to step and are written in place, those that can be worked out are not written at all,
and only rows that end are touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, from_numpy

from wm_kernels.dispatch import is_plain_host_tensor
from wm_kernels.finish_step.reference import FinishedStep
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.lookahead import FEW_ROWS, DrawsAhead, Indices
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import Rows
from wm_vec.core.starts import BankStarts, Starts, draw_some, with_starts
from wm_vec.core.trees import Tree


class HostTransition(NamedTuple):
    """`wm_vec.core.Transition` in host memory, and what the perspectives made of it.

    Attributes:
        leaves: The next state's tensors, ``(B, ...)`` each, in the order of `wm_vec.core.rows.RowLayout`.
        observation: ``(B, ...)``.
        reward: ``(B, P)`` float; a view is enough.
        terminated: ``(B, P)`` bool, a new array.
        truncated: ``(B,)`` bool, or None if the dynamics does not say.
        total: A number that is finite only if all floating-point numbers of state and reward are.
        info: As in `Transition`.
    """

    leaves: list[Tensor]
    observation: Tree
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray | None
    total: float
    info: dict[str, Any]


@runtime_checkable
class HostDynamics(Dynamics, Protocol):
    """A dynamics with a shorter way through host memory, where no gradients are asked for.

    Its observations are of its dtype.

    Attributes:
        steps_on_host: Whether it takes that way; if not, it is a `Dynamics` like any other.
    """

    @property
    def steps_on_host(self) -> bool:
        """Whether `step_on_host` may be called."""
        ...

    def step_on_host(self, leaves: Sequence[Tensor], action: Tensor, rng: CounterRNG) -> HostTransition:
        """`step` with the same bits, of the state's tensors in the sorted order of their keys; P is 1."""
        ...

    def observe_on_host(self, leaves: Sequence[Tensor]) -> Tree:
        """`observe` of such tensors."""
        ...


class HostStep(NamedTuple):
    """`wm_kernels.finish_step.FinishedStep` in host memory; no row diverged.

    Attributes:
        final, state: As in `FinishedStep`.
        reward: ``(B, P)`` float.
        terminated: ``(B, P)`` bool.
        truncated, finished: ``(B, 1)`` bool.
        resets: Whether finished rows were reset.
        lengths: ``(B,)`` int64, ``final_elapsed``; None if nobody asked.
        sums: ``(B, P)`` float, ``final_returns``; likewise.
    """

    final: list[Tensor]
    state: list[Tensor]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    finished: np.ndarray
    resets: bool
    lengths: np.ndarray | None
    sums: np.ndarray | None

    def ended(self) -> EndedStep:
        """As tensors; of a step that was finished with `keep`."""
        assert self.lengths is not None
        assert self.sums is not None
        finished = from_numpy(self.finished)[:, 0]
        diverged = torch.zeros_like(finished)
        return EndedStep(
            self.final,
            self.state,
            from_numpy(self.reward),
            from_numpy(self.terminated),
            from_numpy(self.truncated)[:, 0],
            diverged,
            finished,
            finished.clone() if self.resets else torch.zeros_like(finished),
            from_numpy(self.lengths),
            from_numpy(self.sums),
        )


class EndedStep(NamedTuple):
    """`wm_kernels.finish_step.FinishedStep` without the counters after it; the attributes as there, in their order."""

    final: list[Tensor]
    state: list[Tensor]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    diverged: Tensor
    finished: Tensor
    was_reset: Tensor
    final_elapsed: Tensor
    final_returns: Tensor


@dataclass(slots=True)
class HostRows:
    """`Rows` in host memory, their counters written in place from step to step.

    Attributes:
        leaves: As in `Rows`; never written into.
        seed, pending: As in `Rows`.
        episode: As in `Rows`; of few rows a list, since in most steps no more than a few numbers are read and written.
        began: ``(B,)``, the clock when the row's episode began; likewise.
        returns: ``(B, P)`` float.
        clock: Steps of all rows; it starts anywhere.
        oldest: No row's episode began earlier.
        ahead: What has been drawn ahead for these rows.
    """

    leaves: list[Tensor]
    seed: Tensor
    pending: Tensor
    episode: Indices
    began: Indices
    returns: np.ndarray
    clock: int
    oldest: int
    ahead: DrawsAhead | None = None

    @classmethod
    def of(cls, rows: Rows, ahead: DrawsAhead | None = None) -> HostRows:
        """`rows`, which must be plain tensors in host memory, as they are."""
        episode, began = rows.episode.numpy().copy(), -rows.elapsed.numpy()
        few = len(began) <= FEW_ROWS
        return cls(
            leaves=rows.leaves,
            seed=rows.seed,
            pending=rows.pending,
            episode=episode.tolist() if few else episode,
            began=began.tolist() if few else began,
            returns=rows.returns.detach().numpy().copy(),
            clock=0,
            oldest=int(began.min(initial=0)),
            ahead=ahead,
        )

    def to_rows(self) -> Rows:
        """As tensors again; copies."""
        counters, returns = self.counters(), from_numpy(self.returns.copy())
        return Rows(self.leaves, counters.step, counters.episode, self.seed, returns, self.pending)

    def counters(self) -> CounterRNG:
        """The numbers of the next step."""
        return CounterRNG(self.seed, from_numpy(np.array(self.episode, np.int64)), from_numpy(self.elapsed()))

    def elapsed(self) -> np.ndarray:
        """``(B,)`` int64, steps of the current episode."""
        return self.clock - np.asarray(self.began, np.int64)

    def rng(self) -> CounterRNG:
        """The same, drawn ahead where that pays."""
        return self.counters() if self.ahead is None else self.ahead.rng(self.counters)

    def finish(self, out: HostTransition, horizon: int | None, starts: Starts | None, keep: bool) -> HostStep:
        """End the step that gives `out`: `wm_kernels.finish_step` and the restarts after it, with the same bits.

        Args:
            out: Finite.
            horizon: Steps after which an episode is truncated; None for no limit.
            starts: Where finished rows start; None leaves them as they are.
            keep: Tell how long episodes lasted and what they paid.
        """
        reward, terminated = out.reward.copy(), out.terminated  # what is handed out is new
        finished: np.ndarray = terminated.copy()
        if terminated.shape[1] > 1:
            finished = np.logical_or.reduce(terminated, 1, keepdims=True)
        truncated = np.zeros(finished.shape, bool)
        late = self._overdue(horizon) if horizon is not None and self.clock + 1 - self.oldest >= horizon else None
        for cut in (out.truncated, late):
            if cut is not None:
                truncated |= cut[:, None]
                finished |= truncated
        # Nothing is written before a model has made its starts, which may fail.
        begun = None
        if starts is not None:
            rows = finished.nonzero()[0]
            if rows.size:
                begun = self._starting(out.leaves, rows, starts)
        self.leaves = final = out.leaves
        self.clock += 1
        # By torch, which knows no `numpy.seterr`; a step's first sum in NumPy takes longer, too.
        self.returns = torch.add(from_numpy(self.returns), from_numpy(reward)).numpy()
        lengths, sums = (self.elapsed(), self.returns.copy()) if keep else (None, None)
        if self.ahead is not None and self.ahead.numbers is not None:
            self.ahead.numbers.advance()
        if begun is not None:
            self._begin(*begun)
        return HostStep(final, self.leaves, reward, terminated, truncated, finished, starts is not None, lengths, sums)

    def finished_step(self, step: HostStep) -> FinishedStep:
        """`step`, which was finished with `keep`, and the counters after it as tensors."""
        ended, after = step.ended(), self.to_rows()
        return FinishedStep(*ended[:8], after.elapsed, after.episode, after.returns, *ended[8:])

    def restart(self, mask: np.ndarray, starts: Starts, options: Mapping[str, Any] | None = None) -> None:
        """Begin the next episodes of the rows of `mask` ``(B,)`` bool; `options` as in `Starts.draw`."""
        rows = mask.nonzero()[0]
        if rows.size:
            self._begin(*self._starting(self.leaves, rows, starts, options))
        self.pending = self.pending & from_numpy(~mask)

    def _starting(
        self, leaves: list[Tensor], which: np.ndarray, starts: Starts, options: Mapping[str, Any] | None = None
    ) -> tuple[Indices, Indices, list[Tensor]]:
        """The rows `which` ``(k,)``, the numbers of their next episodes, and `leaves` with their starts.

        The first two are indices as the counters have them. Nothing is written.
        """
        episode, ahead = self.episode, self.ahead
        rows: Indices
        episodes: Indices
        fresh: Sequence[Tensor | np.ndarray]
        index: Indices | None
        if isinstance(episode, list):
            rows = which.tolist()
            episodes = [episode[row] + 1 for row in rows]
        else:
            rows, episodes = which, episode[which] + 1
        if ahead is not None and ahead.places is not None and isinstance(starts, BankStarts):
            fresh, index = starts.arrays, ahead.places.draw(rows, episodes, self.seed, episode, starts.size)
        else:
            chosen = from_numpy(which)
            fresh, index = draw_some(starts, chosen, self.seed[chosen], torch.as_tensor(episodes), options)
        return rows, episodes, [with_starts(leaf, fresh[i], rows, index) for i, leaf in enumerate(leaves)]

    def _begin(self, rows: Indices, episodes: Indices, leaves: list[Tensor]) -> None:
        """Begin episodes; arguments as `_starting` gives them."""
        clock, episode, began, returns = self.clock, self.episode, self.began, self.returns
        if isinstance(episode, np.ndarray) and isinstance(began, np.ndarray):
            episode[rows], began[rows], returns[rows] = episodes, clock, 0.0
        else:
            for row, number in zip(rows, episodes, strict=True):
                episode[row], began[row], returns[row] = number, clock, 0.0
        self.leaves = leaves
        if self.ahead is not None and self.ahead.numbers is not None:
            self.ahead.numbers.restart(rows, episodes)

    def _overdue(self, horizon: int) -> np.ndarray:
        """``(B,)`` bool: rows that the horizon cuts off in this step."""
        began = np.asarray(self.began, np.int64)
        self.oldest = int(began.min(initial=self.clock))
        return self.clock + 1 - began >= horizon


def can_step_on_host(tensor: Tensor) -> bool:
    """Whether rows that `tensor` belongs to may be kept on the host: no gradients, no traced or wrapped tensors."""
    return not torch.is_grad_enabled() and is_plain_host_tensor(tensor)
