"""How rows are kept and steps finished in host memory, where a look at the rows costs nothing.

A step of few rows is a network of some milliseconds and then a few dozen small operations, each on cold caches. So
counters are written in place, those that can be worked out are not written at all, only rows that end are touched, and
where there is compiled code it does all of that at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, from_numpy

from wm_kernels import native
from wm_kernels.dispatch import is_plain_host_tensor
from wm_kernels.finish_step.reference import FinishedStep
from wm_kernels.native import FinishedRows, RowCounters
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.lookahead import DrawsAhead
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import ONE_BY_ONE, Rows
from wm_vec.core.starts import BankStarts, Starts, draw_some, with_starts
from wm_vec.core.trees import Tree

HALF = np.full((1, 1), 0.5, np.float32)
"""An array, since NumPy looks longer at a Python number."""


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

    The last of its state's tensors, in the sorted order of their keys, is what it shows: ``(B, N)`` of its dtype.
    Reward and termination are columns of that, actions are written into some; other tensors hold whole numbers.

    Attributes:
        steps_on_host: Whether it takes that way; if not, it is a `Dynamics` like any other.
        action_columns: ``(A,)`` int64.
        reward_column: None for a reward of 0.
        terminated_column: Above one half where the episode terminates; None for never.
    """

    action_columns: Tensor
    reward_column: int | None
    terminated_column: int | None

    @property
    def steps_on_host(self) -> bool:
        """Whether `next_on_host` may be called."""
        ...

    def next_on_host(self, leaves: Sequence[Tensor], rng: CounterRNG) -> list[Tensor]:
        """The next state's tensors, with the bits of `step`; the action stands in the last of `leaves`."""
        ...


