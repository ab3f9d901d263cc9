"""An environment on tensors that can be counted by hand, with observations of every kind."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Counting(VectorEnv):
    """Env i counts its steps; its episodes last i + 2 of them: env 0's end in both ways at once, those of even i by
    themselves, the others at the horizon. Rewards are the actions.
    """

    def __init__(self, num_envs, space, observe, mode=AutoresetMode.SAME_STEP, final=True, actions=None):
        self.num_envs, self.observe, self.final = num_envs, observe, final
        self.single_observation_space = space
        self.single_action_space = actions or spaces.Discrete(3)
        self.observation_space = batch_space(space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": mode}
        self.index = torch.arange(num_envs)

    def reset(self, *, seed=None, options=None):
        self.options = options
        self.count = torch.zeros_like(self.index)
        return self.observe(self.index, self.count), {}

    def step(self, actions):
        self.taken, self.count = actions, self.count + 1
        over = self.count == self.index + 2
        last = self.observe(self.index, self.count)
        self.count = torch.where(over, 0, self.count)
        ends, stops = over & (self.index % 2 == 0), over & ((self.index % 2 == 1) | (self.index == 0))
        reward = actions.to(torch.float64).reshape(self.num_envs, -1)[:, 0]
        info = {"final_obs": last} if self.final else {}
        return self.observe(self.index, self.count), reward, ends, stops, info


def image(index, count):
    return (10 * index + count).to(torch.uint8)[:, None, None, None].repeat(1, 3, 4, 4)


IMAGE = spaces.Box(0, 255, (3, 4, 4), np.uint8)
KINDS = {
    "classes": (spaces.Discrete(9), lambda i, n: n),
    "several classes": (spaces.MultiDiscrete([9, 9]), lambda i, n: torch.stack([i, n], 1)),
    "bits": (spaces.MultiBinary(2), lambda i, n: torch.stack([n % 2, n // 2 % 2], 1)),
    "image": (IMAGE, image),
    # Half precision in the model, single in the space.
    "numbers": (spaces.Box(0, 9, (1,), np.float32), lambda i, n: n[:, None].to(torch.bfloat16)),
    "dict": (
        spaces.Dict({"firm.revenue": spaces.Box(0, 99, (1,), np.float64), "image": IMAGE, "mode": spaces.Discrete(9)}),
        lambda i, n: {"firm.revenue": (i + n)[:, None].double(), "image": image(i, n), "mode": n},
    ),
}


def expected_observation(kind, i, n):
    """Env i's observation after n steps of an episode, written by hand."""
    picture = np.full((3, 4, 4), 10 * i + n, np.uint8)
    return {
        "classes": np.int64(n),
        "several classes": np.array([i, n]),
        "bits": np.array([n & 1, n >> 1 & 1], np.int8),
        "image": picture,
        "numbers": np.array([n], np.float32),
        "dict": {"firm_revenue": np.array([i + n], np.float64), "image": picture, "mode": np.int64(n)},
    }[kind]


def actions_for(venv, num_steps, seed=0):
    """One random action ``(B, ...)`` for a `VecEnv` at each step."""
    venv.action_space.seed(seed)
    return [np.stack([venv.action_space.sample() for _ in range(venv.num_envs)]) for _ in range(num_steps)]
