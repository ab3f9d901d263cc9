"""Gymnasium's own wrappers around every kind of scalar view that we make."""

from __future__ import annotations

import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.spaces import Box
from gymnasium.wrappers.numpy_to_torch import NumpyToTorch

import wm_vec  # noqa: F401 - registers the worlds
from tests.envs.makers import BY_NAME, MAKERS, as_numpy, roll, same, sampled_actions
from tests.envs.videos import FPS, frames_of

kinds = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.name)
box_actions = pytest.mark.parametrize(
    "maker", [m for m in MAKERS if isinstance(m.scalar().action_space, Box)], ids=lambda maker: maker.name
)
box_observations = pytest.mark.parametrize(
    "maker", [m for m in MAKERS if isinstance(m.scalar().observation_space, Box)], ids=lambda maker: maker.name
)


@kinds
def test_time_limit_truncates_and_changes_no_number(maker):
    limited, bare = wrappers.TimeLimit(maker.scalar(), 5), maker.scalar()
    assert same(limited.reset(seed=3)[0], bare.reset(seed=3)[0])
    elapsed = truncations = 0
    for action in sampled_actions(bare, 22):
        observation, reward, terminated, truncated, info = limited.step(action)
        assert same((observation, reward, terminated), bare.step(action)[:3])
        elapsed += 1
        assert info["elapsed_steps"] == elapsed
        assert truncated is (elapsed == 5)
        if terminated or truncated:
            assert same(limited.reset()[0], bare.reset()[0])
            elapsed, truncations = 0, truncations + truncated
    assert truncations >= 3


@kinds
def test_episode_statistics_are_the_sums_of_what_came(maker):
    env = wrappers.RecordEpisodeStatistics(wrappers.TimeLimit(maker.scalar(), 6))
    env.reset(seed=1)
    rewards, returns, lengths = [], [], []
    for action in sampled_actions(env, 30):
        *_, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        assert ("episode" in info) is (terminated or truncated)
        if "episode" in info:
            assert info["episode"]["l"] == len(rewards)
            assert info["episode"]["r"] == pytest.approx(math.fsum(rewards), rel=1e-9, abs=1e-9)
            returns.append(math.fsum(rewards))
            lengths.append(len(rewards))
            rewards = []
            env.reset()
    assert len(returns) >= 5
    np.testing.assert_allclose(env.return_queue, returns, rtol=1e-9, atol=1e-9)
    assert list(env.length_queue) == lengths


@kinds
def test_a_recorded_video_shows_the_episode(maker, tmp_path):
    """One frame of the reset and one of each step, of the states that were there."""
    env = wrappers.TimeLimit(maker.scalar(render_mode="rgb_array"), 8)
    env = wrappers.RecordVideo(env, tmp_path / "videos", episode_trigger=lambda episode: episode == 0, fps=FPS)
    twin = maker.scalar(render_mode="rgb_array")
    env.reset(seed=0)
    twin.reset(seed=0)
    shown = [twin.render()]
    for action in sampled_actions(twin, 8):
        *_, terminated, truncated, _ = env.step(action)
        twin.step(action)
        shown.append(twin.render())
        if terminated or truncated:
            break
    env.reset()
    env.close()
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["rl-video-episode-0.mp4"]
    frames = frames_of(tmp_path / "videos" / "rl-video-episode-0.mp4")
    assert frames.shape == (len(shown), *shown[0].shape)
    off = np.abs(frames[:, None].astype(float) - np.stack(shown)).mean((2, 3, 4))
    assert np.diag(off).max() < 6  # of 255: what the codec loses
    # No other state's picture is clearly nearer, and the ends differ, so a video of other states would be seen.
    assert (np.diag(off) <= off.min(1) + 1).all()
    assert off[-1, 0] > off[-1, -1] + 1


@kinds
def test_flattened_observations_hold_the_same_values(maker):
    flat, bare = wrappers.FlattenObservation(maker.scalar()), maker.scalar()
    seen = []
    for env in (flat, bare):
        first, _ = env.reset(seed=2)
        seen.append([first, *(taken[0] for taken in roll(env, sampled_actions(bare, 12)))])
    assert flat.observation_space.shape == (gym.spaces.flatdim(bare.observation_space),)
    for mine, theirs in zip(*seen, strict=True):
        assert mine in flat.observation_space
        assert same(gym.spaces.unflatten(bare.observation_space, mine), theirs)


