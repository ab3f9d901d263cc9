"""What does not fit is refused with the adapter's name, what came, and what may come."""

from __future__ import annotations

import re

import pytest
import torch

from tests.adapters.ways import BOTH, NUM_ENVS, PAIR, PICTURE, PLANE, lead, make, named, refused, ways
from wm_vec import AdapterError
from wm_vec.adapters.forms import RESET_FORMS, TRANSITION_FORMS

# -- observations -----------------------------------------------------------------------------------------------------


@ways
def test_observations_of_another_shape(shape, batching):
    message = refused(shape, batching, lambda state, action: (state, state[..., :1], 0.0))
    front = lead(shape, batching)
    assert f"observation must have shape {(*front, 2)}, got {(*front, 1)}" in message


@ways
def test_observations_of_another_dtype(shape, batching):
    def transition(state, action):
        return state, torch.zeros(*state.shape[:-1], 3, 8, 8), 0.0

    message = refused(shape, batching, transition, PICTURE)
    assert "observation has dtype torch.float32, its space torch.uint8" in message
    assert "scale" in message


@ways
def test_parts_of_observations_are_named(shape, batching):
    def narrow(state, action):
        return state, {"place": state[..., :1], "kind": state[..., 0].long()}, 0.0

    def fractional(state, action):
        return state, (state, state[..., 0]), 0.0

    front = lead(shape, batching)
    message = refused(shape, batching, narrow, BOTH)
    assert f"observation.place must have shape {(*front, 2)}, got {(*front, 1)}" in message
    assert "observation.1 has dtype torch.float32" in refused(shape, batching, fractional, PAIR)


@ways
@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (BOTH, lambda s: {"place": s}, r"mapping with the keys \['kind', 'place'\].*got \{'place': Tensor\("),
        (BOTH, lambda s: s, r"mapping with the keys \['kind', 'place'\].*got Tensor\("),
        (PAIR, lambda s: (s,), r"must be a tuple of 2, got a tuple of 1 \(Tensor"),
        (PAIR, lambda s: s, r"must be a tuple of 2, got Tensor\("),
        (PLANE, lambda s: {"place": s}, r"observation must be numbers, got \{'place': Tensor\("),
        (PLANE, lambda s: "here", "observation must be numbers, got str"),
    ],
)
def test_observations_of_another_structure(shape, batching, space, observation, message):
    assert re.search(message, refused(shape, batching, lambda s, action: (s, observation(s), 0.0), space))


@ways
@pytest.mark.parametrize(
    "missing",
    [lambda s: {"state": s, "reward": 0.0}, lambda s: {"state": s, "observation": None}, lambda s: {"reward": 1.0}],
)
def test_missing_observations(shape, batching, missing):
    message = refused(shape, batching, lambda state, action: missing(state))
    assert "It has no observation." in message
    assert re.search(r"returned \{'(state|reward)'", message)
    assert all(form in message for form in TRANSITION_FORMS)


# -- rewards and flags ------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("place", ["reward", "terminated", "truncated"])
def test_numbers_that_are_not_one_per_env(shape, batching, place):
    def transition(state, action):
        values = {"reward": 0.0, "terminated": False, "truncated": False, place: state}
        return {"state": state, "observation": state, **values}

    message = refused(shape, batching, transition)
    assert f"{place} must be one number" in message
    assert f"got Tensor{(*lead(shape, batching), 2)} float32" in message


@ways
@pytest.mark.parametrize("name", ["reward_fn", "terminal_fn"])
def test_functions_that_give_more_than_one_number_per_env(shape, batching, name):
    message = refused(
        shape, batching, lambda state, action: {"state": state, "observation": state}, **{name: lambda state: state}
    )
    assert {"reward_fn": "reward", "terminal_fn": "terminated"}[name] + " must be one number" in message


@ways
@pytest.mark.parametrize("reward", [None, "much", {"a": 1.0}], ids=str)
def test_rewards_that_are_no_numbers(shape, batching, reward):
    message = refused(shape, batching, lambda state, action: (state, state, reward))
    assert re.search(r"reward must be one number.*got (None|str|\{'a': 1.0\})", message)


def test_a_mean_over_all_envs_is_no_reward_of_each():
    message = refused("vector", "batched", lambda state, action: (state, state, state.mean()))
    assert f"reward must be one number per env, shape ({NUM_ENVS},)" in message
    assert ".mean(-1)" in message


# -- forms ------------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda s: None, "returned None"),
        (lambda s: (s,), r"returned a tuple of 1 \(Tensor"),
        (lambda s: (s, 0.0), r"returned a tuple of 2 \(Tensor\(.*\) float32, 0.0\)"),
        (lambda s: (s, s, 0.0, False, False, {}, 1), "returned a tuple of 7"),
        (lambda s: [s, 0.0, False, False, {}], "returned a list of 5"),
        (lambda s: "next", "returned str"),
        (lambda s: 3.5, "returned 3.5"),
    ],
)
def test_transitions_of_no_known_form(shape, batching, returned, what):
    message = refused(shape, batching, lambda state, action: returned(state))
    assert re.search(what, message)
    assert all(form in message for form in TRANSITION_FORMS)


@ways
def test_infos_that_are_no_mappings(shape, batching):
    message = refused(shape, batching, lambda state, action: (state, 0.0, False, False, 3))
    assert "info must be a mapping, got 3" in message


@ways
@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "returned None"),
        ((torch.zeros(2), torch.zeros(2), {}, 1), "returned a tuple of 4"),
        ((), "returned a tuple of 0"),
        ({"state": torch.zeros(2)}, "It has no observation."),
    ],
)
def test_resets_of_no_known_form(shape, batching, returned, what):
    with pytest.raises(AdapterError) as caught:
        make(shape, batching, reset_fn=lambda: returned, transition_fn=lambda s, a: s)[0].reset(seed=0)
    message = str(caught.value)
    assert message.startswith(named(batching, "reset_fn"))
    assert what in message
    assert all(form in message for form in RESET_FORMS)


@ways
@pytest.mark.parametrize(
    ("space", "returned", "what"),
    [
        (PLANE, torch.zeros(5), r"observation must have shape \(2,\), got \(5,\)"),
        (PLANE, (torch.zeros(2), torch.zeros(5)), r"observation must have shape \(2,\), got \(5,\)"),
        (PICTURE, torch.zeros(3, 8, 8), "observation has dtype torch.float32, its space torch.uint8"),
        # Read as (state, obs), since the second part has the keys of the space.
        (BOTH, (torch.zeros(2), {"place": torch.zeros(9), "kind": 0}), r"place must have shape \(2,\), got \(9,\)"),
        (BOTH, {"place": torch.zeros(9), "kind": 0}, r"place must have shape \(2,\), got \(9,\)"),
        (PLANE, (torch.zeros(2), torch.zeros(2), 5), "info must be a mapping, got 5"),
    ],
)
def test_resets_with_observations_outside_the_space(shape, batching, space, returned, what):
    with pytest.raises(AdapterError, match=rf"{re.escape(named(batching, 'reset_fn'))}.*{what}"):
        make(shape, batching, space, reset_fn=lambda: returned, transition_fn=lambda s, a: s)[0].reset(seed=0)
