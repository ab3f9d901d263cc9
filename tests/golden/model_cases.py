"""Rollouts of other people's models."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete

import wm_vec
from tests.golden.log import Log, roll_scalar, roll_torchrl, roll_vector
from tests.golden.vector_cases import MODES
from tests.golden.worlds import Latent, Painter, classes, noisy_step, numbers, reset_one
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

CONTINUOUS = Box(-1.0, 1.0, (2,), np.float32)
FLAT = Box(-np.inf, np.inf, (3,), np.float32)
PICTURE = Dict(image=Box(0, 255, (6,), np.uint8), side=Discrete(2))
BATCHINGS = "batched", "vmap"


@wm_vec.batched
def reset_many(model, seeds):
    latent = torch.sin((seeds % 1000)[:, None] * torch.arange(1, 5)).float()
    return latent, model.decode(latent)


def starts(name: str) -> dict[str, Any]:
    several = torch.linspace(-1.0, 1.0, 12).reshape(3, 4)
    return {
        "bank": {"reset_fn": reset_one, "bank_size": 16},
        "state": {"initial_state": several[1]},
        "states": {"initial_state": several},
        "fresh": {"reset_fn": reset_many},
        "rng": {"reset_fn": reset_one, "bank_size": 16, "transition_fn": noisy_step},
        "fresh_rng": {"reset_fn": reset_many, "transition_fn": noisy_step},
    }[name]


STARTS = "bank", "state", "states", "fresh", "rng", "fresh_rng"


def latent(batching: str, name: str, mode: str) -> Log:
    log = Log()
    env = WorldModelVectorEnv.from_callables(
        Latent(),
        FLAT,
        CONTINUOUS,
        num_envs=5,
        batching=batching,
        max_episode_steps=7,
        autoreset_mode=mode,
        **starts(name),
    )
    log.add(start=env.reset(seed=3)[0])
    actions = numbers(24, 5, 2)
    roll_vector(log, env, actions[:14])
    log.add(start=env.reset(seed=[None, 5, None, None, 2**50])[0])
    roll_vector(log, env, actions[14:])
    return log


def judged(batching: str) -> Log:
    """Rewards, terminations and actions by functions of their own."""
    log = Log()
    env = WorldModelVectorEnv.from_callables(
        Latent(),
        FLAT,
        Discrete(3, start=2),
        num_envs=5,
        batching=batching,
        initial_state=torch.linspace(-1.0, 1.0, 12).reshape(3, 4),
        transition_fn=lambda model, state, action: {"state": 0.9 * state + action, "observation": model.decode(state)},
        reward_fn=lambda model, state, observation, action: observation.sum(-1) + state[..., 0],
        terminal_fn=lambda state: state[..., 1].abs() > 1.5,
        action_transform_fn=lambda action: 0.3 * (torch.as_tensor(action)[..., None].float() - 3),
        max_episode_steps=9,
    )
    log.add(start=env.reset(seed=3)[0])
    roll_vector(log, env, 2 + classes(20, 5, 3))
    return log


def painter(batching: str, mode: str) -> Log:
    log = Log()
    env = WorldModelVectorEnv.from_callables(
        Painter(),
        PICTURE,
        Discrete(3, start=3),
        num_envs=4,
        batching=batching,
        max_episode_steps=5,
        bank_size=16,
        autoreset_mode=mode,
    )
    log.add(start=env.reset(seed=3)[0])
    roll_vector(log, env, 3 + classes(14, 4, 3))
    return log


def forked(name: str) -> Log:
    log, actions = Log(), numbers(20, 5, 2)
    env = WorldModelVectorEnv.from_callables(
        Latent(), FLAT, CONTINUOUS, num_envs=5, max_episode_steps=7, **starts(name)
    )
    log.add(start=env.reset(seed=3)[0])
    roll_vector(log, env, actions[:9])
    same, fresh, saved = env.fork([4, 0, 0, 1, 2], rng="same"), env.fork([4, 0, 0, 1, 2]), env.state()
    roll_vector(log, env, actions[9:])
    roll_vector(log, same, actions[9:], "same.")
    roll_vector(log, fresh, actions[9:], "fresh.")
    log.add(start=env.set_state(saved))
    roll_vector(log, env, actions[9:14], "restored.")
    return log


def scalar(batching: str, name: str) -> Log:
    log, actions = Log(), numbers(30, 1, 2)[:, 0]
    env = WorldModelEnv(Latent(), FLAT, CONTINUOUS, batching=batching, max_episode_steps=7, **starts(name))
    log.add(start=env.reset(seed=3)[0])
    roll_scalar(log, env, actions[:16])
    log.add(start=env.reset(seed=2**33)[0])
    roll_scalar(log, env, actions[16:])
    return log


def torchrl(name: str) -> Log:
    log = Log()
    env = WorldModelVectorEnv.from_callables(
        Latent(), FLAT, CONTINUOUS, num_envs=5, max_episode_steps=7, **starts(name)
    ).to_torchrl()
    env.set_seed(3)
    td = env.reset()
    log.add(start=td["observation"])
    roll_torchrl(log, env, td, numbers(20, 5, 2))
    return log


CASES = {
    **{
        f"latent/{batching}/{name}/{mode}": partial(latent, batching, name, mode)
        for batching in BATCHINGS
        for name in STARTS
        for mode in MODES
    },
    **{f"judged/{batching}": partial(judged, batching) for batching in BATCHINGS},
    **{f"painter/{batching}/{mode}": partial(painter, batching, mode) for batching in BATCHINGS for mode in MODES},
    **{f"model_forked/{name}": partial(forked, name) for name in ("rng", "fresh_rng")},
    **{f"model_scalar/{b}/{name}": partial(scalar, b, name) for b in BATCHINGS for name in STARTS},
    **{f"model_torchrl/{name}": partial(torchrl, name) for name in ("rng", "fresh")},
}
