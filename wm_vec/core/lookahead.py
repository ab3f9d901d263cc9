"""Random numbers drawn for many steps at once, in host memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_kernels import philox_normal
from wm_vec.core.rng import STREAM_NOISE, STREAM_RESET, CounterRNG

MAX_EPISODES = 4
"""Episodes of a row that numbers are drawn for at once."""
Key = tuple[int, int, torch.dtype]
"""Normals per row, stream, dtype."""


class LookaheadRNG(CounterRNG):
    """The same numbers as a `CounterRNG`'s, drawn ahead: on the CPU a few cost as much as hundreds.

    The numbers of the episodes that rows are in are drawn for `depth` steps. When the first row begins its next episode
    within them, those of every row's next are drawn for the steps that are left; and so on.

    Args:
        seed, episode, step: ``(B,)`` int64 in host memory, as of the next step.
        depth: Steps drawn at once.
    """

    def __init__(self, seed: Tensor, episode: Tensor, step: Tensor, depth: int) -> None:
        self.seed, self.episode = seed, episode
        self._depth, self._batch, self._position = depth, seed.shape[0], 0
        self._first_step = step.numpy().copy()
        self._base = seed, episode, step
        # Of the k-th episode from now on: how many steps are drawn, and where they lie among all that are.
        self._depths, self._starts = [depth], np.zeros(1, np.int64)
        self._begun = np.zeros(self._batch, np.int64)  # episodes that each row has begun since
        # Where a row's current number lies among the drawn ones; None while no row has begun another episode.
        self._place: np.ndarray | None = None
        self._drawn: dict[Key, Tensor] = {}
        self._first: dict[Key, tuple[Tensor, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What was drawn is large; it is drawn again instead.
        return {**self.__dict__, "_drawn": {}, "_first": {}}

    @property
    def step(self) -> Tensor:  # type: ignore[override]
        """``(B,)`` int64, the current step."""
        return torch.from_numpy(self._first_step + self._position)

    @property
    def exhausted(self) -> bool:
        """Whether the steps drawn ahead are used up."""
        return self._position >= self._depth

    def advance(self) -> None:
        """Go on to the next step."""
        self._position += 1
        if self._place is not None:
            self._place += self._batch

    def restart(self, which: np.ndarray, episode: Tensor) -> None:
        """Let some rows begin their next episode, of the same seed, at the current step.

        Args:
            which: Those rows, ``(k,)`` int64.
            episode: ``(B,)`` int64, of all rows from now on.
        """
        self.episode = episode
        if which.size == 0 or self._position >= self._depth:
            return
        self._begun[which] += 1
        begun = self._begun[which]
        if begun.max() == MAX_EPISODES:
            # Episodes are short: to draw as far again for each would be a waste. Who is exhausted is asked for nothing.
            self._position = self._depth
            return
        if self._place is None:
            self._place = np.arange(self._batch) + self._position * self._batch
        if begun.max() == len(self._depths):
            self._draw_next_episode()
        self._first_step[which] = -self._position
        self._place[which] = self._starts[begun] + which

    def normal(self, num_normals: int, stream: int = STREAM_NOISE, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(B, num_normals)`` standard normals of the current step."""
        key = (num_normals, stream, dtype)
        if key not in self._drawn:
            self._drawn[key] = torch.cat([self._normals(key, ahead) for ahead in range(len(self._depths))])
            first = self._drawn[key][: self._depth * self._batch]
            self._first[key] = first.view(self._depth, self._batch, num_normals).unbind(0)
        if self._place is None:
            return self._first[key][self._position].clone()  # what is handed out may be written into
        return self._drawn[key].index_select(0, torch.from_numpy(self._place))

    def _draw_next_episode(self) -> None:
        """Numbers of one more episode of every row, for the steps that are left."""
        self._starts = np.append(self._starts, self._starts[-1] + self._depths[-1] * self._batch)
        self._depths.append(self._depth - self._position)
        for key, drawn in self._drawn.items():
            self._drawn[key] = torch.cat([drawn, self._normals(key, len(self._depths) - 1)])

    def _normals(self, key: Key, ahead: int) -> Tensor:
        """``(depth * B, n)``, step by step: of the episode that is `ahead` of the first."""
        seed, episode, step = self._base
        depth = self._depths[ahead]
        steps = ((torch.zeros_like(step) if ahead else step) + torch.arange(depth)[:, None]).flatten()
        return philox_normal(seed.repeat(depth), (episode + ahead).repeat(depth), steps, *key[:2]).to(key[2])


class PlacesAhead:
    """Where in a bank rows start, drawn for many of their episodes at once.

    Args:
        depth: Episodes drawn at once.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._of: tuple[int, Tensor] | None = None  # the size of the bank, and the seeds, that the places are for
        # Lists, since only a few are looked up at a time: by row, and by row and episode.
        self._first: list[int] = []
        self._places: list[list[int]] = []

    def draw(self, rows: np.ndarray, seed: Tensor, episode: Tensor, size: int) -> list[int]:
        """The places in a bank of `size` states of the rows `rows` ``(k,)``.

        Args:
            rows: Which.
            seed, episode: ``(B,)`` int64 in host memory, of all rows.
            size: M.
        """
        which, episodes = rows.tolist(), episode.numpy()[rows].tolist()
        if self._of is not None and self._of[0] == size and self._of[1] is seed:
            first, places, depth = self._first, self._places, self.depth
            ahead = [number - first[row] for row, number in zip(which, episodes, strict=True)]
            if all(0 <= number < depth for number in ahead):
                return [places[row][number] for row, number in zip(which, ahead, strict=True)]
        batch, further = seed.shape[0], torch.arange(self.depth)
        numbers = CounterRNG(
            seed.repeat_interleave(self.depth),
            (episode[:, None] + further).flatten(),
            torch.zeros(self.depth * batch, dtype=torch.int64),
        ).integers(1, size, STREAM_RESET)
        self._of, self._first = (size, seed), episode.tolist()
        self._places = numbers.view(batch, self.depth).tolist()
        return [self._places[row][0] for row in which]
