"""Which of a model's own methods are called, down to real environments as models."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
ACTION = np.array([0.25, 0.5], np.float32)
START = torch.tensor([1.0, 2.0])

ORDER = ["env_step", "step", "predict_step", "predict", "imagine_step", "transition", "__call__"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_models_own_transition_is_the_first_of_its_methods(first):
    """Each method pays its place in the issue's order; those before `first` are not there."""

    def method(place):
        return lambda self, state, action: (state, state, float(place))

    kind = type("Methods", (), {name: method(place) for place, name in enumerate(ORDER) if place >= first})
    env = WorldModelEnv(kind(), PLANE, PUSH, initial_observation=START)
    env.reset(seed=0)
    assert env.step(ACTION)[1] == first


def test_a_module_without_forward_has_no_call():
    class Heads(nn.Module):
        def predict(self, state, action):
            return state + action

    env = WorldModelEnv(Heads(), PLANE, PUSH, initial_observation=START)
    env.reset(seed=0)
    assert env.step(ACTION)[0].tolist() == [1.25, 2.5]
    with pytest.raises(AdapterError, match="none of the methods"):
        WorldModelEnv(nn.Module(), PLANE, PUSH, initial_observation=START)


@pytest.mark.parametrize("first", range(3))
def test_the_models_own_reset_is_the_first_of_its_methods(first):
    order = ["reset_env", "reset_state", "reset"]

    def method(place):
        return lambda self, seed=None: torch.tensor([float(place), float(seed)])

    methods = {name: method(place) for place, name in enumerate(order) if place >= first}
    model = type("Methods", (), {"step": lambda self, state, action: state, **methods})()
    observation, _ = WorldModelEnv(model, PLANE, PUSH).reset(seed=5)
    assert observation.tolist() == [first, 5]


def test_what_is_handed_in_comes_before_the_models_own():
    class Own:
        def step(self, state, action):
            return state, state, 1.0

        def reset(self, seed=None):
            return torch.tensor([8.0, 8.0])

    def first(**options):
        return WorldModelEnv(Own(), PLANE, PUSH, **options).reset(seed=0)[0].tolist()

    assert first() == [8, 8]
    assert first(initial_observation=START) == [1, 2]
    assert first(initial_state=START) == [1, 2]
    assert first(initial_state=START, reset_fn=lambda: torch.tensor([5.0, 5.0])) == [5, 5]
    env = WorldModelEnv(Own(), PLANE, PUSH, transition_fn=lambda state, action: (state, state, 2.0))
    env.reset(seed=0)
    assert env.step(ACTION)[1] == 2.0


REAL = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"]


@pytest.mark.parametrize("unwrapped", [True, False], ids=["unwrapped", "wrapped"])
@pytest.mark.parametrize("env_id", REAL)
def test_a_real_environment_as_the_model_gives_its_own_rollouts(env_id, unwrapped):
    """It steps by the action alone and resets by keywords alone."""

    def make():
        env = gym.make(env_id, max_episode_steps=60)
        return env.unwrapped if unwrapped else env

    real, model = make(), make()
    env = WorldModelEnv(model, model.observation_space, model.action_space, torch_actions=False)
    real.action_space.seed(0)
    for seed in (3, 4):
        expected, _ = real.reset(seed=seed)
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(observation, expected)
        for _ in range(70):
            action = real.action_space.sample()
            expected = real.step(action)
            got = env.step(action)
            np.testing.assert_array_equal(got[0], expected[0])
            assert got[1:4] == (float(expected[1]), *expected[2:4])
            if expected[2] or expected[3]:
                break
        assert env.observation_space.contains(got[0])


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_a_model_that_is_one_env_is_never_taken_for_many(batching):
    """Its steps would all go to the same simulator, whose resets the bank's would be too."""
    model = gym.make("CartPole-v1").unwrapped
    with pytest.raises(AdapterError, match=r"world_model\.step takes \(action\), no state.*SyncVectorEnv"):
        WorldModelVectorEnv.from_callables(
            model, model.observation_space, model.action_space, num_envs=2, batching=batching
        )
    with pytest.raises(AdapterError, match="no state"):
        WorldModelEnv(model, model.observation_space, model.action_space, batching=batching, bank_size=4)
