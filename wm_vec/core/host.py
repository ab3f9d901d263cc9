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
from wm_vec.core.lookahead import DrawsAhead
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import Rows
from wm_vec.core.starts import BankStarts, Starts, draw_some, with_starts
from wm_vec.core.state import ColumnStep
from wm_vec.core.trees import Tree


class HostTransition(NamedTuple):
    """`wm_vec.core.Transition` in host memory, and what the perspectives made of it.

    Attributes:
        leaves: The next state's tensors, ``(B, ...)`` each, in the order of `wm_vec.core.rows.RowLayout`.
        observation: ``(B, ...)``.
        reward: ``(B, P)`` float; a view is enough.
        terminated: ``(B, P)`` bool, likewise.
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

    def columns(self, observation: Tree, final_observation: Tree) -> ColumnStep:
        """With what is seen of `state` and `final`, as tensors."""
        return ColumnStep(
            observation,
            final_observation,
            from_numpy(self.reward),
            from_numpy(self.terminated),
            from_numpy(self.truncated),
            from_numpy(self.finished),
        )


_NONE = np.empty(0, np.int64)


@dataclass
class HostRows:
    """`Rows` in host memory, their counters written in place from step to step.

    Attributes:
        leaves: As in `Rows`; never written into.
        seed, pending: As in `Rows`.
        episode: ``(B,)`` int64.
        began: ``(B,)`` int64, the clock when the row's episode began.
        returns: ``(B, P)`` float.
        clock: Steps of all rows; it starts anywhere.
        oldest: No row's episode began earlier.
    """

    leaves: list[Tensor]
    seed: Tensor
    pending: Tensor
    episode: np.ndarray
    began: np.ndarray
    returns: np.ndarray
    clock: int
    oldest: int

    @classmethod
    def of(cls, rows: Rows) -> HostRows:
        """`rows`, which must be plain tensors in host memory, as they are."""
        began = -rows.elapsed.numpy()
        returns = rows.returns.detach().numpy().copy()
        episode = rows.episode.numpy().copy()
        return cls(rows.leaves, rows.seed, rows.pending, episode, began, returns, 0, int(began.min(initial=0)))

    def to_rows(self) -> Rows:
        """As tensors again; copies."""
        counters = self.counters()
        returns = from_numpy(self.returns.copy())
        return Rows(self.leaves, counters.step, counters.episode, self.seed, returns, self.pending)

    def counters(self) -> CounterRNG:
        """The numbers of the next step."""
        return CounterRNG(self.seed, from_numpy(self.episode.copy()), from_numpy(self.clock - self.began))

    def finish(
        self, out: HostTransition, horizon: int | None, starts: Starts | None, ahead: DrawsAhead | None, keep: bool
    ) -> HostStep:
        """End the step that gives `out`: `wm_kernels.finish_step` and the restarts after it, with the same bits.

        Args:
            out: Finite.
            horizon: Steps after which an episode is truncated; None for no limit.
            starts: Where finished rows start; None leaves them as they are.
            ahead: What has been drawn ahead for these rows.
            keep: Tell how long episodes lasted and what they paid.
        """
        truncated = self._truncated(out.truncated, horizon)
        reward, terminated = out.reward.copy(), out.terminated.copy()  # what is handed out is new
        ended = terminated if terminated.shape[1] == 1 else terminated.any(1, keepdims=True)
        finished = ended | truncated
        which = finished.nonzero()[0] if starts is not None else _NONE
        # Nothing is written before a model has made its starts, which may fail.
        drawn = None if starts is None or not which.size else self._draw(which, starts, ahead)
        self.leaves = out.leaves
        self.clock += 1
        self.returns += reward
        lengths, sums = (self.clock - self.began, self.returns.copy()) if keep else (None, None)
        if ahead is not None:
            ahead.advance()
        if drawn is not None:
            self._begin(which, drawn, ahead)
        resets = starts is not None
        return HostStep(out.leaves, self.leaves, reward, terminated, truncated, finished, resets, lengths, sums)

    def finished_step(self, step: HostStep) -> FinishedStep:
        """`step`, which was finished with `keep`, and the counters after it as tensors."""
        assert step.lengths is not None
        assert step.sums is not None
        truncated, finished = from_numpy(step.truncated)[:, 0], from_numpy(step.finished)[:, 0]
        none = torch.zeros_like(finished)
        after = self.to_rows()
        return FinishedStep(
            step.final,
            step.state,
            from_numpy(step.reward),
            from_numpy(step.terminated),
            truncated,
            none,
            finished,
            finished if step.resets else none.clone(),
            after.elapsed,
            after.episode,
            after.returns,
            from_numpy(step.lengths),
            from_numpy(step.sums),
        )

    def restart(
        self, which: np.ndarray, starts: Starts, ahead: DrawsAhead | None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Begin the next episodes of the rows `which` ``(k,)`` int64; arguments as in `finish` and `Starts.draw`."""
        self._begin(which, self._draw(which, starts, ahead, options), ahead)

    def _draw(
        self, which: np.ndarray, starts: Starts, ahead: DrawsAhead | None, options: Mapping[str, Any] | None = None
    ) -> Drawn:
        """The next episodes of the rows `which`, and where they start."""
        episode = memoryview(self.episode)  # a few numbers are read and written faster through one
        rows = which.tolist()
        episodes = [episode[row] + 1 for row in rows]
        places = None if ahead is None else ahead.places
        if places is not None and isinstance(starts, BankStarts):
            index = places.draw(rows, episodes, self.seed, self.episode, starts.size)
            return Drawn(rows, episodes, starts.leaves, index)
        numbers = self.seed[from_numpy(which)], torch.tensor(episodes)
        return Drawn(rows, episodes, *draw_some(starts, which, *numbers, options))

    def _begin(self, which: np.ndarray, drawn: Drawn, ahead: DrawsAhead | None) -> None:
        """Begin the episodes `drawn` in the rows `which`."""
        episode, began = memoryview(self.episode), memoryview(self.began)
        for row, number in zip(drawn.rows, drawn.episodes, strict=True):
            episode[row], began[row] = number, self.clock
        self.returns[which] = 0.0
        pairs = zip(self.leaves, drawn.leaves, strict=True)
        self.leaves = [with_starts(leaf, fresh, which, drawn.places) for leaf, fresh in pairs]
        if ahead is not None:
            ahead.restart(drawn.rows, drawn.episodes)

    def _truncated(self, own: np.ndarray | None, horizon: int | None) -> np.ndarray:
        """``(B, 1)`` bool: rows that the dynamics or the horizon cuts off in this step; a new array."""
        cut = np.zeros((len(self.began), 1), bool) if own is None else own.reshape(-1, 1).copy()
        if horizon is not None and self.clock + 1 - self.oldest >= horizon:
            self.oldest = int(self.began.min())
            if self.clock + 1 - self.oldest >= horizon:
                cut |= (self.clock + 1 - self.began >= horizon)[:, None]
        return cut


class Drawn(NamedTuple):
    """Episodes about to begin.

    Attributes:
        rows: The rows, k of them.
        episodes: The episodes' numbers.
        leaves, places: As `draw_some` gives them.
    """

    rows: list[int]
    episodes: list[int]
    leaves: list[Tensor]
    places: list[int] | None


def can_step_on_host(tensor: Tensor) -> bool:
    """Whether rows that `tensor` belongs to may be kept on the host: no gradients, no traced or wrapped tensors."""
    return not torch.is_grad_enabled() and is_plain_host_tensor(tensor)
