"""Worlds whose best actions are known."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict

from wm_vec.core import Dynamics, Transition
from wm_vec.envs import TorchRLEnv


def numbers(size):
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


class World(Dynamics):
    """States ``x`` ``(B, n)`` that are their own observations.

    Args:
        move: ``(x, action, noise (B, 1)) -> (x, reward, terminated)``.
        start: ``noise (B, n) -> x``.
        size: n.
    """

    rng = "counter"
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, move: Callable, start: Callable = lambda noise: noise, size: int = 1, device: str = "cpu"):
        self.move, self.start, self.size, self.device = move, start, size, torch.device(device)

    def initial_state(self, rng, num_envs):
        return TensorDict({"x": self.start(rng.normal(self.size))}, batch_size=[num_envs])

    def observe(self, state):
        return state["x"]

    def step(self, state, action, rng):
        x, reward, terminated = self.move(state["x"], action, rng.normal(1))
        return Transition(TensorDict({"x": x}, batch_size=x.shape[:1]), x, reward, terminated)


def env_of(world, action_space, num_envs=1, **options) -> TorchRLEnv:
    options = {"seed": 0, "expose_state": True, **options}
    return TorchRLEnv.from_dynamics(world, numbers(world.size), action_space, num_envs=num_envs, **options)


def gambler(x, action, noise):
    """Pays the action times the noise of this very step: nothing on average, unless one knows the noise beforehand."""
    return noise, action[:, 0] * noise[:, 0], None


def aim(x, action, noise):
    """Pays the nearness of the action to the state, which stays as it is."""
    return x, -(action - x).square().sum(-1), None


def trap(x, action, noise):
    """Staying earns 1 a step; above 1 the episode is over, and every step after its end would earn 100."""
    earned = torch.where(x[:, 0] > 1, 100.0, 1.0) - 0.5 * action[:, 0].square()
    x = x + action
    return x, earned, x[:, 0] > 1
