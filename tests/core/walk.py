"""A dynamics small enough to compute by hand, and what tests of the core do to engines of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.core import ActionSpec, Dynamics, Engine, EngineConfig, EnvState, Perspective, Transition, step

BOX = ActionSpec("box", (1,), (-1.0,), (1.0,))


class Walk(Dynamics):
    """Two numbers moved by the action and some noise; the reward is the first, above 2 the episode ends."""

    device = torch.device("cpu")
    dtype = torch.float32

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


def bank_of(*envs, dtype=torch.float32):
    """Initial states from pairs of numbers."""
    return TensorDict({"x": torch.tensor(envs, dtype=dtype)}, batch_size=[len(envs)])


def walk_engine(num_envs=4, perspectives=None, dynamics=None, *, bank=None, family=None, **config):
    """An engine over a `Walk`, with one perspective that sees everything."""
    perspectives = [Perspective(BOX)] if perspectives is None else perspectives
    return Engine(dynamics or Walk(), num_envs, perspectives, EngineConfig(**config), bank=bank, family=family)


def started(*args, seed=0, **options):
    """A `walk_engine` after its first reset."""
    engine = walk_engine(*args, **options)
    engine.reset(seed=seed)
    return engine


def constant(engine, value=0.1):
    """The same action for every env."""
    return torch.full((engine.num_envs, 1), value)


def seen(observations):
    """What the only perspective sees."""
    (observation,) = observations.values()
    return observation


def stepped(engine, state, action, mode=None):
    """The step of any state as a pure function: the state after it, and what happened."""
    actions = engine.world.actions.check(action, state.seed.shape[0])
    return step(engine.world, state, actions, mode)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor of nested results and states, in order; no copies."""
    if isinstance(value, (Tensor, np.ndarray)):
        yield torch.as_tensor(value)
    elif isinstance(value, (EnvState, TensorDictBase)):
        yield from (tensor for _, tensor in sorted(value.items(True, True), key=lambda item: str(item[0])))
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_of(part)
