"""Random numbers that depend on an env's own seed, episode and step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wm_kernels import philox_normal, philox_words
from wm_vec.plain import whole_number

STREAM_NOISE, STREAM_RESET, STREAM_FORK, STREAM_ACTION, STREAM_BANK = range(5)
"""What numbers are for; streams never share any."""


class CounterRNG:
    """Philox4x32-10 with one key per env: its 64-bit seed. The counter is (step, episode, block, stream).

    Args:
        seed, episode, step: ``(B,)`` int64.
    """

    def __init__(self, seed: Tensor, episode: Tensor, step: Tensor) -> None:
        self.seed, self.episode, self.step = seed, episode, step

    @classmethod
    def from_seeds(cls, seeds: Tensor) -> CounterRNG:
        """Streams at episode 0, step 0 of the given ``(B,)`` int64 seeds."""
        zeros = torch.zeros_like(seeds)
        return cls(seeds, zeros, zeros)

    def normal(self, num_normals: int, stream: int = STREAM_NOISE, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(B, num_normals)`` standard normals, drawn in float32."""
        return philox_normal(self.seed, self.episode, self.step, num_normals, stream).to(dtype)

    def words(self, num_words: int, stream: int) -> Tensor:
        """``(B, num_words)`` int64 in ``[0, 2^32)``."""
        return philox_words(self.seed, self.episode, self.step, num_words, stream)

    def integers(self, num_integers: int, high: int | Tensor, stream: int) -> Tensor:
        """``(B, num_integers)`` int64 in ``[0, high)``, `high` up to 2^31; broadcasts where it is a tensor."""
        return (self.words(num_integers, stream) * high) >> 32

    def uniform(self, num_uniforms: int, stream: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(B, num_uniforms)`` in [0, 1), multiples of 2^-24."""
        return (self.words(num_uniforms, stream) >> 8).to(dtype) * 2.0**-24

    def word64(self, stream: int) -> Tensor:
        """``(B,)`` int64 with 63 random bits, never negative: fit to be seeds."""
        words = self.words(2, stream)
        return (words[:, 0] << 31) ^ words[:, 1]


def fork_seeds(parents: CounterRNG, fork: int) -> Tensor:
    """Seeds ``(B,)`` int64 under which forks go on, unrelated to their parents' and to each other's.

    Args:
        parents: The parents' counters, one env per fork; the same parent any number of times.
        fork: Another number gives other seeds to the same forks of the same parents.
    """
    place = torch.arange(parents.seed.shape[0], device=parents.seed.device)
    own = CounterRNG(parents.word64(STREAM_FORK), torch.full_like(place, fork), place)
    return own.word64(STREAM_FORK)


def spawn_seeds(root: int | None, num_seeds: int) -> list[int]:
    """Unrelated seeds in ``[0, 2^63)`` for several runs, from NumPy's SeedSequence.

    Args:
        root: Any whole number; None takes entropy from the operating system.
        num_seeds: How many.
    """
    if root is not None:
        whole_number(root, "spawn_seeds: root", 0, 2**256)
    whole_number(num_seeds, "spawn_seeds: num_seeds", 0)
    words = np.random.SeedSequence(root).generate_state(num_seeds, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]


def seed_list(seed: int | Sequence[int | None] | Tensor | np.ndarray, num_envs: int) -> list[int | None]:
    """One seed per env: an int s gives ``s + i``, a sequence one each, None keeping that env's own.

    Raises:
        ValueError: Wrong length, or a seed outside ``[0, 2^63)``.
        TypeError: A seed that is no whole number.
    """
    if isinstance(seed, (Tensor, np.ndarray)):
        seed = seed.tolist()
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        seeds: list[int | None] = [int(seed) + i for i in range(num_envs)]
    elif isinstance(seed, Sequence) and not isinstance(seed, str):
        for s in seed:
            if s is not None and (isinstance(s, bool) or not isinstance(s, (int, np.integer))):
                raise TypeError(f"seed: each must be a whole number or None, got {s!r} ({type(s).__name__}).")
        seeds = [None if s is None else int(s) for s in seed]
    else:
        raise TypeError(f"seed must be an int or a sequence of {num_envs} ints, got {type(seed).__name__}.")
    if len(seeds) != num_envs:
        raise ValueError(f"seed: {num_envs} envs need {num_envs} seeds, got {len(seeds)}.")
    for s in seeds:
        if s is not None and not 0 <= s < 2**63:
            raise ValueError(f"seed: seeds must lie in [0, 2^63), got {s}.")
    return seeds
