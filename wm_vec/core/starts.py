"""Where episodes start: a bank of initial states, or the dynamics itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_kernels.dispatch import is_plain_host_tensor
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.rng import STREAM_RESET, CounterRNG
from wm_vec.core.rows import ONE_BY_ONE, RowLayout, Rows
from wm_vec.core.trees import select_rows


class Starts(Protocol):
    """Gives every row the initial state that its seed and episode number say."""

    info: Mapping[str, Any]
    """What the dynamics reported of the episodes started last."""

    def draw(
        self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Leaves ``(M, ...)`` and which of them, ``(B,)`` int64, each row takes; None if row i takes the i-th."""
        ...


class BankStarts:
    """Episodes start from a fixed bank.

    Args:
        leaves: The leaves of the initial states, ``(M, ...)`` each.

    Attributes:
        size: M.
        plain: Whether NumPy has all leaves.
    """

    def __init__(self, leaves: list[Tensor]) -> None:
        self.info: Mapping[str, Any] = {}
        self.load(leaves)

    def load(self, leaves: list[Tensor]) -> None:
        """Start from other states from now on."""
        self.leaves, self.size = leaves, leaves[0].shape[0]
        self.plain = all(isinstance(array, np.ndarray) for array in self.arrays)

    @property
    def arrays(self) -> list[Tensor | np.ndarray]:
        """The leaves as NumPy has them; what it does not have as it is."""
        return [_array(leaf) for leaf in self.leaves]  # not kept: to send a tensor to another process moves its memory

    def draw(
        self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """The bank, and the state that each row draws at its seed and episode."""
        rng = CounterRNG(seed, episode, torch.zeros_like(episode))
        return self.leaves, rng.integers(1, self.size, STREAM_RESET)[:, 0]


class FreshStarts:
    """The dynamics makes every initial state anew, from the row's seed and episode number.

    Args:
        dynamics: One with ``start``; see `wm_vec.core.dynamics.FreshDynamics`.
        layout: The rows' leaves.
        reward_starts: One env's start values of what reward functions carry.
    """

    def __init__(self, dynamics: Dynamics, layout: RowLayout, reward_starts: Sequence[Tensor]) -> None:
        self.dynamics, self.layout, self.reward_starts = dynamics, layout, list(reward_starts)
        self.info: Mapping[str, Any] = {}

    def draw(
        self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Fresh states, one per row."""
        start = self.dynamics.start(CounterRNG(seed, episode, torch.zeros_like(episode)), options)  # type: ignore[attr-defined]
        self.info = start.info
        leaves = self.layout.check(start.state, "reset: the dynamics' start")
        return leaves + [start.expand(seed.shape[0], *start.shape) for start in self.reward_starts], None


class GivenStarts:
    """Row i starts from the i-th of given states; rows that are left out start where they otherwise would.

    Args:
        leaves: The leaves of the given states, ``(B, ...)`` each.
        otherwise: Where the others start.
        given: ``(B,)`` bool, the rows that start from given states; None for all.
    """

    def __init__(self, leaves: list[Tensor], otherwise: Starts, given: Tensor | None = None) -> None:
        self.leaves, self.otherwise, self.given = leaves, otherwise, given
        self.info: Mapping[str, Any] = {}

    def of(self, which: Tensor) -> GivenStarts:
        """The same for the rows `which` ``(k,)`` alone."""
        given = None if self.given is None else self.given[which]
        return GivenStarts([leaf[which] for leaf in self.leaves], self.otherwise, given)

    def draw(
        self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """The given states, and what the others draw at their seed and episode."""
        if self.given is None:
            return self.leaves, None
        leaves, index = self.otherwise.draw(seed, episode, options)
        drawn = leaves if index is None else [leaf[index] for leaf in leaves]
        pairs = zip(self.leaves, drawn, strict=True)
        return [select_rows(self.given, ours, theirs) for ours, theirs in pairs], None


def bank_leaves(
    bank: TensorDictBase, layout: RowLayout, reward_starts: Sequence[Tensor], device: torch.device
) -> list[Tensor]:
    """The leaves of a bank ``(M,)``, reward states included.

    Raises:
        ValueError: No states, or the states of another world.
    """
    if bank.batch_dims != 1 or bank.shape[0] < 1:
        raise ValueError(f"bank must have batch size (M,) with M at least 1, got {tuple(bank.batch_size)}.")
    leaves = [leaf.to(device).contiguous() for leaf in layout.check(bank, "load_bank: the bank")]
    return leaves + [start.expand(bank.shape[0], *start.shape) for start in reward_starts]


def blank_rows(seeds: Sequence[int | None], num_perspectives: int, dtype: torch.dtype, device: torch.device) -> Rows:
    """Rows before their first episode; no state yet.

    Args:
        seeds: One per env.
        num_perspectives: P.
        dtype: Of the sums of rewards.
        device: Where rows live.
    """
    zeros = torch.zeros(len(seeds), dtype=torch.int64, device=device)
    returns = torch.zeros(len(seeds), num_perspectives, dtype=dtype, device=device)
    return Rows([], zeros, zeros - 1, torch.tensor(seeds, dtype=torch.int64, device=device), returns, zeros.bool())


def next_episodes(rows: Rows, seeds: Sequence[int | None] | None) -> tuple[Tensor, Tensor]:
    """Seed and episode number ``(B,)`` int64 of every row if it restarts now; `seeds` as in `restart`."""
    seed, episode, device = rows.seed, rows.episode + 1, rows.seed.device
    if seeds is not None:
        given = torch.tensor([s is not None for s in seeds], device=device)
        seed = torch.where(given, torch.tensor([s or 0 for s in seeds], device=device), seed)
        episode = torch.where(given, 0, episode)
    return seed, episode


def restart(
    starts: Starts,
    rows: Rows,
    seeds: Sequence[int | None] | None = None,
    mask: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
) -> Rows:
    """`rows` with fresh episodes.

    Args:
        starts: Where they start.
        rows: As they are.
        seeds: A new seed starts at episode 0; None keeps a row's own, and goes on to its next episode.
        mask: ``(B,)`` bool, the rows to restart; None for all.
        options: For a dynamics that starts episodes afresh.
    """
    seed, episode = next_episodes(rows, seeds)
    if mask is not None and is_plain_host_tensor(mask):
        # A look tells which rows restart; the others are not drawn for.
        return _restart_some(starts, rows, seed, episode, mask, options)
    leaves, index = starts.draw(seed, episode, options)
    fresh = Rows(
        leaves if index is None else [leaf[index] for leaf in leaves],
        torch.zeros_like(rows.elapsed),
        episode,
        seed,
        torch.zeros_like(rows.returns),
        torch.zeros_like(rows.pending),
    )
    return fresh if mask is None else fresh.where(mask, rows)


def _restart_some(
    starts: Starts, rows: Rows, seed: Tensor, episode: Tensor, mask: Tensor, options: Mapping[str, Any] | None
) -> Rows:
    """`rows` with the episodes `episode` of `seed` in the rows of `mask`, all ``(B,)`` in host memory."""
    which = mask.nonzero()[:, 0]
    if which.numel() == 0:
        return rows
    fresh, index = draw_some(starts, which, seed[which], episode[which], options)
    places = which.tolist()
    return Rows(
        [with_starts(leaf, start, places, index) for leaf, start in zip(rows.leaves, fresh, strict=True)],
        rows.elapsed.index_fill(0, which, 0),
        torch.where(mask, episode, rows.episode),
        rows.seed if seed is rows.seed else torch.where(mask, seed, rows.seed),
        rows.returns.index_fill(0, which, 0),
        rows.pending & ~mask,
    )


def draw_some(
    starts: Starts, which: Tensor, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None
) -> tuple[list[Tensor], list[int] | None]:
    """`Starts.draw` for the rows `which` of more; all ``(k,)``, in host memory."""
    starts = starts.of(which) if isinstance(starts, GivenStarts) else starts
    fresh, index = starts.draw(seed, episode, options)
    return fresh, None if index is None else index.tolist()


def with_starts(leaf: Tensor, fresh: Tensor | np.ndarray, rows: list[int], index: list[int] | None) -> Tensor:
    """`leaf` ``(B, ...)`` with ``fresh[index]`` in its rows `rows`; `index` None takes all of `fresh`.

    No gradient goes through an array, nor may `leaf` require one then.
    """
    if isinstance(fresh, Tensor):
        taken = fresh if index is None else fresh[torch.as_tensor(index, device=fresh.device)]
        return leaf.index_copy(0, torch.as_tensor(rows, device=leaf.device), taken)
    after = leaf.numpy().copy()
    if index is None or len(rows) > ONE_BY_ONE:
        after[rows] = fresh if index is None else fresh[index]
    else:
        for row, place in zip(rows, index, strict=True):
            after[row] = fresh[place]
    return torch.from_numpy(after)


def _array(leaf: Tensor) -> Tensor | np.ndarray:
    """A leaf as NumPy has it, or itself: where it is on a device, no plain tensor, or of a dtype that NumPy lacks."""
    plain = leaf.device.type == "cpu" and type(leaf) is Tensor and leaf.dtype is not torch.bfloat16
    return leaf.detach().numpy() if plain else leaf
