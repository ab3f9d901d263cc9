"""Random numbers drawn for many steps at once, in host memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wm_kernels import native, philox_normal
from wm_kernels.native import RowStarts
from wm_vec.core.rng import STREAM_NOISE, STREAM_RESET, CounterRNG
from wm_vec.core.rows import ONE_BY_ONE

MAX_ROWS, MAX_STEPS = 2048, 256
"""At most so many rows times steps (or episodes), and so many steps, are drawn for in one call."""
MIN_STEPS = 4
"""For fewer steps it does not pay: the next episodes of rows, drawn as well, may come to nothing."""
MAX_EPISODES = 4
"""Episodes of a row that numbers are drawn for at once."""
MANY_ROWS = 1 << 14
"""Up to so many the places in a bank where rows start are drawn ahead."""
Key = tuple[int, int, torch.dtype]
"""Normals per row, stream, dtype."""
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as wide as a dtype, which NumPy has for every one."""


class Ahead:
    """Normals of one kind, drawn ahead.

    Args:
        normals: ``(B, depth, n)``, contiguous, so that what a row has ahead lies together.

    Attributes:
        steps: ``(B, n)`` for every step, of the episodes that rows are in then: views.
        later: ``(B, d, n)`` for each of the episodes to come, from its first step on.
    """

    def __init__(self, normals: Tensor) -> None:
        self.steps = normals.unbind(1)
        self.later: list[Tensor] = []
        self._normals = normals

    def begin(self, rows: list[int], begun: list[int], position: int) -> None:
        """Let each of some rows be in its ``begun``-th of the episodes to come from `position` on."""
        if native.AVAILABLE:
            native.copy_steps(self._normals, self.later, rows, [number - 1 for number in begun], position)
            return
        steps, left = _bits(self._normals), len(self.steps) - position
        for row, number in zip(rows, begun, strict=True):
            steps[row, position:] = _bits(self.later[number - 1])[row, :left]


