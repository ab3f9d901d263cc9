"""Every kind of environment that we make, for the tests that hold all of them to Gymnasium's contracts.

A new kind is one more line in `MAKERS`. Its functions are partials of a module's functions, so that worker processes
that are spawned can import them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv

from tests.envs import models
from wm_vec import ModelConfig, WorldModel, compile_schema
from wm_vec.canvas import EnvSignature, Field


@dataclass(frozen=True)
class Maker:
    """A kind of environment.

    Attributes:
        name: What tests call it.
        scalar: ``scalar(render_mode=None, seed=None)``: the bare scalar view, without a time limit of its own.
        vector: ``vector(num_envs, max_episode_steps=, autoreset_mode=, render_mode=None)``: the vector environment.
        kinds: Keys of `tests.envs.test_check_env.UNAVOIDABLE`: why checkers warn of its spaces.
    """

    name: str
    scalar: Callable[..., gym.Env]
    vector: Callable[..., VectorEnv]
    kinds: tuple[str, ...] = ()


_WORLDS: dict[str, WorldModel] = {}


def bundled(env_id: str) -> WorldModel:
    """A bundled world, loaded once in a process."""
    if env_id not in _WORLDS:
        _WORLDS[env_id] = WorldModel.bundled(env_id)
    return _WORLDS[env_id]


def bundled_scalar(env_id: str, **options) -> gym.Env:
    return bundled(env_id).to_env(**options)


def bundled_vector(env_id: str, num_envs: int, **options) -> VectorEnv:
    return bundled(env_id).to_vector_env(num_envs, **options)


def swing(obs, action, info, last):
    """A reward that carries the last observed height through the episode."""
    height = obs["observation"][0]
    return height - last + 0.1 * action.sum(), height


def upright(obs, step, info):
    return obs["observation"][0] > 0.95


def steered_options(**options) -> dict:
    """Named fields of the Pendulum world, with rewards and terminations of the user's."""
    return {
        "obs_fields": ["observation"],
        "act_fields": ["action"],
        "act_low": -1.0,
        "act_high": 1.0,
        "reward_fn": swing,
        "reward_state": torch.tensor(0.0),
        "terminated_fn": upright,
        **options,
    }


def steered_scalar(**options) -> gym.Env:
    return bundled("Pendulum-v1").to_env(**steered_options(**options))


def steered_vector(num_envs: int, **options) -> VectorEnv:
    return bundled("Pendulum-v1").to_vector_env(num_envs, **steered_options(**options))


def mean_price(obs, action, info):
    return obs["market.price"].mean()


def market() -> WorldModel:
    """An untrained world of named fields, observed without bounds."""
    if "market" not in _WORLDS:
        schema = compile_schema({"market": {"price": Field(1, 2), "mood": Field(num_classes=3)}}, d_model=32)
        world = WorldModel(schema, config=ModelConfig(num_blocks=1))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This world is untrained")
            world.predict()  # it warns once
        _WORLDS["market"] = world
    return _WORLDS["market"]


MARKET = {"obs_fields": ["market.price", "market.mood"], "act_fields": ["market.mood"], "reward_fn": mean_price}


def market_scalar(**options) -> gym.Env:
    return market().to_env(**MARKET, **options)


def market_vector(num_envs: int, **options) -> VectorEnv:
    return market().to_vector_env(num_envs, **MARKET, **options)


HAND = Tuple((Box(-1.0, 1.0, (2,), np.float32), MultiDiscrete([3, 5]), MultiBinary(2), Discrete(4)))
CAMERA = Dict(eye=Dict(image=Box(0, 255, (2, 2), np.uint8), lids=MultiBinary(2)), place=Tuple((Discrete(3), HAND[0])))


def of_parts(name: str) -> WorldModel:
    """An untrained world of an environment with observations of several parts: ``"hand"`` or ``"camera"``."""
    if name not in _WORLDS:
        space, actions = {"hand": (HAND, MultiDiscrete([2, 3])), "camera": (CAMERA, MultiBinary(2))}[name]
        world = WorldModel.from_signature(EnvSignature(space, actions), config=ModelConfig(num_blocks=1))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This world is untrained")
            world.predict()  # it warns once
        _WORLDS[name] = world
    return _WORLDS[name]


def never(obs, step, info):
    return step < 0


def scalar_of_parts(name: str, **options) -> gym.Env:
    return of_parts(name).to_env(terminated_fn=never, **options)


def vector_of_parts(name: str, num_envs: int, **options) -> VectorEnv:
    return of_parts(name).to_vector_env(num_envs, terminated_fn=never, **options)


MAKERS = [
    Maker(
        "cartpole",
        partial(bundled_scalar, "CartPole-v1"),
        partial(bundled_vector, "CartPole-v1"),
        ("observation without a lower bound", "observation without an upper bound"),
    ),
    Maker(
        "pendulum",
        partial(bundled_scalar, "Pendulum-v1"),
        partial(bundled_vector, "Pendulum-v1"),
        ("actions beyond -1 and 1",),
    ),
    Maker("steered", steered_scalar, steered_vector),
    Maker(
        "market",
        market_scalar,
        market_vector,
        ("observation without a lower bound", "observation without an upper bound"),
    ),
    Maker("hand", partial(scalar_of_parts, "hand"), partial(vector_of_parts, "hand"), ("Tuple observations",)),
    Maker(
        "latent",
        partial(models.scalar_env, "latent"),
        partial(models.vector_env, "latent"),
        ("observation without a lower bound", "observation without an upper bound"),
    ),
    Maker(
        "vmapped",
        partial(models.scalar_env, "vmapped"),
        partial(models.vector_env, "vmapped"),
        ("observation without a lower bound", "observation without an upper bound"),
    ),
    Maker("painter", partial(models.scalar_env, "painter"), partial(models.vector_env, "painter")),
    Maker("game", partial(models.scalar_env, "game"), partial(models.vector_env, "game"), ("Tuple observations",)),
]
BY_NAME = {maker.name: maker for maker in MAKERS}


# -- rolling them out ---------------------------------------------------------------------------------------------


def same(one, other) -> bool:
    """Equal structures of equal arrays, bit by bit, by Gymnasium's own comparison."""
    return data_equivalence(one, other, exact=True)


def as_numpy(value):
    """A structure of tensors as one of arrays."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: as_numpy(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(as_numpy(part) for part in value)
    return value


def sampled_actions(env: gym.Env | VectorEnv, num_steps: int, seed: int = 0) -> list:
    """Actions from a copy of the environment's space, so that the environment itself is left alone."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(num_steps)]


def roll(env: gym.Env, actions: list) -> list[tuple]:
    """Every step's observation, reward and flags, and the observations of resets where an episode ends."""
    taken: list[tuple] = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        taken.append((observation, reward, terminated, truncated))
        if terminated or truncated:
            taken.append((env.reset()[0],))
    return copy.deepcopy(taken)


def roll_vector(env: VectorEnv, actions: list) -> list[tuple]:
    """Every step's observation, reward and flags as arrays; masked resets under DISABLED."""
    taken: list[tuple] = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(torch.as_tensor(action))
        taken.append((observation, reward, terminated, truncated))
        ended = terminated | truncated
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            taken.append((env.reset(options={"reset_mask": ended})[0],))
    return copy.deepcopy(as_numpy(taken))
