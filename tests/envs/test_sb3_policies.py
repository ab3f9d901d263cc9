"""Policies for Dict observations and for images learn in environments that adapters make of somebody's model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch import nn

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from wm_vec.envs import SB3VecEnv, WorldModelEnv, WorldModelVectorEnv

pytestmark = pytest.mark.long

HORIZON = 16


class Reach(nn.Module):
    """A point on a line that is pushed left or right, or not, and paid for being near a target.

    Its states are ``(..., 2)``: place and target.
    """

    actions = Discrete(3)

    def __init__(self, keys=("place", "target")):
        super().__init__()
        self.keys = keys
        self.push = nn.Parameter(torch.tensor([-0.2, 0.0, 0.2]))
        self.space = Dict({key: Box(-1, 1, (1,)) for key in keys})

    def step(self, state, action):
        place = (state[..., 0] + self.push[action]).clamp(-1, 1)
        state = torch.stack([place, state[..., 1]], -1)
        return state, self.see(state), -(place - state[..., 1]).abs()

    def reset(self, seed=None):
        state = 2 * torch.rand(2, generator=torch.Generator().manual_seed(int(seed))) - 1
        return state, self.see(state)

    def see(self, state):
        return {key: state[..., i : i + 1] for i, key in enumerate(self.keys)}


class Lamps(nn.Module):
    """Pictures of two lamps, one of which is lit; pays 1 for naming it. Its states are numbers."""

    actions = Discrete(2)
    space = Box(0, 255, (3, 36, 36), np.uint8)

    def __init__(self):
        super().__init__()
        pictures = torch.zeros(2, 3, 36, 36, dtype=torch.uint8)
        pictures[0, :, 4:32, 2:16] = pictures[1, :, 4:32, 20:34] = 255
        self.register_buffer("pictures", pictures)

    def side(self, state):
        return (state >> 16) & 1

    def step(self, state, action):
        reward = (action == self.side(state)).float()
        state = (state * 1103515245 + 12345) % 2**31
        return state, self.pictures[self.side(state)], reward

    def reset(self, seed=None):
        state = torch.tensor((int(seed) * 2654435761) % 2**31)
        return state, self.pictures[self.side(state)]


def scalar(model):
    return Monitor(WorldModelEnv(model, model.space, model.actions, max_episode_steps=HORIZON))


def many(model, num_envs):
    return SB3VecEnv(
        WorldModelVectorEnv.from_callables(
            model, model.space, model.actions, num_envs=num_envs, batching="batched", max_episode_steps=HORIZON
        )
    )


def mean_return(model, env, deterministic=True):
    env = env if hasattr(env, "num_envs") else DummyVecEnv([lambda: env])
    env.seed(1234)
    return evaluate_policy(model, env, n_eval_episodes=32, deterministic=deterministic)[0]


def learn(policy, env, steps, **options):
    """Mean returns of the untrained policy as it explores, and of the trained one."""
    model = PPO(policy, env, learning_rate=1e-3, gamma=0.9, seed=0, device="cpu", **options)
    before = mean_return(model, env, deterministic=False)
    model.learn(steps)
    return before, mean_return(model, env)


def reach_bounds():
    """What chance and the best policy get, from 2,000 starts by plain NumPy."""
    rng = np.random.default_rng(0)
    place, target = rng.uniform(-1, 1, (2, 2000))
    walk, best, by_chance, at_best = place.copy(), place.copy(), 0.0, 0.0
    for _ in range(HORIZON):
        walk = np.clip(walk + rng.choice([-0.2, 0, 0.2], 2000), -1, 1)
        options = np.clip(best + np.array([[-0.2], [0], [0.2]]), -1, 1)
        best = np.take_along_axis(options, np.abs(options - target).argmin(0)[None], 0)[0]
        by_chance, at_best = by_chance - np.abs(walk - target), at_best - np.abs(best - target)
    return by_chance.mean(), at_best.mean()


@pytest.mark.parametrize("num_envs", [1, 32])
def test_multi_input_policy_on_dict_observations(num_envs):
    """It has to use both keys; with many envs their names have dots."""
    if num_envs == 1:
        env = scalar(Reach())
        check_env(env, skip_render_check=True)
        before, after = learn("MultiInputPolicy", env, 3072, n_steps=256)
    else:
        env = many(Reach(("point.place", "point.target")), num_envs)
        before, after = learn("MultiInputPolicy", env, 8192, n_steps=16)
        assert set(env.observation_space.spaces) == {"point_place", "point_target"}
    by_chance, at_best = reach_bounds()
    assert before < by_chance + 0.35 * (at_best - by_chance)
    assert after > by_chance + 0.8 * (at_best - by_chance), f"from {before} to {after}, between {by_chance}, {at_best}"


@pytest.mark.parametrize("num_envs", [1, 32])
def test_cnn_policy_on_images(num_envs):
    """Chance gets half of the steps right."""
    options = {"n_epochs": 4, "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 64}}}
    if num_envs == 1:
        env = scalar(Lamps())
        check_env(env, skip_render_check=True)
        before, after = learn("CnnPolicy", env, 2048, n_steps=256, **options)
    else:
        env = many(Lamps(), num_envs)
        before, after = learn("CnnPolicy", env, 2048, n_steps=16, **options)
    assert before < 0.65 * HORIZON
    assert after > 0.95 * HORIZON, f"from {before} to {after}"
