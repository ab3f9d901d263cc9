"""The vector environment against Gymnasium's SyncVectorEnv over our own scalar views, and what it returns."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.envs.rollouts import MODES, random_actions, start
from wm_vec import WorldModel

SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED


# -- against Gymnasium -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_number_for_number_as_syncvectorenv_over_scalar_views(env_id, mode, request):
    """Observations, rewards, flags, final observations and statistics, over several episodes of each env."""
    world = request.getfixturevalue("cartpole" if env_id == "CartPole-v1" else "pendulum")

    def scalar():
        env = gym.make(f"wm_vec/{env_id}", max_episode_steps=12, exact_rows=True, disable_env_checker=True)
        return gym.wrappers.RecordEpisodeStatistics(env)

    theirs = SyncVectorEnv([scalar] * 3, autoreset_mode=mode)
    ours = world.to_vector_env(3, max_episode_steps=12, autoreset_mode=mode, exact_rows=True)
    expected, _ = theirs.reset(seed=21)
    got, _ = ours.reset(seed=21)
    np.testing.assert_array_equal(got, expected)
    ends = 0
    for action in random_actions(ours, 45):
        expected, reward, terminated, truncated, their_info = theirs.step(action.numpy())
        got, our_reward, our_terminated, our_truncated, info = ours.step(action)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(our_reward, reward)
        np.testing.assert_array_equal(our_terminated, terminated)
        np.testing.assert_array_equal(our_truncated, truncated)
        ended = terminated | truncated
        ends += ended.sum()
        home = their_info.get("final_info", {}) if mode is SAME else their_info
        np.testing.assert_array_equal(info["_episode"], ended)
        for i in np.flatnonzero(ended):
            np.testing.assert_allclose(info["episode"]["r"][i], home["episode"]["r"][i], rtol=1e-5)
            assert info["episode"]["l"][i] == home["episode"]["l"][i]
            if mode is SAME:
                np.testing.assert_array_equal(info["final_obs"][i], their_info["final_obs"][i])
        if mode is SAME:
            np.testing.assert_array_equal(info["_final_obs"], their_info.get("_final_obs", np.zeros(3, bool)))
        elif mode is DISABLED and ended.any():
            expected, _ = theirs.reset(options={"reset_mask": ended.copy()})
            got, _ = ours.reset(options={"reset_mask": ended})
            np.testing.assert_array_equal(got, expected)
    assert ends >= 9


# -- info --------------------------------------------------------------------------------------


def test_same_step_info_always_holds_final_observations_and_their_mask(cartpole):
    env = start(cartpole)
    for action in random_actions(env, 15):
        _, _, terminated, truncated, info = env.step(action)
        assert info["final_obs"].shape == (4, 4)
        assert torch.equal(info["_final_obs"], terminated | truncated)
        assert torch.equal(info["_final_info"], terminated | truncated)
        assert torch.equal(info["final_info"]["episode"]["r"], info["episode"]["r"])
        assert torch.equal(info["final_info"]["_episode"], terminated | truncated)


@pytest.mark.parametrize("mode", [NEXT, DISABLED])
def test_other_modes_return_the_last_observation_itself(cartpole, mode):
    *_, info = start(cartpole, mode=mode).step(torch.zeros(4, dtype=torch.int64))
    assert "final_obs" not in info
    assert "final_info" not in info


def test_statistics_count_by_hand(cartpole):
    """Returns and lengths run along with the episode, and the mask says where it ended."""
    env = start(cartpole)
    returns, lengths = torch.zeros(4), torch.zeros(4, dtype=torch.int64)
    for action in random_actions(env, 40):
        _, reward, terminated, truncated, info = env.step(action)
        returns, lengths = returns + reward, lengths + 1
        torch.testing.assert_close(info["episode"]["r"], returns)
        assert torch.equal(info["episode"]["l"], lengths)
        assert torch.equal(info["_episode"], terminated | truncated)
        assert torch.equal(truncated, lengths >= 12)
        returns[terminated | truncated] = 0
        lengths[terminated | truncated] = 0


def test_info_is_made_when_it_is_read(cartpole):
    env = start(cartpole)
    observation, *_, info = env.step(torch.zeros(4, dtype=torch.int64))
    lazy = {"obs_dict", "predictions", "model_state"}
    assert not lazy & set(info)
    assert all(name in info for name in lazy)
    assert info.get("nothing") is None
    with pytest.raises(KeyError):
        info["nothing"]
    assert torch.equal(info["obs_dict"]["observation"], observation)
    assert set(info["predictions"]) == set(cartpole.bound.field_names)
    assert info["predictions"] is info["predictions"]
    assert "predictions" in set(info)


def test_info_read_late_tells_of_its_own_step(cartpole):
    env = start(cartpole, horizon=None)
    observation, *_, info = env.step(torch.zeros(4, dtype=torch.int64))
    there = env.state().dynamics["values"].clone()
    env.step(torch.ones(4, dtype=torch.int64))
    assert torch.equal(info["model_state"]["values"], there)
    assert torch.equal(info["predictions"]["observation"], observation)


def test_predictions_at_an_end_are_of_the_last_state(cartpole):
    env = start(cartpole, horizon=1)
    observation, *_, info = env.step(torch.zeros(4, dtype=torch.int64))
    assert torch.equal(info["final_info"]["predictions"]["observation"], info["final_obs"])
    assert torch.equal(info["predictions"]["observation"], observation)
    assert torch.equal(info["obs_dict"]["observation"], observation)
    assert (observation != info["final_obs"]).any(1).all()


# -- actions -----------------------------------------------------------------------------------


def test_sampled_actions_are_actions_of_every_kind(cartpole, pendulum):
    env = start(cartpole, 256)
    actions = env.sample_actions()
    assert actions.dtype == torch.int64
    assert env.action_space.contains(actions.numpy())
    assert 90 < int(actions.sum()) < 166  # within 5 standard deviations of 128
    env = start(pendulum, 256)
    actions = env.sample_actions()
    assert env.action_space.contains(actions.numpy())
    assert actions.min() < -1.8
    assert actions.max() > 1.8
    assert abs(float(actions.mean())) < 0.4  # 5 standard deviations of the mean of a uniform on [-2, 2]


def test_sampled_actions_depend_on_the_envs_own_step_alone(pendulum):
    wide, narrow = start(pendulum, 7), start(pendulum, 3)
    first = wide.sample_actions()
    assert torch.equal(first[:3], narrow.sample_actions())
    assert not torch.equal(first, wide.sample_actions())
    wide.step(first)
    assert not torch.equal(first, wide.sample_actions())
    wide.reset(seed=0)
    assert torch.equal(first, wide.sample_actions())


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        ([[0.0]] * 4, TypeError, "torch tensor"),
        (np.full((4, 1), np.nan, np.float32), ValueError, "finite numbers; env 0"),
        (np.zeros((4, 1), np.int64), TypeError, "floating point"),
        (np.zeros(4, np.float32), ValueError, r"shape \(4, 1\), got \(4,\)"),
        (torch.zeros(4), ValueError, r"shape \(4, 1\), got \(4,\)"),
        (torch.zeros(3, 1), ValueError, r"shape \(4, 1\), got \(3, 1\)"),
        (torch.zeros(4, 1, dtype=torch.int64), TypeError, "floating point"),
        (torch.zeros(4, 1, device="meta"), ValueError, "on meta"),
    ],
)
def test_bad_actions_are_refused_and_nothing_is_lost(pendulum, action, error, message):
    env, other = start(pendulum), start(pendulum)
    with pytest.raises(error, match=message):
        env.step(action)
    good = torch.zeros(4, 1)
    assert torch.equal(env.step(good)[0], other.step(good)[0])


@pytest.mark.parametrize("env_id", ["cartpole", "pendulum"])
@pytest.mark.parametrize("mode", MODES)
def test_arrays_of_the_action_space_are_taken_as_tensors_are(env_id, mode, request, recwarn):
    world = request.getfixturevalue(env_id)
    ours, other = (start(world, mode=mode, horizon=5) for _ in range(2))
    for _ in range(8):
        action = ours.action_space.sample()
        kept = action.copy()
        results = ours.step(action), other.step(torch.from_numpy(action))
        for got, expected in zip(*(result[:4] for result in results), strict=True):
            assert torch.equal(got, expected)
        np.testing.assert_array_equal(action, kept)
    ours.step(action[::-1])
    assert not recwarn.list, "in host memory they cost nothing"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_arrays_are_warned_of_once_where_they_must_travel():
    env = WorldModel.bundled("CartPole-v1", device="cuda").to_vector_env(4, seed=0)
    env.reset()
    with pytest.warns(UserWarning, match="NumPy actions go to the device at every step"):
        env.step(env.action_space.sample())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(env.action_space.sample())


def test_values_are_checked_under_validate(pendulum, cartpole):
    env = start(pendulum, validate=True)
    with pytest.raises(ValueError, match="env 2"):
        env.step(torch.tensor([[0.0], [1.0], [torch.nan], [0.0]]))
    env = start(cartpole, validate=True)
    with pytest.raises(ValueError, match="env 3"):
        env.step(torch.tensor([0, 1, 0, 2]))


def test_a_step_before_reset_says_what_to_do(pendulum):
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        pendulum.to_vector_env(2).step(torch.zeros(2, 1))


# -- the rest ----------------------------------------------------------------------------------


def test_rendering_is_one_frame_per_env_of_what_is_there(cartpole):
    pytest.importorskip("matplotlib")
    env = cartpole.to_vector_env(2, render_mode="rgb_array")
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        env.render()
    observation, _ = env.reset(seed=0)
    frames = env.render()
    observation.zero_()
    assert len(frames) == 2
    assert frames[0].shape == (240, 320, 3)
    assert (frames[0] != frames[1]).any()
    np.testing.assert_array_equal(env.render()[0], frames[0])


def test_gymnasium_sees_a_vector_env(cartpole):
    env = start(cartpole)
    assert isinstance(env, gym.vector.VectorEnv)
    assert env.observation_space.shape == (4, 4)
    assert env.action_space == gym.spaces.MultiDiscrete([2] * 4)
    assert env.unwrapped is env
    env.close()
    assert env.closed
