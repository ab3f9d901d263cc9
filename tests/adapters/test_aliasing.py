"""What goes in and comes out is nobody else's: flags, states, seeds, reports."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_vec
from tests.core.walk import walk_engine
from wm_vec import AdapterError
from wm_vec.core import step
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
PUSH = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def vector(transition, num_envs=3, **options):
    options = {"initial_observation": torch.zeros(2), **options}
    return WorldModelVectorEnv.from_callables(None, PLANE, PUSH, num_envs=num_envs, transition_fn=transition, **options)


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_flags_that_were_handed_out_can_be_written_into(batching):
    envs = vector(lambda state, action: (state, 0.0, False, False, {}), 1, batching=batching)
    envs.reset(seed=0)
    *_, terminated, truncated, _ = envs.step(torch.zeros(1, 2))
    truncated |= True
    terminated |= True
    *_, terminated, truncated, _ = envs.step(torch.zeros(1, 2))
    assert not terminated.any()
    assert not truncated.any()


def test_a_models_own_buffer_of_flags_is_copied():
    buffer = torch.zeros(3, dtype=torch.bool)

    def step(state, action):
        return state, torch.zeros(3), torch.zeros(3, dtype=torch.bool), buffer, {}

    envs = vector(step, autoreset_mode="disabled")
    envs.reset(seed=0)
    *_, truncated, _ = envs.step(torch.zeros(3, 2))
    buffer |= True
    assert not truncated.any()


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_writing_into_a_batch_of_states_is_refused(batching):
    def writes(state, action):
        state += action
        return state, state, 0.0

    envs = vector(writes, batching=batching)
    envs.reset(seed=0)
    with pytest.raises(AdapterError, match="writes into the state that it is given"):
        envs.step(torch.ones(3, 2))


def test_writing_into_seeds_afterwards_changes_no_start():
    engine, other = (walk_engine(4, autoreset_mode="same_step", max_episode_steps=1) for _ in range(2))
    action = torch.zeros(4, 1)
    engine.reset(0)
    state = engine.state()
    step(engine.world, state, [action])
    state.seed.add_(1000)
    other.reset(0)
    fresh = other.state()
    fresh.seed.add_(1000)
    again, expected = step(engine.world, state, [action])[1], step(other.world, fresh, [action])[1]
    assert torch.equal(again.observation["agent"], expected.observation["agent"])


@pytest.mark.parametrize("num_envs", [3, 40])
def test_reports_of_chunks_are_joined(num_envs):
    def step(state, action):
        info = {"each": state[:, 0], "nested": {"x": state}, "loss": state.mean(), "word": "a"}
        return {"observation": state + 1, "reward": 0.0, "info": info}

    envs = vector(step, num_envs, exact_rows=True)
    envs.reset(seed=0)
    info = envs.step(torch.zeros(num_envs, 2))[4]
    assert info["each"].shape == (num_envs,)
    assert info["nested"]["x"].shape == (num_envs, 2)
    assert info["loss"].shape == ()
    assert info["word"] == "a"


def test_tensors_and_other_things_in_one_entry_are_refused_under_vmap():
    def step(state, action):
        return {"observation": state, "reward": 0.0, "info": {"d": {"x": state, "n": "s"}}}

    envs = vector(step, batching="vmap")
    envs.reset(seed=0)
    with pytest.raises(AdapterError, match=r"info\['d'\] has tensors and other things"):
        envs.step(torch.zeros(3, 2))


def test_names_with_dots_that_meet_are_refused():
    clash = {"a.b": torch.zeros(2), "a": {"b": torch.ones(2)}}
    envs_of = {"initial_state": clash, "initial_observation": torch.zeros(2)}
    with pytest.raises(AdapterError, match="keys with dots"):
        vector(lambda state, action: (state, torch.zeros(3, 2), 0.0), **envs_of)
    space = gym.spaces.Dict({"a.b": PLANE, "a": gym.spaces.Dict({"b": PLANE})})
    with pytest.raises(AdapterError, match="keys with dots"):
        WorldModelEnv(lambda state, action: state, space, PUSH)


def test_info_of_a_masked_reset_is_left_out():
    @wm_vec.batched
    def reset(model, seeds):
        start = torch.stack([seeds.float(), seeds.float()], -1)
        return start, {"start": start[:, 0]}

    envs = vector(lambda state, action: (state, state, 0.0), 4, reset_fn=reset, initial_observation=None)
    assert envs.reset(seed=10)[1]["start"].tolist() == [10.0, 11.0, 12.0, 13.0]
    info = envs.reset(options={"reset_mask": torch.tensor([False, True, False, True])})[1]
    assert "start" not in info


def test_python_rewards_stay_what_they_are():
    env = WorldModelEnv(lambda state, action: (state, state, 0.1), PLANE, PUSH, initial_observation=torch.zeros(2))
    env.reset(seed=0)
    assert env.step(np.zeros(2, np.float32))[1] == 0.1


@pytest.mark.parametrize("batching", [None, "batched"])
def test_many_classes_of_actions_cost_nothing(batching):
    env = WorldModelEnv(
        lambda state, action: (state + action[..., None], state + action[..., None], 0.0),
        PLANE,
        gym.spaces.Discrete(10_000_000),
        initial_observation=torch.zeros(2),
        batching=batching,
    )
    env.reset(seed=0)
    assert env.step(9_999_999)[0].tolist() == [9_999_999.0] * 2
    with pytest.raises(ValueError, match="must be one whole number of"):
        env.step(10_000_000)
