"""Batches of another size than went in, and states that change, are refused."""

from __future__ import annotations

import re

import pytest
import torch

import wm_vec
from tests.adapters.ways import NUM_ENVS, batches, lead, make, refused, ways
from wm_vec import AdapterError


@batches
@pytest.mark.parametrize("longer", ["state", "observation"])
def test_batches_that_come_back_at_another_size(shape, batching, longer):
    envs = lead(shape, batching)[0]

    def transition(state, action):
        more = torch.cat([state, state])
        return more if longer == "state" else state, more if longer == "observation" else state, 0.0

    message = refused(shape, batching, transition)
    assert f"{longer} came back for {2 * envs} envs, {envs} went in" in message
    assert "must keep the leading batch axis" in message


def test_rewards_of_another_number_of_envs():
    message = refused("vector", "batched", lambda state, action: (state, state, torch.zeros(NUM_ENVS + 1)))
    assert f"reward must be one number per env, shape ({NUM_ENVS},)" in message
    assert f"got Tensor({NUM_ENVS + 1},)" in message


def test_errors_of_models_of_one_env_among_batches_name_the_other_ways():
    message = refused("vector", "batched", lambda state, action: (state, state[0], 0.0))
    assert "batching='vmap'" in message
    assert "WorldModelEnv" in message
    assert "SyncVectorEnv" in message


def test_errors_of_models_of_batches_called_directly_name_batches():
    message = refused("scalar", None, lambda state, action: (state, state[None], 0.0))
    assert "batching='batched'" in message


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_resets_of_another_number_of_envs_than_seeds(batching):
    reset = wm_vec.batched(lambda seeds: torch.zeros(2 * len(seeds), 2))
    with pytest.raises(AdapterError, match=r"reset_fn.*observation came back for 2 envs, 1 went in"):
        make("vector", batching, reset_fn=reset, transition_fn=lambda s, a: s)[0].reset(seed=0)


def test_starts_of_other_numbers_of_states_and_observations():
    with pytest.raises(AdapterError, match=r"starts 4 envs, but state has shape \(5, 2\)"):
        make(
            "vector",
            "batched",
            transition_fn=lambda s, a: s,
            initial_state=torch.zeros(5, 2),
            initial_observation=torch.zeros(4, 2),
        )


@ways
def test_states_that_change_their_shape_or_dtype(shape, batching):
    if batching is None:
        env, action = make(shape, batching, transition_fn=lambda s, a: (s[..., :1], torch.zeros(2), 0.0))
        env.reset(seed=0)
        env.step(action)
        return
    for after in (lambda s: s[..., :1], lambda s: s.double()):
        message = refused(shape, batching, lambda s, a, after=after: (after(s), s, 0.0))
        assert re.search(r"state went in as Tensor\(.*\) float32 and came back as Tensor\(", message)