def read_columns(dynamics: HostDynamics, leaves: list[Tensor]) -> HostTransition:
    """What a next state of `dynamics` says of the step."""
    values = leaves[-1]
    numbers, paid, ends = values.numpy(), dynamics.reward_column, dynamics.terminated_column
    none = (numbers.shape[0], 1)
    reward = np.zeros(none, numbers.dtype) if paid is None else numbers[:, paid : paid + 1]
    terminated = np.zeros(none, bool) if ends is None else np.greater(numbers[:, ends : ends + 1], HALF)
    return HostTransition(leaves, values, reward, terminated, None, values.sum().item(), {})


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
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    finished: Tensor
    resets: bool
    lengths: Tensor | None
    sums: Tensor | None

    @classmethod
    def of(cls, done: FinishedRows, values: Tensor, resets: bool) -> HostStep:
        """What `HostRows.finish_columns` made of `values`."""
        flags = done.terminated, done.truncated, done.finished
        return cls([values], [done.state], done.reward, *flags, resets, done.lengths, done.sums)

    def ended(self) -> EndedStep:
        """Of a step that was finished with `keep`."""
        assert self.lengths is not None
        assert self.sums is not None
        finished = self.finished[:, 0]
        diverged = torch.zeros_like(finished)
        return EndedStep(
            self.final,
            self.state,
            self.reward,
            self.terminated,
            self.truncated[:, 0],
            diverged,
            finished,
            finished.clone() if self.resets else torch.zeros_like(finished),
            self.lengths,
            self.sums,
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
        counters: As in `Rows`, but for the steps: the clock when the row's episode began.
        clock: Steps of all rows; it starts anywhere.
        oldest: No row's episode began earlier.
        ahead: What has been drawn ahead for these rows.
    """

    leaves: list[Tensor]
    seed: Tensor
    pending: Tensor
    counters: RowCounters
    clock: int
    oldest: int
    ahead: DrawsAhead | None = None

    @classmethod
    def of(cls, rows: Rows, ahead: DrawsAhead | None = None) -> HostRows:
        """`rows`, which must be plain tensors in host memory, as they are."""
        began, episode, returns = -rows.elapsed, rows.episode.clone(), rows.returns.detach().clone()
        counters = RowCounters(began.contiguous(), episode.contiguous(), returns.contiguous())
        return cls(rows.leaves, rows.seed, rows.pending, counters, 0, int(began.min()) if len(began) else 0, ahead)

    def to_rows(self) -> Rows:
        """As tensors again; copies."""
        rng, returns = self.rng_now(), self.counters.returns.clone()
        return Rows(self.leaves, rng.step, rng.episode, self.seed, returns, self.pending)

    def rng_now(self) -> CounterRNG:
        """The numbers of the next step."""
        return CounterRNG(self.seed, self.counters.episode.clone(), self.clock - self.counters.began)

    def rng(self) -> CounterRNG:
        """The same, drawn ahead where that pays."""
        return self.rng_now() if self.ahead is None else self.ahead.rng(self.rng_now)

    def finish_columns(
        self,
        dynamics: HostDynamics,
        values: Tensor,
        horizon: int | None,
        starts: Starts | None,
        picked: Tensor | None,
        keep: bool,
    ) -> FinishedRows | None:
        """`finish` in compiled code, of a dynamics whose state is one tensor; None if a number is not finite.

        Args:
            dynamics: It.
            values: ``(B, N)``, its next state, contiguous.
            horizon, starts, keep: As in `finish`; `can_finish_columns` must take `starts`.
            picked: ``(n,)`` int64, the columns that the step is to show; None for none.
        """
        counters, ahead = self.counters, self.ahead
        columns = dynamics.reward_column, dynamics.terminated_column
        places = None if ahead is None else ahead.places
        table = None
        if places is not None and isinstance(starts, BankStarts):
            table = places.starts(starts.leaves[0], self.seed, counters.episode)
        try:
            done = native.finish_rows(values, *columns, counters, self.clock + 1, horizon, table, picked, keep)
        except IndexError:
            assert places is not None
            places.renew(counters.episode)
            done = native.finish_rows(values, *columns, counters, self.clock + 1, horizon, table, picked, keep)
        if done is None:
            return None
        self.clock += 1
        self.leaves = [done.state]
        if ahead is not None and ahead.numbers is not None:
            ahead.numbers.advance()
            ahead.numbers.restart(done.rows, done.episodes)
        return done

    def can_finish_columns(self, starts: Starts | None) -> bool:
        """Whether `finish_columns` knows where finished rows start."""
        drawn = self.ahead is not None and self.ahead.places is not None
        banked = drawn and type(starts) is BankStarts and starts.plain
        return native.AVAILABLE and len(self.leaves) == 1 and (starts is None or banked)

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
        returns = self.counters.returns
        # By torch, which knows no `numpy.seterr`; a step's first sum in NumPy takes longer, too.
        returns.numpy()[:] = torch.add(returns, from_numpy(reward)).numpy()
        lengths, sums = (self.clock - self.counters.began, returns.clone()) if keep else (None, None)
        if self.ahead is not None and self.ahead.numbers is not None:
            self.ahead.numbers.advance()
        if begun is not None:
            self._begin(*begun)
        flags = from_numpy(terminated), from_numpy(truncated), from_numpy(finished)
        return HostStep(final, self.leaves, from_numpy(reward), *flags, starts is not None, lengths, sums)

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
    ) -> tuple[list[int], list[int], list[Tensor]]:
        """The rows `which` ``(k,)``, the numbers of their next episodes, and `leaves` with their starts.

        Nothing is written.
        """
        episode, ahead, rows = self.counters.episode, self.ahead, which.tolist()
        episodes = [number + 1 for number in some(episode.numpy(), rows)]
        fresh: Sequence[Tensor | np.ndarray]
        index: list[int] | None
        if ahead is not None and ahead.places is not None and isinstance(starts, BankStarts):
            fresh, index = starts.arrays, ahead.places.draw(rows, episodes, self.seed, episode, starts.size)
        else:
            chosen = from_numpy(which)
            fresh, index = draw_some(starts, chosen, self.seed[chosen], torch.tensor(episodes), options)
        return rows, episodes, [with_starts(leaf, fresh[i], rows, index) for i, leaf in enumerate(leaves)]

    def _begin(self, rows: list[int], episodes: list[int], leaves: list[Tensor]) -> None:
        """Begin episodes; arguments as `_starting` gives them."""
        began, episode, returns = (counter.numpy() for counter in self.counters)
        if len(rows) > ONE_BY_ONE:
            episode[rows], began[rows], returns[rows] = episodes, self.clock, 0.0
        else:
            for row, number in zip(rows, episodes, strict=True):
                episode[row], began[row], returns[row] = number, self.clock, 0.0
        self.leaves = leaves
        if self.ahead is not None and self.ahead.numbers is not None:
            self.ahead.numbers.restart(rows, episodes)

    def _overdue(self, horizon: int) -> np.ndarray:
        """``(B,)`` bool: rows that the horizon cuts off in this step."""
        began = self.counters.began.numpy()
        self.oldest = int(began.min(initial=self.clock))
        return self.clock + 1 - began >= horizon


def some(numbers: np.ndarray, rows: list[int]) -> list[int]:
    """A few of the whole numbers ``(B,)``."""
    return [numbers.item(row) for row in rows] if len(rows) <= ONE_BY_ONE else numbers[rows].tolist()


def can_step_on_host(tensor: Tensor) -> bool:
    """Whether rows that `tensor` belongs to may be kept on the host: no gradients, no traced or wrapped tensors."""
    return not torch.is_grad_enabled() and is_plain_host_tensor(tensor)
