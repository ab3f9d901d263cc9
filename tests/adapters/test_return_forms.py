"""Every form in every way of running, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

import wm_vec
from tests.adapters.return_forms import (
    OBSERVATIONS,
    PAGE,
    RESETS,
    SPACES,
    TRANSITIONS,
    Case,
    page,
    place_of,
    reset_returning,
    start,
    transition_returning,
)
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PUSH = Box(-1.0, 1.0, (1,), np.float32)
SHAPES = ["scalar", "vector"]
ways = pytest.mark.parametrize(
    ("shape", "batching"), [("scalar", None), *((shape, way) for shape in SHAPES for way in ("batched", "vmap"))]
)

# The places that three pushes of 0.5 lead to: from (1, 2); and where the observation, ten times as much, is the state.
PLACES = {
    "state": [[1.5, 2.5], [2.0, 3.0], [2.5, 3.5]],
    "obs": [[1.5, 2.5], [15.5, 25.5], [155.5, 255.5]],
}
SUMS = {"state": [4.0, 5.0, 6.0], "obs": [4.0, 41.0, 411.0]}
ENDED = [False, True, False]
CUT = [False, False, True]
# Minus the first number of the state, and whether the second is above 2.75; observations are ten times as large.
BY_REWARD_FN = {"state": [-1.5, -2.0, -2.5], "obs": [-15.0, -155.0, -1555.0]}
BY_TERMINAL_FN = {"state": [False, True, True], "obs": [True, True, True]}
SEEN = {
    "Box": lambda x, y: [10 * x, 10 * y],
    "Dict(place, sum)": lambda x, y: {"place": [10 * x, 10 * y], "sum": x + y},
    "Dict(observation, state)": lambda x, y: {"observation": [10 * x, 10 * y], "state": [-x, -y]},
    "Dict(image)": lambda x, y: {"image": [10 * x, 10 * y]},
    "Tuple of 2": lambda x, y: ([10 * x, 10 * y], x + y),
    "Tuple of 3": lambda x, y: ([10 * x, 10 * y], x + y, [-x, -y]),
}


def expect_state(state, case, place):
    expected = place if case.state == "state" else SEEN[case.space](*place)
    assert_same(state, expected)


def assert_same(got, expected):
    """The same structure and numbers; of a batch, in every env."""
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for key, part in expected.items():
            assert_same(got[key], part)
    elif isinstance(expected, tuple):
        assert len(got) == len(expected)
        for one, part in zip(got, expected, strict=True):
            assert_same(one, part)
    else:
        wanted = np.asarray(expected)
        rows = np.asarray(got)
        np.testing.assert_array_equal(rows, np.broadcast_to(wanted, rows.shape))
        assert rows.shape in (wanted.shape, (3, *wanted.shape))


def make(shape, batching, space, **callables):
    """An env and its action."""
    if shape == "scalar":
        env = WorldModelEnv(None, SPACES[space], PUSH, batching=batching, **callables)
        return env, np.array([0.5], np.float32)
    options = {"num_envs": 3, "batching": batching, "autoreset_mode": "disabled", "bank_size": 2}
    env = WorldModelVectorEnv.from_callables(None, SPACES[space], PUSH, **options, **callables)
    return env, torch.full((3, 1), 0.5)


def plain_transition(space):
    """A transition with nothing to decide; states keep their structure."""

    def transition(state, action):
        place = place_of(state) + action
        observation = OBSERVATIONS[space](place)
        after = place if isinstance(state, torch.Tensor) else observation
        return {"state": after, "observation": observation, "reward": place.sum(-1)}

    return transition


@ways
@pytest.mark.parametrize("case", RESETS, ids=str)
def test_resets(case: Case, shape, batching):
    env, action = make(
        shape, batching, case.space, reset_fn=reset_returning(case), transition_fn=plain_transition(case.space)
    )
    observation, info = env.reset(seed=0)
    assert_same(observation, SEEN[case.space](1.0, 2.0))
    expect_state(env.state if shape == "scalar" else info["model_state"], case, [1.0, 2.0])
    if batching is None:
        assert info == ({"source": 3} if case.info else {})
    elif shape == "scalar":
        assert info.get("source") == (3 if case.info else None)
    # The step starts from what was taken for the state: 0.5 further than (1, 2), or than (10, 20).
    place = [1.5, 2.5] if case.state == "state" else [10.5, 20.5]
    observation, reward, *_ = env.step(action)
    assert_same(observation, SEEN[case.space](*place))
    assert_same(reward, sum(place))


@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", RESETS, ids=str)
def test_resets_of_all_envs_at_once(case: Case, shape, batching):
    env, action = make(
        shape,
        batching,
        case.space,
        reset_fn=wm_vec.batched(reset_returning(case)),
        transition_fn=plain_transition(case.space),
    )
    observation, info = env.reset(seed=0)
    assert_same(observation, SEEN[case.space](1.0, 2.0))
    expect_state(info["model_state"], case, [1.0, 2.0])
    assert info.get("source") == (3 if case.info else None)
    observation, *_ = env.step(action)
    assert_same(observation, SEEN[case.space](*([1.5, 2.5] if case.state == "state" else [10.5, 20.5])))


@ways
@pytest.mark.parametrize("case", TRANSITIONS, ids=str)
def test_transitions(case: Case, shape, batching):
    judges = {
        "reward_fn": lambda state: -place_of(state)[..., 0],
        "terminal_fn": lambda state: place_of(state)[..., 1] > 2.75,
    }
    # Where the observation is the state, it starts with such numbers that the first step leads to the same place.
    resets = {
        "state": lambda: (start(), OBSERVATIONS[case.space](start())),
        "obs": lambda: OBSERVATIONS[case.space](start() / 10),
    }
    env, action = make(
        shape,
        batching,
        case.space,
        reset_fn=resets[case.state],
        transition_fn=transition_returning(case),
        **{name: judges[name] for name in case.callables},
    )
    env.reset(seed=0)
    rewards = {"reward": SUMS[case.state], "reward_fn": BY_REWARD_FN[case.state], "0.0": [0.0] * 3}
    flags = {"ended": ENDED, "terminal_fn": BY_TERMINAL_FN[case.state], "False": [False] * 3}
    for i, place in enumerate(PLACES[case.state]):
        observation, reward, terminated, truncated, info = env.step(action)
        assert_same(observation, SEEN[case.space](*place))
        expect_state(info["model_state"], case, place)
        assert_same(reward, rewards[case.reward][i])
        assert_same(terminated, flags[case.terminated][i])
        assert_same(truncated, CUT[i] if case.truncated else False)
        if batching is None:
            assert set(info) == {"model_state", "elapsed_steps"} | ({"source"} if case.info else set())
        if case.info:
            assert_same(info["source"], 3)
        else:
            assert "source" not in info


@ways
def test_the_time_limit_truncates_besides_the_models_own(shape, batching):
    case = TRANSITIONS[3]
    assert case.truncated
    options = {"reset_fn": lambda: (start(), 10 * start()), "transition_fn": transition_returning(case)}
    env, action = make(shape, batching, "Box", max_episode_steps=2, **options)
    env.reset(seed=0)
    flags = []
    for _ in range(3):
        _, _, terminated, truncated, _ = env.step(action)
        assert_same(terminated, bool(np.asarray(terminated).any()))
        flags.append(bool(np.asarray(truncated).all()))
    assert flags == [False, True, True]


@ways
@pytest.mark.parametrize(
    ("flag", "expected"),
    [(0.7, True), (0.5, False), (0.3, False), (1, True), (0, False), (np.True_, True), (torch.tensor(0.9), True)],
)
def test_flags_may_be_probabilities(shape, batching, flag, expected):
    """Above one half is true."""

    def transition(state, action):
        given = flag
        if not isinstance(flag, (int, float)):
            given = torch.as_tensor(flag).expand(state.shape[:-1])
        return {"observation": state, "done": given, "truncated": given}

    env, action = make(shape, batching, "Box", reset_fn=start, transition_fn=transition)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(action)
    assert_same(terminated, expected)
    assert_same(truncated, expected)


def test_numbers_and_arrays_count_as_tensors():
    space = Dict(place=Box(-100, 100, (2,), np.float32), sum=Box(-100, 100, (), np.float32))

    def transition(state, action):
        place = state + float(action)
        return place, {"place": place.astype(np.float32), "sum": float(place.sum())}, place.sum()

    env = WorldModelEnv(
        None,
        space,
        PUSH,
        transition_fn=transition,
        reset_fn=lambda: (np.array([1.0, 2.0]), {"place": [1.0, 2.0], "sum": 3}),
    )
    observation, _ = env.reset(seed=0)
    assert observation["place"].dtype == observation["sum"].dtype == np.float32
    assert_same(observation, {"place": [1.0, 2.0], "sum": 3.0})
    observation, reward, *_ = env.step(np.array([0.5], np.float32))
    assert_same(observation, {"place": [1.5, 2.5], "sum": 4.0})
    assert reward == 4.0


def test_the_page_is_made_of_these_cases():
    assert PAGE.read_text() == page(), "run `python -m tests.adapters.return_forms`"
