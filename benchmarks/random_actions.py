"""Policies that look at nothing, and one that balances."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from wm_vec.core.rng import spawn_seeds

REPEAT = 0.8


class RandomActions:  # to be replaced by the class of this name in wm_vec.train.collect
    """A policy of random actions; sticky envs repeat their last one with probability `REPEAT`.

    Args:
        action_space: One env's actions.
        num_envs: Envs; what each does depends on its own seed alone.
        seed: Seeds them.
        sticky: None makes every second env sticky, ``"sticky"`` all, ``"random"`` none.
    """

    def __init__(
        self, action_space: gym.Space, num_envs: int, seed: int, sticky: Literal["random", "sticky"] | None
    ) -> None:
        self._spaces = [deepcopy(action_space) for _ in range(num_envs)]
        for space, own in zip(self._spaces, spawn_seeds(seed, num_envs), strict=True):
            space.seed(own)
        self._repeat = [REPEAT * (sticky == "sticky" or (sticky is None and i % 2)) for i in range(num_envs)]
        self._last: list[Any] = [None] * num_envs

    def __call__(self, observation: Any) -> np.ndarray:
        """Actions ``(num_envs, ...)``, whatever is observed."""
        self._last = [
            space.sample() if last is None or space.np_random.random() >= repeat else last
            for space, repeat, last in zip(self._spaces, self._repeat, self._last, strict=True)
        ]
        return np.stack(self._last)


class Balancing:
    """Linear feedback that keeps InvertedPendulum-v5 upright, with noise; random actions let it fall within 6 steps."""

    GAIN, NOISE = np.array([1.0, 20.0, 2.0, 4.0]), 0.5

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Forces ``(num_envs, 1)`` for observations ``(num_envs, 4)``."""
        return (observation @ self.GAIN)[:, None] + self.rng.normal(0.0, self.NOISE, (len(observation), 1))