class LookaheadRNG(CounterRNG):
    """The same numbers as a `CounterRNG`'s, drawn ahead: on the CPU a few cost as much as hundreds.

    The numbers of the episodes that rows are in are drawn for `depth` steps. When the first row begins its next episode
    within them, those of every row's next are drawn for the steps that are left; and so on. A row that begins an
    episode has that one's numbers put where its steps will look for them.

    Args:
        seed, episode, step: ``(B,)`` int64 in host memory, as of the next step.
        depth: Steps drawn at once.
    """

    def __init__(self, seed: Tensor, episode: Tensor, step: Tensor, depth: int) -> None:
        self.seed = seed
        self._base = episode, step
        self._first_episode = episode.tolist()
        self._depths = [depth]  # of the k-th episode from the first on
        self._begun: dict[int, tuple[int, int]] = {}  # row -> episodes that it has begun since, where the last began
        self._position = 0
        self._drawn: dict[Key, Ahead] = {}

    @property
    def episode(self) -> Tensor:  # type: ignore[override]
        """``(B,)`` int64, the current episode."""
        episode = self._base[0].clone()
        for row, (begun, _) in self._begun.items():
            episode[row] += begun
        return episode

    @property
    def step(self) -> Tensor:  # type: ignore[override]
        """``(B,)`` int64, the current step."""
        step = self._base[1] + self._position
        for row, (_, began) in self._begun.items():
            step[row] = self._position - began
        return step

    @property
    def exhausted(self) -> bool:
        """Whether the steps drawn ahead are used up."""
        return self._position >= self._depths[0]

    def advance(self) -> None:
        """Go on to the next step."""
        self._position += 1

    def restart(self, rows: list[int], episodes: list[int]) -> None:
        """Let some rows begin an episode of the same seed at the current step.

        Args:
            rows: Which.
            episodes: Their new episodes' numbers.
        """
        position, depths, first = self._position, self._depths, self._first_episode
        left = depths[0] - position
        if left <= 0 or not rows:
            return
        begun = [episode - first[row] for row, episode in zip(rows, episodes, strict=True)]
        most = max(begun)
        if most >= MAX_EPISODES or min(begun) <= 0:
            # Episodes are short: to draw as far again for each would be a waste.
            self._position = depths[0]
            return
        while most >= len(depths):
            depths.append(left)
            for key, kind in self._drawn.items():
                kind.later.append(self._normals(key, len(depths) - 1))
        for row, number in zip(rows, begun, strict=True):
            self._begun[row] = number, position
        for kind in self._drawn.values():
            kind.begin(rows, begun, position)

    def normal(self, num_normals: int, stream: int = STREAM_NOISE, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(B, num_normals)`` standard normals of the current step."""
        # What is handed out may be written into.
        return self._normal((num_normals, stream, dtype)).clone(memory_format=torch.contiguous_format)

    def noise(self, num_normals: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(B, num_normals)`` standard normals of the current step; only to be read."""
        return self._normal((num_normals, STREAM_NOISE, dtype))

    def _normal(self, key: Key) -> Tensor:
        """What has been drawn for the current step."""
        drawn = self._drawn.get(key)
        if drawn is None:
            drawn = self._drawn[key] = Ahead(self._normals(key, 0))
            drawn.later += [self._normals(key, ahead) for ahead in range(1, len(self._depths))]
            for row, (begun, began) in self._begun.items():
                drawn.begin([row], [begun], began)
        return drawn.steps[self._position]

    def _normals(self, key: Key, ahead: int) -> Tensor:
        """``(B, depth, n)`` of the episode that is `ahead` of the first."""
        num_normals, stream, dtype = key
        episode, step = self._base
        depth = self._depths[ahead]
        seeds, episodes = (counter.repeat_interleave(depth) for counter in (self.seed, episode + ahead))
        steps = ((torch.zeros_like(step) if ahead else step)[:, None] + torch.arange(depth)).flatten()
        normals = philox_normal(seeds, episodes, steps, num_normals, stream)
        return normals.to(dtype).contiguous().view(len(self.seed), depth, num_normals)


def _bits(normals: Tensor) -> np.ndarray:
    """The memory of `normals`."""
    return normals.view(_BITS[normals.element_size()]).numpy()


class PlacesAhead:
    """Where in a bank rows start, drawn for many of their episodes at once.

    When a row has used up its places, all that have used up half of them get new ones.

    Args:
        depth: Episodes drawn at once.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._seed: Tensor | None = None  # the seeds, and the size of the bank, that the places are for
        self._size = 0
        self._first, self._places = torch.zeros(0, dtype=torch.int64), torch.zeros(0, depth, dtype=torch.int64)
        self._starts: RowStarts | None = None

    def starts(self, bank: Tensor, seed: Tensor, episode: Tensor) -> RowStarts:
        """Where rows start in `bank` ``(M, N)``; for `seed` and `episode` see `draw`. `renew` writes into it."""
        self._cover(seed, episode, bank.shape[0])
        if self._starts is None or self._starts.bank is not bank:
            self._starts = RowStarts(bank, self._places, self._first)
        return self._starts

    def _cover(self, seed: Tensor, episode: Tensor, size: int) -> None:
        """Draw for these seeds and a bank of this size."""
        if self._seed is not seed or self._size != size:
            self._seed, self._size, self._first = seed, size, episode.clone()
            self._places = _places(seed, episode, self._depth, size)
            self._starts = None

    def renew(self, episode: Tensor) -> None:
        """Draw for the episodes from the current ones ``(B,)`` on, where half of the places are used up."""
        assert self._seed is not None
        used = episode - self._first
        again = ((used < 0) | (used >= self._depth // 2)).nonzero()[:, 0]
        places = _places(self._seed[again], episode[again], self._depth, self._size)
        # By NumPy: torch would refuse what was made in its inference mode.
        self._first.numpy()[again] = episode[again]
        self._places.numpy()[again] = places

    def draw(self, rows: list[int], episodes: list[int], seed: Tensor, episode: Tensor, size: int) -> list[int]:
        """The places ``(k,)`` of some rows.

        Args:
            rows: Which.
            episodes: The numbers of the episodes that they start: their current ones, or those after.
            seed, episode: ``(B,)`` int64 in host memory, of all rows, and their current episodes.
            size: M, the states of the bank.
        """
        self._cover(seed, episode, size)
        try:
            return self._look(rows, episodes)
        except IndexError:
            self.renew(episode)
            return self._look(rows, episodes)

    def _look(self, rows: list[int], episodes: list[int]) -> list[int]:
        """The places of episodes that have been drawn; an IndexError if one has not."""
        first, places, depth = self._first.numpy(), self._places.numpy(), self._depth
        if len(rows) > ONE_BY_ONE:
            ahead = np.array(episodes) - first[rows]
            if ((ahead < 0) | (ahead >= depth)).any():
                raise IndexError
            return places[rows, ahead].tolist()
        found = []
        for row, number in zip(rows, episodes, strict=True):
            ahead = number - first.item(row)
            if not 0 <= ahead < depth:
                raise IndexError
            found.append(places.item(row, ahead))
        return found


def _places(seed: Tensor, episode: Tensor, depth: int, size: int) -> Tensor:
    """``(k, depth)``, the places in a bank of `size` states of k rows, at the episodes `episode` ``(k,)`` and after."""
    episodes = (episode[:, None] + torch.arange(depth)).flatten()
    rng = CounterRNG(seed.repeat_interleave(depth), episodes, torch.zeros_like(episodes))
    return rng.integers(1, size, STREAM_RESET).view(-1, depth)


class DrawsAhead:
    """All that is drawn ahead for the rows of an engine in host memory, as far as it pays: for many rows it does not.

    Args:
        num_envs: B.

    Attributes:
        numbers: Those of the steps to come; None until they are drawn.
        places: Where rows start; None if they are too many.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._depth = min(MAX_ROWS // num_envs, MAX_STEPS)
        self.numbers: LookaheadRNG | None = None
        self.places = PlacesAhead(max(MIN_STEPS, self._depth)) if num_envs <= MANY_ROWS else None

    def __reduce__(self) -> tuple[type[DrawsAhead], tuple[int]]:
        return DrawsAhead, (self._num_envs,)  # what was drawn is large, and drawn again where it is needed

    def rng(self, counters: Callable[[], CounterRNG]) -> CounterRNG:
        """The numbers of the next step.

        Args:
            counters: Gives the rows' counters, where they are needed.
        """
        numbers = self.numbers
        if numbers is None or numbers.exhausted:
            now = counters()
            if self._depth < MIN_STEPS:
                return now
            self.numbers = numbers = LookaheadRNG(now.seed, now.episode, now.step, self._depth)
        return numbers

    def forget(self) -> None:
        """Rows go on from elsewhere."""
        self.numbers = None

    def advance(self, restarted: Tensor | None, episode: Tensor) -> None:
        """All rows have taken a step; arguments as in `restart`."""
        if self.numbers is not None:
            self.numbers.advance()
            self.restart(restarted, episode)

    def restart(self, mask: Tensor | None, episode: Tensor) -> None:
        """The rows of `mask`, ``(B,)`` bool, have begun an episode; all are in the episodes `episode` ``(B,)`` now."""
        if self.numbers is not None and mask is not None:
            rows = mask.numpy().nonzero()[0]
            self.numbers.restart(rows.tolist(), episode.numpy()[rows].tolist())
