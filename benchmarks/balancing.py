"""A policy that keeps InvertedPendulum-v5 upright."""

from __future__ import annotations

import numpy as np


class Balancing:
    """Linear feedback that keeps InvertedPendulum-v5 upright, with noise; random actions let it fall within 6 steps."""

    GAIN, NOISE = np.array([1.0, 20.0, 2.0, 4.0]), 0.5

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Forces ``(num_envs, 1)`` for observations ``(num_envs, 4)``."""
        return (observation @ self.GAIN)[:, None] + self.rng.normal(0.0, self.NOISE, (len(observation), 1))
