"""The scalar view: upstream's checkers pass, and its numbers are row 0 of the vector environment."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import wm_vec  # noqa: F401 - registers the worlds
from tests.envs.rollouts import MODES, random_actions
from wm_vec.envs import WorldModelEnv

WORLDS = ["CartPole-v1", "Pendulum-v1"]


def warnings_of(check, env_id) -> set[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(env_id)
    return {str(warning.message) for warning in caught}


@pytest.mark.parametrize("env_id", WORLDS)
def test_gymnasiums_checker_passes_and_warns_no_more_than_of_the_real_one(env_id):
    """What remains is said of the real environment's spaces too."""

    def check(name):
        # The real one needs pygame to render; ours is rendered here.
        check_env(gym.make(name).unwrapped, skip_render_check=not name.startswith("wm_vec/"))

    assert warnings_of(check, f"wm_vec/{env_id}") <= warnings_of(check, env_id)


@pytest.mark.parametrize("env_id", WORLDS)
def test_stable_baselines_checker_passes_and_warns_no_more_than_of_the_real_one(env_id):
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")

    def check(name):
        sb3.check_env(gym.make(name))

    assert warnings_of(check, f"wm_vec/{env_id}") <= warnings_of(check, env_id)


@pytest.mark.parametrize("env_id", WORLDS)
def test_a_rollout_through_gym_make_warns_of_nothing(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(f"wm_vec/{env_id}")
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(30):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()


@pytest.mark.parametrize("exact_rows", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", WORLDS)
def test_it_is_row_0_of_the_vector_env(env_id, mode, exact_rows, request):
    """Over several episodes and their resets, bit by bit: at one env, and with exact rows beside others."""
    world = request.getfixturevalue("cartpole" if env_id == "CartPole-v1" else "pendulum")
    horizon = 17
    scalar = gym.make(f"wm_vec/{env_id}", max_episode_steps=horizon, exact_rows=exact_rows)
    vector = world.to_vector_env(
        3 if exact_rows else 1, max_episode_steps=horizon, autoreset_mode=mode, exact_rows=exact_rows
    )
    actions = random_actions(vector, 60)
    mine, _ = scalar.reset(seed=11)
    rows, _ = vector.reset(seed=11)
    np.testing.assert_array_equal(mine, rows[0])
    episodes = 0
    over = False
    for action in actions:
        rows, reward, terminated, truncated, info = vector.step(action)
        if mode is AutoresetMode.NEXT_STEP and over:
            mine, _ = scalar.reset()
            over = False
            np.testing.assert_array_equal(mine, rows[0])
            assert (reward[0], terminated[0], truncated[0]) == (0, False, False)
            continue
        mine, my_reward, my_terminated, my_truncated, _ = scalar.step(action[0].numpy())
        assert my_reward == reward[0].item()
        assert (my_terminated, my_truncated) == (terminated[0].item(), truncated[0].item())
        over = my_terminated or my_truncated
        last = info["final_obs"][0] if mode is AutoresetMode.SAME_STEP and over else rows[0]
        np.testing.assert_array_equal(mine, last)
        ended = terminated | truncated
        if mode is AutoresetMode.DISABLED and ended.any():
            rows, _ = vector.reset(options={"reset_mask": ended})
        if over and mode is not AutoresetMode.NEXT_STEP:
            mine, _ = scalar.reset()
            np.testing.assert_array_equal(mine, rows[0])
        episodes += over
    assert episodes >= 3


def test_types_are_gymnasiums(cartpole):
    env = cartpole.to_env()
    observation, info = env.reset(seed=0)
    assert isinstance(observation, np.ndarray)
    assert observation.dtype == np.float32
    assert info["step"] == 0
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert info["step"] == 1
    np.testing.assert_array_equal(info["obs_dict"]["observation"], observation)


def test_the_horizon_is_gym_makes(cartpole):
    assert gym.make("wm_vec/CartPole-v1").spec.max_episode_steps == 500
    assert gym.make("wm_vec/Pendulum-v1").spec.max_episode_steps == 200
    assert cartpole.to_env().engine.config.max_episode_steps is None
    env = gym.make("wm_vec/Pendulum-v1", max_episode_steps=4)
    env.reset(seed=0)
    flags = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(4)]
    assert flags == [(False, False)] * 3 + [(False, True)]


def test_what_it_returned_stays_as_it_is(pendulum):
    env = pendulum.to_env()
    first, info = env.reset(seed=0)
    copies = first.copy(), {path: value.copy() for path, value in info["predictions"].items()}
    again = pendulum.to_env()
    again.reset(seed=0)
    second = env.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(first, copies[0])
    for path, value in copies[1].items():
        np.testing.assert_array_equal(info["predictions"][path], value)
    # Writing into it does not change what comes.
    first[:] = 9
    second[0][:] = 9
    third = env.step(np.zeros(1, np.float32))[0]
    again.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(third, again.step(np.zeros(1, np.float32))[0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([np.nan], np.float32), "finite"),
        (np.zeros(2, np.float32), r"shape \(1,\)"),
        (np.array(["left"]), "numbers"),
    ],
)
def test_bad_continuous_actions_are_refused(pendulum, action, message):
    env = pendulum.to_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)


@pytest.mark.parametrize("action", [2, -1, 0.5, None, [0, 1]])
def test_bad_discrete_actions_are_refused(cartpole, action):
    env = cartpole.to_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="whole number"):
        env.step(action)


def test_a_step_before_reset_says_what_to_do(cartpole):
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        cartpole.to_env().step(0)


def test_numbers_out_of_bounds_are_clipped(pendulum):
    envs = [pendulum.to_env(), pendulum.to_env()]
    for env in envs:
        env.reset(seed=3)
    clipped = envs[0].step(np.array([2.0], np.float32))
    np.testing.assert_array_equal(envs[1].step(np.array([50.0], np.float32))[0], clipped[0])


def test_it_needs_an_engine_of_one_env(cartpole):
    vector = cartpole.to_vector_env(2)
    with pytest.raises(ValueError, match="one env"):
        WorldModelEnv.from_engine(vector.engine, vector.single_observation_space, vector.single_action_space)


def test_render_modes(cartpole, capsys):
    pytest.importorskip("matplotlib")
    env = cartpole.to_env(render_mode="rgb_array")
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        env.render()
    env.reset(seed=0)
    frame = env.render()
    assert frame.dtype == np.uint8
    assert frame.ndim == 3
    env.step(1)
    assert (env.render() != frame).any()
    env = cartpole.to_env(render_mode="human")
    env.reset(seed=0)
    env.step(1)
    assert "observation" in capsys.readouterr().out
    with pytest.raises(ValueError, match="render_mode"):
        cartpole.to_env(render_mode="text")


def test_model_state_in_info_is_the_worlds_state(cartpole):
    env = cartpole.to_env()
    env.reset(seed=0)
    observation, *_, info = env.step(1)
    state = info["model_state"]["values"]
    assert state.shape == (7,)
    start = cartpole.bound["observation"].start
    assert torch.equal(state[start : start + 4], torch.as_tensor(observation))