def stack(observations):
    """A structure of stacked arrays from a list of structures of arrays."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: stack([each[key] for each in observations]) for key in first}
    if isinstance(first, tuple):
        return tuple(stack(parts) for parts in zip(*observations, strict=True))
    return np.stack(observations)


@kinds
def test_stacked_observations_are_the_last_ones(maker):
    stacked, bare = wrappers.FrameStackObservation(maker.scalar(), 3), maker.scalar()
    first, _ = bare.reset(seed=4)
    last = [first] * 3
    observation, _ = stacked.reset(seed=4)
    for action in sampled_actions(bare, 6):
        assert observation in stacked.observation_space
        assert same(observation, stack(last))
        observation, _, terminated, *_ = stacked.step(action)
        last = [*last[1:], bare.step(action)[0]]
        if terminated:
            break


@box_observations
def test_normalised_observations_are_standard_scores_of_what_was_seen(maker):
    env, bare = wrappers.NormalizeObservation(maker.scalar()), maker.scalar()
    observation, _ = env.reset(seed=5)
    seen = [bare.reset(seed=5)[0]]
    for action in sampled_actions(bare, 40):
        observation, _, terminated, *_ = env.step(action)
        seen.append(bare.step(action)[0])
        if terminated:
            break
    spread = np.sqrt(np.var(seen, axis=0) + 1e-8)
    # The wrapper starts from 1e-4 of an imagined observation.
    np.testing.assert_allclose(observation, (seen[-1] - np.mean(seen, axis=0)) / spread, rtol=0.01, atol=0.01)


@box_actions
def test_clip_action_takes_any_number_and_acts_at_the_bound(maker):
    env, bare = wrappers.ClipAction(maker.scalar()), maker.scalar()
    high = bare.action_space.high
    assert env.action_space.contains(high * 1000)
    env.reset(seed=6)
    bare.reset(seed=6)
    assert same(env.step(high * 1000)[:4], bare.step(high)[:4])
    assert same(env.step(high * 0.5)[:4], bare.step(high * 0.5)[:4])


@box_actions
def test_rescaled_actions_reach_the_bounds(maker):
    bare = maker.scalar()
    low, high = bare.action_space.low, bare.action_space.high
    env = wrappers.RescaleAction(maker.scalar(), np.float32(-10), np.float32(10))
    env.reset(seed=7)
    bare.reset(seed=7)
    for mine, theirs in [(-10, low), (10, high), (0, (low + high) / 2)]:
        assert same(env.step(np.full(low.shape, mine, np.float32))[:4], bare.step(theirs)[:4])


@kinds
def test_numpy_to_torch_gives_tensors_of_the_same_values(maker):
    env, bare = NumpyToTorch(maker.scalar()), maker.scalar()
    observation, _ = env.reset(seed=8)
    expected, _ = bare.reset(seed=8)
    if maker.name == "game":  # its info holds a Python object, which the wrapper has no tensor for
        with pytest.raises(Exception, match=r"No known conversion.*Board"):
            env.step(torch.as_tensor(bare.action_space.sample()))
        return
    for elapsed, action in enumerate(sampled_actions(bare, 3), start=1):
        parts = gym.spaces.flatten(bare.observation_space, expected)
        np.testing.assert_array_equal(gym.spaces.flatten(bare.observation_space, as_numpy(observation)), parts)
        assert isinstance(torch.utils._pytree.tree_leaves(observation)[0], torch.Tensor)
        observation, *_, info = env.step(torch.as_tensor(action))
        expected = bare.step(action)[0]
        assert int(info["elapsed_steps"]) == elapsed


@kinds
def test_autoreset_and_reward_wrappers_chain(maker):
    """Autoreset, TransformReward and OrderEnforcing over one another, against the bare view by hand."""
    env = wrappers.OrderEnforcing(
        wrappers.TransformReward(wrappers.Autoreset(wrappers.TimeLimit(maker.scalar(), 3)), lambda r: 2 * r)
    )
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    bare = maker.scalar()
    env.reset(seed=9)
    bare.reset(seed=9)
    over, elapsed = False, 0
    for action in sampled_actions(bare, 12):
        observation, reward, terminated, truncated, _ = env.step(action)
        if over:
            assert same((observation, reward, terminated, truncated), (bare.reset()[0], 0.0, False, False))
            over, elapsed = False, 0
            continue
        elapsed += 1
        expected, expected_reward, expected_end, *_ = bare.step(action)
        assert same((observation, reward, terminated), (expected, 2 * expected_reward, expected_end))
        assert truncated is (elapsed == 3)
        over = terminated or truncated


def bundled_id(name: str) -> str:
    return {"cartpole": "wm_vec/CartPole-v1", "pendulum": "wm_vec/Pendulum-v1"}[name]


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_gym_make_puts_its_passive_checker_around_and_it_finds_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(bundled_id(name), max_episode_steps=10)
        around, layer = [], env
        while isinstance(layer, gym.Wrapper):
            around.append(type(layer))
            layer = layer.env
        assert around == [wrappers.TimeLimit, wrappers.OrderEnforcing, wrappers.PassiveEnvChecker]
        env.reset(seed=0)
        taken = roll(env, sampled_actions(env, 25))
    bare = wrappers.TimeLimit(BY_NAME[name].scalar(), 10)
    bare.reset(seed=0)
    assert same(taken, roll(bare, sampled_actions(bare, 25)))


@kinds
def test_the_passive_checker_finds_nothing_in_any_kind(maker):
    env = wrappers.PassiveEnvChecker(maker.scalar(render_mode="rgb_array"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset(seed=0)
        env.step(sampled_actions(env, 1)[0])
        env.render()
        env.close()


@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_a_wrapped_env_is_made_again_from_its_spec(name):
    """What Gymnasium records of wrappers and options is enough to make the same environment."""
    env = gym.make(bundled_id(name), max_episode_steps=7)
    env = wrappers.FrameStackObservation(wrappers.RecordEpisodeStatistics(env), 2)
    again = gym.make(env.spec)
    rolled = []
    for each in (env, again):
        first, _ = each.reset(seed=1)
        rolled.append((first, roll(each, sampled_actions(env, 15))))
    assert same(*rolled)
