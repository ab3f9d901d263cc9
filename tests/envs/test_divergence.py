"""A world that breaks down is contained in its row."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode

from tests.envs.rollouts import MODES, assert_equal, random_actions, roll, start
from wm_vec import WorldModel, batched
from wm_vec.envs import WorldModelVectorEnv

SAME, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_a_bad_action_ends_its_own_row_alone(pendulum, mode, bad):
    env, other = (start(pendulum, mode=mode, horizon=None) for _ in range(2))
    actions = random_actions(env, 12)
    before = roll(env, actions[:5])["observation"][-1]
    roll(other, actions[:5])
    poisoned = actions[5].clone()
    poisoned[1] = bad
    observation, reward, terminated, truncated, info = env.step(poisoned)
    expected, expected_reward, *_ = other.step(actions[5])
    neighbours = [0, 2, 3]
    assert terminated.tolist() == info["diverged"].tolist() == [False, True, False, False]
    assert not truncated.any()
    assert reward[1] == 0
    last = info["final_obs"] if mode is SAME else observation
    assert torch.equal(last[1], before[1])
    assert torch.equal(observation[neighbours], expected[neighbours])
    assert torch.equal(reward[neighbours], expected_reward[neighbours])
    if mode is DISABLED:
        env.reset(options={"env_idx": [1]})
    rest = roll(env, actions[6:])
    assert_equal(rest, roll(other, actions[6:]), neighbours, neighbours)
    assert all(torch.isfinite(values).all() for values in rest.values())
    assert not rest["terminated"].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_diverged_model_ends_its_own_row_alone(pendulum, mode):
    env, other = (start(pendulum, mode=mode, horizon=None) for _ in range(2))
    actions = random_actions(env, 8)
    state = env.state()
    state.dynamics["values"][1] = torch.inf
    env.set_state(state)
    _, reward, terminated, _, info = env.step(actions[0])
    other.step(actions[0])
    assert terminated.tolist() == info["diverged"].tolist() == [False, True, False, False]
    assert torch.isfinite(reward).all()
    assert torch.isfinite(info["episode"]["r"]).all()
    if mode is DISABLED:
        env.reset(options={"env_idx": [1]})
    rest = roll(env, actions[1:])
    assert_equal(rest, roll(other, actions[1:]), [0, 2, 3], [0, 2, 3])
    assert all(torch.isfinite(values).all() for values in rest.values())


FLAGS = {
    "one env's": lambda obs, step, info: torch.where(step == 2, torch.nan, 0.0),
    "in Python": lambda obs, step, info: float("nan") if step == 2 else 0.0,
    "all envs'": batched(lambda obs, step, info: torch.where(step == 2, torch.nan, 0.0)),
}


@pytest.mark.filterwarnings("ignore:terminated_fn runs env by env")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("exact_rows", [False, True])
@pytest.mark.parametrize("flag", FLAGS)
def test_a_termination_that_is_nan_is_a_divergence_and_no_flag(cartpole, flag, exact_rows, mode):
    env = start(cartpole, mode=mode, horizon=None, terminated_fn=FLAGS[flag], exact_rows=exact_rows)
    env.reset(options={"env_idx": [3]})
    steps = [env.step(torch.zeros(4, dtype=torch.int64)) for _ in range(2)]
    assert not steps[0][2].any()
    assert not steps[0][4]["diverged"].any()
    assert steps[1][2].all()
    assert steps[1][4]["diverged"].all()
    assert (steps[1][1] == 0).all()


@pytest.mark.parametrize("number", [0.0, 0.3, 0.5, 0.7, 1, 2, True])
@pytest.mark.parametrize("mark", [batched, lambda fn: fn])
def test_terminations_that_are_numbers_are_true_above_one_half(cartpole, mark, number):
    env = start(cartpole, horizon=None, terminated_fn=mark(lambda obs, step, info: number))
    terminated = env.step(torch.zeros(4, dtype=torch.int64))[2]
    assert terminated.tolist() == [number > 0.5] * 4


@pytest.mark.parametrize("what", ["terminated", "truncated", "reward"])
@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.complex64])
def test_what_an_own_model_says_of_the_end_is_contained_likewise(batching, what, state_dtype):
    def step(state, action):
        value = torch.where(state.real.sum(-1) > 1, torch.nan, 0.0)
        return {"state": state + 1, "observation": state.real + 1, "reward": 1.0, "terminated": False, what: value}

    spaces = Box(-np.inf, np.inf, (1,)), Box(-1.0, 1.0, (1,))
    starts = {"initial_state": torch.zeros(1, dtype=state_dtype), "initial_observation": torch.zeros(1)}
    env = WorldModelVectorEnv.from_callables(step, *spaces, num_envs=2, batching=batching, **starts)
    env.reset(seed=0)
    ended = [env.step(torch.zeros(2, 1)) for _ in range(3)]
    assert [bool(info["diverged"].all()) for *_, info in ended] == [False, False, True]
    assert [bool(terminated.all()) for _, _, terminated, *_ in ended] == [False, False, True]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_complex_states_diverge_as_others_do(bad):
    def step(state, action):
        after = torch.where(state.real > 1, torch.complex(torch.zeros(()), torch.tensor(bad)), state + 1)
        return {"state": after, "observation": state.real, "reward": 1.0}

    spaces = Box(-np.inf, np.inf, (1,)), Box(-1.0, 1.0, (1,))
    starts = {"initial_state": torch.zeros(1, dtype=torch.complex64), "initial_observation": torch.zeros(1)}
    env = WorldModelVectorEnv.from_callables(step, *spaces, num_envs=2, **starts)
    env.reset(seed=0)
    assert [bool(env.step(torch.zeros(2, 1))[4]["diverged"].all()) for _ in range(3)] == [False, False, True]


def scalar(world, **options):
    env = world.to_env(**options)
    return env, 0


def stable_baselines(world, **options):
    sb3 = pytest.importorskip("wm_vec.envs.sb3")
    return sb3.SB3VecEnv(world.to_vector_env(2, **options)), np.zeros(2, np.int64)


def validated(world, **options):
    return world.to_vector_env(2, validate=True, **options), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize("face", [scalar, stable_baselines, validated])
def test_what_reads_the_host_warns_of_a_world_that_broke_down(cartpole, face):
    late = {"reward_fn": lambda obs, act, info: torch.where(info["step"] == 2, torch.nan, 1.0)}
    env, action = face(cartpole, **late)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset()
        env.step(action)
    with pytest.warns(UserWarning, match=r"The world broke down in an env.*info\['diverged'\]"):
        env.step(action)


def test_tensor_envs_flag_it_without_a_word(cartpole):
    env = start(cartpole, reward_fn=lambda obs, act, info: torch.where(info["step"] > 1, torch.nan, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flags = [env.step(torch.zeros(4, dtype=torch.int64))[4]["diverged"].tolist() for _ in range(2)]
    assert flags == [[False] * 4, [True] * 4]


def test_a_diverged_model_is_ended_at_its_last_finite_observation(pendulum):
    """Weights that break down in the middle of an episode: every row is ended, and shown where it was."""
    world = WorldModel.bundled("Pendulum-v1")
    env = start(world, horizon=None)
    before = env.step(torch.zeros(4, 1))[0]
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.fill_(torch.nan)
    observation, reward, terminated, _, info = env.step(torch.zeros(4, 1))
    assert terminated.all()
    assert info["diverged"].all()
    assert torch.equal(info["final_obs"], before)
    assert torch.isfinite(observation).all()
    assert (reward == 0).all()
