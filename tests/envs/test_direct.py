"""The scalar env that calls a Python model directly: what goes in reaches the model, what comes out is the model's."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from tests.envs.direct_models import ACTION, PLANE, PUSH, ZEROS, Counter, count, spy, started
from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, make_world_model_env

# -- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (Discrete(4, start=2), np.int64(3)),
        (PUSH, ACTION),
        (MultiDiscrete([3, 4]), np.array([2, 1])),
        (MultiBinary(2), np.array([1, 0], np.int8)),
        (Box(0, 255, (2, 2), np.uint8), np.full((2, 2), 7, np.uint8)),
    ],
    ids=str,
)
def test_an_action_transform_gets_the_action_in_numpy(space, action):
    got = []
    env = started(spy()[0], action_space=space, action_transform_fn=lambda model, action: got.append(action))
    env.step(action)
    assert type(got[0]) is type(action)
    assert got[0].dtype == action.dtype == space.dtype
    np.testing.assert_array_equal(got[0], action)


@pytest.mark.parametrize("torch_actions", [True, False])
@pytest.mark.parametrize("taken", [3, 0.5, "left", None, (1, 2), {"push": 1}, np.ones(3), torch.ones(2), object()])
def test_what_an_action_transform_returns_reaches_the_transition_untouched(taken, torch_actions):
    transition, _, actions = spy()
    env = started(transition, action_transform_fn=lambda action: taken, torch_actions=torch_actions)
    env.step(ACTION)
    assert actions[0] is taken


def test_an_int_of_a_discrete_space_stays_an_int():
    transition, _, actions = spy()
    env = started(transition, action_space=Discrete(5), action_transform_fn=lambda model, action: int(action) * 10)
    env.step(np.int64(3))
    assert type(actions[0]) is int
    assert actions[0] == 30


@pytest.mark.parametrize("space", [PUSH, Discrete(3), MultiBinary(2), Box(-1, 1, (2,), np.float64)], ids=str)
def test_without_a_transform_torch_actions_decides(space):
    space.seed(0)
    action = space.sample()
    transition, _, actions = spy()
    started(transition, action_space=space, torch_actions=True).step(action)
    started(transition, action_space=space, torch_actions=False).step(action)
    tensor, array = actions
    assert isinstance(tensor, torch.Tensor)
    assert tensor.device.type == "cpu"
    assert tensor.dtype is (torch.from_numpy(np.zeros(1, space.dtype)).dtype if isinstance(space, Box) else torch.int64)
    assert type(array) is type(action)
    assert array.dtype == space.dtype
    for got in (tensor, array):
        np.testing.assert_array_equal(got, action)


def test_tensors_go_to_the_device():
    transition, _, actions = spy()
    started(transition, device="meta").step(ACTION)
    assert actions[0].device.type == "meta"


@pytest.mark.parametrize("torch_actions", [True, False])
def test_nothing_is_clipped(torch_actions):
    transition, _, actions = spy()
    started(transition, torch_actions=torch_actions).step(np.array([50.0, -7.0], np.float32))
    assert actions[0].tolist() == [50.0, -7.0]


@pytest.mark.parametrize("torch_actions", [True, False])
def test_what_the_caller_writes_into_its_action_afterwards_changes_nothing(torch_actions):
    transition, _, actions = spy()
    action = ACTION.copy()
    started(transition, torch_actions=torch_actions).step(action)
    action[:] = 9.0
    assert actions[0].tolist() == ACTION.tolist()


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (PUSH, np.zeros(3, np.float32), r"numbers of shape \(2,\), got shape \(3,\)"),
        (PUSH, "left", r"numbers of shape \(2,\)"),
        (PUSH, np.array([np.nan, 0.0]), "must be finite"),
        (Discrete(3), 3, "one whole number of"),
        (Discrete(3), 0.5, "one whole number of"),
        (Discrete(3), None, "one whole number of"),
        (MultiDiscrete([2, 2]), np.array([0, 2]), "must be one of"),
        (MultiDiscrete([2, 2]), np.array([0.0, 1.0]), "whole numbers of shape"),
        (MultiBinary(2), np.array([256, 0]), "must be one of"),
    ],
)
def test_what_is_no_action_is_refused(space, action, message):
    transition, _, actions = spy()
    env = started(transition, action_space=space)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert actions == []


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_a_models_nan_is_handed_on():
    def broken(state, action):
        return state, np.array([np.nan, np.inf], np.float32), float("nan")

    env = started(broken)
    for _ in range(2):
        observation, reward, terminated, truncated, info = env.step(ACTION)
        np.testing.assert_array_equal(observation, [np.nan, np.inf])
        assert np.isnan(reward)
        assert (terminated, truncated) == (False, False)
        assert "diverged" not in info


@pytest.mark.parametrize("reward", [1, 0.1, np.float64(0.1), np.float32(0.5), np.array([2.0]), torch.tensor(0.25)])
@pytest.mark.parametrize("flag", [True, 0.7, np.True_, np.float32(0.9), torch.tensor(True), torch.tensor([0.6])])
def test_rewards_are_floats_and_flags_bools_of_python(reward, flag):
    env = started(lambda state, action: (state, state, reward, flag, flag, {}))
    _, got, terminated, truncated, _ = env.step(ACTION)
    assert type(got) is float
    assert got == np.asarray(reward).item()
    assert terminated is True
    assert truncated is True


def test_the_state_is_the_models_own_and_any_object():
    counter = Counter(7)
    env = started(count, reset_fn=lambda: (counter, counter.seen()))
    assert env.state is counter
    *_, info = env.step(ACTION)
    assert env.state is info["model_state"] is counter
    assert WorldModelEnv(None, PLANE, PUSH, transition_fn=count, reset_fn=lambda: 0).state is None


def test_a_reset_returns_exactly_the_adapters_info():
    reported = {"source": [1, 2], "model_state": "the adapter's own"}
    env = started(spy()[0], reset_fn=lambda: (ZEROS, reported))
    _, info = env.reset()
    assert type(info) is dict
    assert info == reported
    assert info is not reported
    assert info["source"] is reported["source"]
    env = started(spy()[0], reset_fn=lambda: ZEROS)
    assert env.reset()[1] == {}


def test_a_step_adds_the_state_and_the_elapsed_steps_alone():
    reported = {"source": [1, 2]}
    env = started(lambda state, action: (5, ZEROS, 0.0, False, False, reported))
    for steps in (1, 2):
        *_, info = env.step(ACTION)
        assert info == {"source": [1, 2], "model_state": 5, "elapsed_steps": steps}
        assert isinstance(info, dict)
        assert info["source"] is reported["source"]
    assert reported == {"source": [1, 2]}, "the adapter's own is left alone"
    env = started(lambda state, action: (ZEROS, 0.0, False, {}))
    assert set(env.step(ACTION)[4]) == {"model_state", "elapsed_steps"}


def test_entries_of_the_adapters_own_come_first():
    reported = {"model_state": "seen", "elapsed_steps": 99}
    env = started(lambda state, action: (5, ZEROS, 0.0, False, False, reported))
    *_, info = env.step(ACTION)
    assert info == reported
    assert env.state == 5


def test_the_info_of_a_step_is_a_dict_whose_keys_leave_out_the_state():
    """Gymnasium's checker compares infos by their keys, and a tensor has no single answer to ``==``."""
    env = started(lambda state, action: (torch.ones(2), ZEROS, 0.0, False, False, {"a": 1}))
    *_, info = env.step(ACTION)
    assert list(info.keys()) == ["a", "elapsed_steps"]
    for other in (dict(info), {**info}, info.copy(), copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
        assert set(other) == {"a", "model_state", "elapsed_steps"}
        assert torch.equal(other["model_state"], torch.ones(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, bool])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_observations_are_copies_in_the_spaces_dtype(dtype, as_tensor):
    own = np.array([1, 0], dtype)
    buffer = torch.from_numpy(own) if as_tensor else own

    def transition(state, action):
        return state, buffer, 0.0

    env = started(transition, reset_fn=lambda: buffer)
    first, _ = env.reset()
    second, *_ = env.step(ACTION)
    own[:] = 0
    for observation in (first, second):
        assert type(observation) is np.ndarray
        assert observation.dtype == np.float32
        assert observation.tolist() == [1.0, 0.0]
    second[:] = 7
    assert own.tolist() == [0, 0]


def test_parts_of_observations_are_copies_too():
    space = Dict(place=PLANE, pair=Tuple((Discrete(9), Box(-9, 9, (), np.float32))))
    own = {"place": ZEROS.copy(), "pair": (np.array(4), torch.tensor(2.5, requires_grad=True))}
    env = started(lambda state, action: (0, own, 0.0), observation_space=space, reset_fn=lambda: (0, own))
    observation, *_ = env.step(ACTION)
    own["place"][:] = 5
    assert observation in space
    assert observation["place"].tolist() == [0.0, 0.0]
    assert observation["place"].dtype == np.float32
    assert (type(observation["pair"][0]), observation["pair"][0]) == (np.int64, 4)
    assert observation["pair"][1] == 2.5


@pytest.mark.parametrize("key", ["observation", "obs", "image", "pixels", "next_observation", "next_obs"])
def test_names_of_the_observation(key):
    env = started(
        lambda state, action: {"state": state + 1, key: state + 1.0},
        reset_fn=lambda: {"state": np.zeros(2, np.float32), key: np.full(2, 3.0, np.float32)},
    )
    observation, info = env.reset()
    assert observation.tolist() == [3.0, 3.0]
    assert info == {}
    observation, *_, info = env.step(ACTION)
    assert observation.tolist() == [1.0, 1.0]
    assert set(info) == {"model_state", "elapsed_steps"}


@pytest.mark.parametrize("key", ["state", "latent"])
def test_the_state_before_the_step_is_no_info(key):
    env = started(
        lambda state, action: {key: state, f"next_{key}": 2, "obs": ZEROS}, initial_state=1, initial_observation=ZEROS
    )
    assert env.step(ACTION)[4] == {"model_state": 2, "elapsed_steps": 1}


def test_near_misses_are_warned_of_once():
    env = started(lambda state, action: {"state": state, "obs": ZEROS, "rewards": 1.0})
    with pytest.warns(UserWarning, match="'rewards' went into info, since a reward goes by the key 'reward'"):
        env.step(ACTION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(ACTION)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{"num_envs": 4}, {"autoreset_mode": "same_step"}, {"exact_rows": True}, {"validate": True}, {"encode": count}],
    ids=lambda given: next(iter(given)),
)
def test_arguments_of_many_envs_are_refused(given):
    (name,) = given
    with pytest.raises(TypeError, match=rf"{name} is for many envs.*Leave it out.*from_callables\(.*num_envs"):
        WorldModelEnv(count, PLANE, PUSH, **given)


