"""A dynamics small enough to compute by hand."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from wm_vec.core import ActionSpec, Engine, Perspective, Transition

BOX = ActionSpec("box", (1,), (-1.0,), (1.0,))


class Walk:
    """Two numbers moved by the action and some noise; the reward is the first, above 2 the episode ends."""

    rng = "counter"
    device = torch.device("cpu")

    def __init__(self, noise=0.1, dtype=torch.float32, truncates=False):
        self.noise, self.dtype, self.truncates = noise, dtype, truncates
        self.calls = 0

    def initial_state(self, rng, num_envs):
        return TensorDict({"x": rng.normal(2, dtype=self.dtype) * 0.1}, batch_size=[num_envs])

    def observe(self, state):
        return state["x"]

    def step(self, state, action, rng):
        self.calls += 1
        x = 0.9 * state["x"] + action.sum(-1, keepdim=True) + self.noise * rng.normal(2, dtype=self.dtype)
        return Transition(
            TensorDict({"x": x}, batch_size=x.shape[:1]),
            x,
            reward=x[:, 0],
            terminated=x[:, 0] > 2,
            truncated=x[:, 0] < -2 if self.truncates else None,
            info={"speed": x.abs().sum(-1)},
        )


def bank_of(*rows, dtype=torch.float32):
    """Initial states from rows of two numbers."""
    return TensorDict({"x": torch.tensor(rows, dtype=dtype)}, batch_size=[len(rows)])


def walk_engine(num_envs=4, perspectives=None, dynamics=None, **options):
    """An engine over a `Walk`, with one perspective that sees everything."""
    return Engine(dynamics or Walk(), num_envs, perspectives or [Perspective(BOX)], **options)


def constant(engine, value=0.1):
    """The same action for every env."""
    return torch.full((engine.num_envs, 1), value)
