"""Small environments whose chances are known exactly, to hold imagined ones against.

All observe one number and take one of two actions, which push it up or down. Importing this module registers them:
``gym.make("tests.stochastic_envs:wm_vec_tests/Hazard-v0")``.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

HAZARD, COIN = 1 / 200, 0.3
MODE, SPREAD = 0.1, 0.01
"""Bimodal noise lies around plus or minus `MODE`, with this standard deviation; its own is .1005."""


class PushedNumber(gym.Env):
    """``x' = decay x +- push + noise``; subclasses say what is random, paid and final."""

    observation_space = gym.spaces.Box(-5.0, 5.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    decay, push, noise, start = 0.9, 0.1, 0.05, 0.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-self.start, self.start))
        return self.observation(), {}

    def step(self, action: int):
        before, self.x = self.x, self.mean(self.x, action) + self.draw()
        return self.observation(), self.reward(before), self.ends(), False, {}

    def observation(self) -> np.ndarray:
        return np.array([self.x], np.float32)

    @classmethod
    def mean(cls, x: Any, action: Any) -> Any:
        return cls.decay * x + cls.push * (2 * action - 1)

    def draw(self) -> float:
        return float(self.noise * self.np_random.normal())

    def reward(self, before: float) -> float:
        return 1.0

    def ends(self) -> bool:
        return False


class Hazard(PushedNumber):
    """Ends by chance alone, once in 200 steps."""

    def ends(self) -> bool:
        return bool(self.np_random.random() < HAZARD)


class Bimodal(PushedNumber):
    """The noise has two modes and nothing between them."""

    decay, push = 0.5, 0.2

    def draw(self) -> float:
        return float(self.np_random.choice((-MODE, MODE)) + SPREAD * self.np_random.normal())


class CoinReward(PushedNumber):
    """Pays 1 with a chance of .3 where x was above 0, else nothing."""

    noise = 0.2

    def reward(self, before: float) -> float:
        return float(before > 0 and self.np_random.random() < COIN)


class RareEnd(PushedNumber):
    """Ends where x has come above .9, about once in 570 steps of random actions; that pays 1."""

    decay, noise = 0.97, 0.02

    def ends(self) -> bool:
        return self.x > 0.9

    def reward(self, before: float) -> float:
        return float(self.ends())


for made, horizon in ((Hazard, 1000), (Bimodal, 100), (CoinReward, 100), (RareEnd, 200)):
    gym.register(f"wm_vec_tests/{made.__name__}-v0", made, max_episode_steps=horizon)
