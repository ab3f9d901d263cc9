"""Mistakes that would otherwise train a policy on the wrong numbers without a word."""

from __future__ import annotations

import random
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import wm_vec
from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PUSH = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def box(size):
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def first_step(transition, size=2, batching="batched", **options):
    options = options if options else {"initial_observation": torch.ones(size)}
    if batching is None:
        env = WorldModelEnv(None, box(size), PUSH, transition_fn=transition, **options)
        env.reset(seed=0)
        return env.step(np.zeros(1, np.float32))
    envs = WorldModelVectorEnv.from_callables(
        None, box(size), PUSH, num_envs=2, batching=batching, transition_fn=transition, bank_size=2, **options
    )
    envs.reset(seed=0)
    return envs.step(torch.zeros(2, 1))


@pytest.mark.parametrize("batching", [None, "batched", "vmap"])
def test_a_transition_that_forgets_its_state(batching):
    """The observation would be fed back in the state's place, without an error where the shapes agree."""

    def reset(seed):
        return torch.ones(2), torch.zeros(2)

    def forgets(state, action):
        return {"hidden": state + 1, "observation": state * 2, "reward": 0.0}

    with pytest.raises(AdapterError, match="returned no state, but episodes start with a state of its own"):
        first_step(forgets, batching=batching, reset_fn=reset)

    def latent(latent, action):
        return {"latent": latent + 1, "observation": latent * 2, "reward": 0.0}

    assert (np.asarray(first_step(latent, batching=batching, reset_fn=reset)[0]) == 2.0).all()


@pytest.mark.parametrize("key", ["rewards", "rewrad", "rew", "Reward"])
def test_a_reward_by_another_name(key):
    with pytest.warns(UserWarning, match=f"'{key}' went into info, since a reward goes by the key 'reward'"):
        first_step(lambda state, action: {"observation": state, key: 1.0, "done": False})


@pytest.mark.parametrize("key", ["dones", "terminal", "continue", "Terminated"])
def test_an_end_by_another_name(key):
    with pytest.warns(UserWarning, match=f"'{key}' went into info, since a terminated"):
        first_step(lambda state, action: {"observation": state, "reward": 1.0, key: 0.0})


def test_functions_that_say_it_and_other_info_are_no_mistake():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first_step(
            lambda state, action: {"observation": state, "reward": 1.0, "done": False, "raw_rewards": 1, "value": 2}
        )
        envs = WorldModelVectorEnv.from_callables(
            None,
            box(1),
            PUSH,
            num_envs=1,
            transition_fn=lambda state, action: {"observation": state, "rewards": 1.0},
            reward_fn=lambda state: 1.0,
            initial_observation=torch.ones(1),
        )
        envs.reset(seed=0)
        envs.step(torch.zeros(1, 1))


@pytest.mark.parametrize("batching", [None, "batched", "vmap"])
def test_a_tuple_of_other_parts_than_it_looks(batching):
    """``(obs, reward, done)`` of one number has the shapes of ``(state, obs, reward)``: a flag is no reward."""
    with pytest.raises(AdapterError, match=r"a tuple of 3 is read as \(state, obs, reward\).*the reward is a flag"):
        first_step(lambda state, action: (state, state, state.sum(-1) > 2), 1, batching)
    with pytest.raises(AdapterError, match=r"a tuple of 4 is read as \(obs, reward, done, info\).*info must be a map"):
        first_step(lambda state, action: (state, 0.0, False, False), 1, batching)


@pytest.mark.parametrize("flag", [-5.0, 3.2])
def test_a_logit_in_a_flags_place(flag):
    with pytest.raises(AdapterError, match="terminated must be a flag or a probability"):
        first_step(lambda state, action: (state, 0.0, flag, {}), 2, None)


def test_a_reset_that_wants_a_batch_size_is_not_given_a_seed():
    class Recurrent:
        def reset(self, batch_size):
            return torch.zeros(batch_size, 2)

        def step(self, state, action):
            return state, state, 0.0

    with pytest.raises(AdapterError, match=r"world_model.reset takes \(batch_size\)"):
        WorldModelEnv(Recurrent(), box(2), PUSH)


@pytest.mark.parametrize("draw", [lambda: torch.randn(2).numpy(), lambda: np.random.randn(2), lambda: random.random()])  # noqa: NPY002
def test_every_global_generator_is_lent_seeded_and_given_back(draw):
    def step(state, action):
        return (state + draw()).astype(np.float32), 0.0, False, {}

    def rollout(**options):
        env = WorldModelEnv(step, box(2), PUSH, initial_observation=np.zeros(2, np.float32), **options)
        env.reset(seed=4)
        return [env.step(np.zeros(1, np.float32))[0].tolist() for _ in range(3)]

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert rollout(rng="global") == rollout(rng="global")
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    with pytest.warns(UserWarning, match="global random generator"):
        rollout()


def test_a_model_left_in_training_mode():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.norm = nn.Dropout(), nn.BatchNorm1d(2)

        def step(self, state, action):
            return state, state, 0.0

    model = Noisy()
    with pytest.warns(UserWarning, match=r"BatchNorm1d, Dropout.*model\.eval\(\)"):
        WorldModelEnv(model, box(2), PUSH, initial_observation=torch.zeros(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WorldModelEnv(model.eval(), box(2), PUSH, initial_observation=torch.zeros(2))


def test_concatenated_input_and_the_constructor_are_shown_the_way():
    with pytest.raises(AdapterError, match=r"torch\.cat\(\[state, action\], -1\)"):
        WorldModelEnv(nn.Linear(3, 2), box(2), PUSH, initial_observation=torch.zeros(2))
    with pytest.raises(TypeError, match="from_callables"):
        WorldModelVectorEnv(nn.Linear(3, 2), box(2), PUSH)


def test_nested_info_comes_out_of_vmap():
    def step(state, action):
        return {"observation": state, "reward": 0.0, "info": {"aux": {"x": state[0], "pair": (state[1], state)}}}

    info = first_step(step, batching="vmap")[4]
    assert (info["aux"]["x"] + 1).tolist() == [2.0, 2.0]
    assert info["aux"]["pair"][1].shape == (2, 2)


def test_methods_can_be_marked_batched():
    class Model:
        def starts(self, seeds):
            return torch.stack([seeds.float(), seeds.float()], -1)

        def step(self, state, action):
            return state, state, 0.0

    model = Model()
    envs = WorldModelVectorEnv.from_callables(model, box(2), PUSH, num_envs=3, reset_fn=wm_vec.batched(model.starts))
    assert envs.reset(seed=[4, 5, 6])[0][:, 0].tolist() == [4.0, 5.0, 6.0]