def test_a_bank_needs_a_batching():
    with pytest.raises(TypeError, match=r"bank_size needs batching='batched' or 'vmap'\. Leave it out"):
        WorldModelEnv(count, PLANE, PUSH, bank_size=8)
    env = WorldModelEnv(
        lambda state, action: state + action, PLANE, PUSH, batching="batched", bank_size=8, reset_fn=lambda: ZEROS
    )
    assert env.reset(seed=0)[0].tolist() == [0.0, 0.0]


def test_arguments_that_there_are_not():
    with pytest.raises(TypeError, match="unexpected keyword argument 'transitionfn'"):
        WorldModelEnv(count, PLANE, PUSH, transitionfn=count)


def test_the_loop_is_what_it_does_anyway():
    with pytest.raises(AdapterError, match=r"WorldModelEnv: batching='loop': leave `batching` out"):
        WorldModelEnv(count, PLANE, PUSH, batching="loop")


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_limits_that_are_none(limit):
    with pytest.raises(ValueError, match="max_episode_steps must be"):
        WorldModelEnv(count, PLANE, PUSH, max_episode_steps=limit, initial_observation=ZEROS)


@pytest.mark.parametrize("batching", [None, "batched", "vmap"])
def test_every_kind_goes_by_one_class(batching):
    env = make_world_model_env(
        lambda state, action: state + action, PLANE, PUSH, batching=batching, initial_observation=torch.zeros(2)
    )
    assert isinstance(env, WorldModelEnv)
    assert (env.engine is None) == (batching is None)
    env.reset(seed=0)
    assert env.step(ACTION)[0].tolist() == ACTION.tolist()
    for other in (copy.deepcopy(env), copy.copy(env)):
        assert type(other) is WorldModelEnv
