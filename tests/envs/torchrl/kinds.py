"""Every kind of world that a TorchRL environment can be made of, for the tests that hold all of them to one contract.

A new kind is one more line in `KINDS`. Worlds are made anew at every call: some carry a generator of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict

from tests.adapters.torchrl_worlds import BELIEF, STATE, CartPoleNets, RSSMNets
from tests.envs import makers, models
from wm_vec import WorldModel
from wm_vec.adapters import TorchRLDynamics
from wm_vec.envs import TorchRLEnv, WorldModelVectorEnv

CLASSES = ("discrete", "classes", "cartpole", "worded", "painter", "board", "torchrl heads", "hand")
"""Kinds whose actions can be one-hot."""


@dataclass(frozen=True)
class Kind:
    """A kind of world.

    Attributes:
        name: What tests call it.
        vector: ``vector(num_envs, max_episode_steps=, autoreset_mode=, seed=, exact_rows=)``: the Gymnasium face.
    """

    name: str
    vector: Callable[..., WorldModelVectorEnv]

    def torchrl(self, num_envs: int, *, one_hot=False, expose_state=False, **options) -> TorchRLEnv:
        """The TorchRL face of a world of its own."""
        return self.vector(num_envs, **options).to_torchrl(one_hot=one_hot, expose_state=expose_state)

    def disabled(self, num_envs: int, **options) -> WorldModelVectorEnv:
        """The Gymnasium face that leaves resets to the caller."""
        return self.vector(num_envs, autoreset_mode=AutoresetMode.DISABLED, **options)


# -- a plane to walk on, with every kind of action and observations of several parts -------------------------------

PLANE = Box(-np.inf, np.inf, (2,), np.float32)
SEEN = gym.spaces.Dict(
    {
        "place": PLANE,
        "eye": gym.spaces.Dict({"image": Box(0, 255, (3, 8, 8), np.uint8), "right": Discrete(2)}),
        "cells": MultiDiscrete([4, 5]),
    }
)
ACTIONS = {
    "box": Box(-1.0, 1.0, (2,), np.float32),
    "half bounded": Box(np.array([-1.0, -np.inf], np.float32), np.array([1.0, np.inf], np.float32)),
    "discrete": Discrete(3),
    "classes": MultiDiscrete([3, 4]),
    "switches": MultiBinary(2),
}


def seen(place: torch.Tensor) -> dict:
    """What is seen ``(B, ...)`` of places ``(B, 2)``."""
    image = (place[:, :1, None, None].abs() * 20).clamp(0, 255).expand(-1, 3, 8, 8).to(torch.uint8)
    cells = (place.clamp(0, 1) * torch.tensor([3, 4])).to(torch.int64)
    return {"place": place, "eye": {"image": image, "right": (place[:, 0] > 0).long()}, "cells": cells}


def walk(state, action):
    """The place moves by a tenth of the action's numbers; far out the episode ends."""
    push = action.reshape(state.shape[0], -1).float().clamp(-2, 4).mean(-1, keepdim=True)
    after = state + 0.1 * push + 0.05
    return {
        "state": after,
        "observation": seen(after),
        "reward": after.sum(-1),
        "terminated": after[:, 0] > 0.6,
    }


STARTS = torch.tensor([[0.0, 0.0], [0.3, 0.1], [-0.2, 0.5]])


def plane(kind: str, num_envs: int, **options) -> WorldModelVectorEnv:
    return WorldModelVectorEnv.from_callables(
        walk, SEEN, ACTIONS[kind], num_envs=num_envs, initial_state=STARTS, initial_observation=seen(STARTS), **options
    )


# -- worlds of our own ---------------------------------------------------------------------------------------------


def bundled(env_id: str, num_envs: int, *, dtype=None, **options) -> WorldModelVectorEnv:
    world = makers.bundled(env_id) if dtype is None else WorldModel.bundled(env_id, dtype=dtype)
    return world.to_vector_env(num_envs, **options)


def one_point(obs, action, info):
    return 1.0


def fields_of_cartpole(num_envs: int, **options) -> WorldModelVectorEnv:
    fields = {"obs_fields": ["observation"], "act_fields": ["action"], "reward_fn": one_point}
    return makers.bundled("CartPole-v1").to_vector_env(num_envs, **fields, **options)


# -- other people's ------------------------------------------------------------------------------------------------


class DictGames(models.Games):
    """The board game with a Dict of observations."""

    def see(self, state):
        cells, phase = super().see(state)
        return {"cells": cells, "phase": phase}


BOARD = gym.spaces.Dict(cells=Box(0.0, 1.0, (4,), np.float32), phase=Discrete(3))


def board(num_envs: int, **options) -> WorldModelVectorEnv:
    return WorldModelVectorEnv.from_callables(
        DictGames(),
        BOARD,
        MultiDiscrete([4, 2]),
        num_envs=num_envs,
        bank_size=16,
        **options,
    )


def torchrl_heads(place: str, num_envs: int, **options) -> WorldModelVectorEnv:
    """CartPole's dynamics, reward head and done head of TorchRL modules, untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = CartPoleNets()
    starts = TensorDict({"observation": 0.1 * torch.arange(12.0).view(3, 4) - 0.5}, batch_size=[3])
    seen_by, act = Box(-np.inf, np.inf, (4,), np.float32), Discrete(2)
    dynamics = TorchRLDynamics(
        nets.world(place), seen_by, act, initial_state=starts, one_hot=True, terminated_as="logit"
    )
    return WorldModelVectorEnv.from_dynamics(dynamics, seen_by, act, num_envs=num_envs, **options)


def rssm(noise: bool, num_envs: int, **options) -> WorldModelVectorEnv:
    """Dreamer's state-space model of TorchRL's parts, untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = RSSMNets()
    starts = TensorDict({"state": torch.zeros(2, STATE), "belief": 0.1 * torch.ones(2, BELIEF)}, batch_size=[2])
    seen_by, act = Box(-10, 10, (3,), np.float32), Box(-1, 1, (1,), np.float32)
    dynamics = TorchRLDynamics(
        nets.imagined(noise),
        seen_by,
        act,
        initial_state=starts,
        state_keys=["state", "belief"],
        decoder=nets.decoding(),
        noise={"noise": STATE} if noise else None,
        rng="counter" if noise else "global",
    )
    return WorldModelVectorEnv.from_dynamics(dynamics, seen_by, act, num_envs=num_envs, **options)


KINDS = [
    Kind("cartpole", partial(bundled, "CartPole-v1")),
    Kind("pendulum", partial(bundled, "Pendulum-v1")),
    Kind("float64", partial(bundled, "Pendulum-v1", dtype=torch.float64)),
    Kind("bfloat16", partial(bundled, "Pendulum-v1", dtype=torch.bfloat16)),
    Kind("steered", makers.steered_vector),
    Kind("market", makers.market_vector),
    Kind("worded", fields_of_cartpole),
    Kind("hand", partial(makers.vector_of_parts, "hand")),
    Kind("camera", partial(makers.vector_of_parts, "camera")),
    *[Kind(name, partial(plane, name)) for name in ACTIONS],
    Kind("latent", partial(models.vector_env, "latent")),
    Kind("vmapped", partial(models.vector_env, "vmapped")),
    Kind("painter", partial(models.vector_env, "painter")),
    Kind("board", board),
    Kind("torchrl heads", partial(torchrl_heads, "next")),
    Kind("torchrl heads at the root", partial(torchrl_heads, "root")),
    Kind("rssm", partial(rssm, False)),
    Kind("rssm with our noise", partial(rssm, True)),
]
BY_NAME = {kind.name: kind for kind in KINDS}
