"""One name for environments of models, of saved worlds, and ordinary ones."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_vec
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv, make_world_model_env

BOX = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
PUSH = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def halve(state, action):
    """Halves the state and adds the action; the reward is the first number."""
    after = 0.5 * state + action
    return after, after, after[..., 0]


START = torch.tensor([4.0, 2.0])


@pytest.mark.parametrize("backend", ["world-model", "world_model", "model", "wm"])
def test_a_model_under_every_name_of_the_backend(backend):
    env = wm_vec.make_env(halve, backend=backend, observation_space=BOX, action_space=PUSH, initial_state=START)
    assert isinstance(env, WorldModelEnv)
    env.reset(seed=0)
    observation, reward, *_ = env.step(np.array([1.0], np.float32))
    np.testing.assert_array_equal(observation, [3.0, 2.0])
    assert reward == 3.0


def test_num_envs_gives_the_vector_env():
    for env in (
        wm_vec.make_env(halve, observation_space=BOX, action_space=PUSH, initial_state=START, num_envs=3),
        make_world_model_env(halve, BOX, PUSH, initial_state=START, num_envs=3),
    ):
        assert isinstance(env, WorldModelVectorEnv)
        env.reset(seed=0)
        observation, reward, *_ = env.step(torch.tensor([[1.0], [0.0], [-1.0]]))
        assert observation.tolist() == [[3.0, 2.0], [2.0, 1.0], [1.0, 0.0]]
        assert reward.tolist() == [3.0, 2.0, 1.0]


def test_worlds_by_name_by_path_and_by_themselves(cartpole, tmp_path):
    path = tmp_path / "world.safetensors"
    cartpole.save(path)
    firsts = []
    for world in ("CartPole-v1", "wm_vec/CartPole-v1", str(path), path, cartpole):
        env = wm_vec.make_env(world)
        assert env.engine.config.max_episode_steps == 500
        firsts.append(env.reset(seed=3)[0])
    assert all((first == firsts[0]).all() for first in firsts)
    for horizon in ("max_episode_steps", "max_steps"):
        assert wm_vec.make_env("CartPole-v1", num_envs=5, **{horizon: 7}).engine.config.max_episode_steps == 7


def test_ordinary_environments():
    assert wm_vec.make_env("CartPole-v1", backend="gym").unwrapped.spec.id == "CartPole-v1"
    assert wm_vec.make_env("CartPole-v1", backend="gym", num_envs=3).num_envs == 3


def test_unknown_names_and_missing_spaces_are_errors():
    with pytest.raises(ValueError, match=r"'mujoco'.*'world-model'.*'wm'.*'gym'"):
        wm_vec.make_env(halve, backend="mujoco")
    with pytest.raises(
        ValueError,
        match=r"neither a bundled world \(CartPole-v1, Pendulum-v1, FrozenLake-v1, Acrobot-v1\).*backend='gym'",
    ):
        wm_vec.make_env("MountainCar-v0")
    with pytest.raises(TypeError, match="observation_space and action_space"):
        wm_vec.make_env(halve)
    with pytest.raises(TypeError, match="registered id"):
        wm_vec.make_env(halve, backend="gym")
