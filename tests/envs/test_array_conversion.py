"""Gymnasium's vector wrappers around every kind of vector environment that we make, NumPy through ArrayConversion."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Tuple, flatten, flatten_space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate
from gymnasium.wrappers import vector as wrappers

from tests.envs.makers import MAKERS, as_numpy, same, sampled_actions
from tests.envs.videos import FPS, frames_of

SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
HORIZON = 5

kinds = pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.name)
modes = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
box_actions = pytest.mark.parametrize(
    "maker", [m for m in MAKERS if isinstance(m.scalar().action_space, Box)], ids=lambda maker: maker.name
)
box_observations = pytest.mark.parametrize(
    "maker", [m for m in MAKERS if isinstance(m.scalar().observation_space, Box)], ids=lambda maker: maker.name
)


def bare(maker, mode=SAME, num_envs=3, horizon=HORIZON, **options) -> VectorEnv:
    return maker.vector(num_envs, max_episode_steps=horizon, autoreset_mode=mode, **options)


def numpy(*args, **options) -> VectorEnv:
    """The environment with NumPy in and out."""
    return wrappers.ArrayConversion(bare(*args, **options), env_xp=torch, target_xp=np)


def leaves(value) -> list:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


@kinds
@modes
def test_array_conversion_gives_the_same_numbers_as_numpy(maker, mode):
    mine, ours = numpy(maker, mode), bare(maker, mode)
    observation, info = mine.reset(seed=5)
    assert same(observation, as_numpy(ours.reset(seed=5)[0]))
    ends = 0
    for action in sampled_actions(mine, 14):
        assert observation in mine.observation_space
        *taken, info = mine.step(action)
        *expected, our_info = ours.step(torch.as_tensor(action))
        assert same(taken, as_numpy(expected))
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves([taken, info]))
        assert set(info) == set(our_info)
        assert same(dict(info["episode"]), as_numpy(our_info["episode"]))
        observation, _, terminated, truncated = taken
        ended = terminated | truncated
        ends += ended.sum()
        if mode is SAME:
            assert same(info["final_obs"], as_numpy(our_info["final_obs"]))
            np.testing.assert_array_equal(info["_final_obs"], ended)
        if mode is DISABLED and ended.any():
            observation, _ = mine.reset(options={"reset_mask": ended})
            assert same(observation, as_numpy(ours.reset(options={"reset_mask": torch.as_tensor(ended)})[0]))
    assert ends >= 6


@kinds
@modes
def test_upstreams_statistics_are_the_sums_of_what_came(maker, mode):
    """Under a key of its own, since ours stand under ``episode`` already; masked resets under DISABLED included."""
    env = wrappers.RecordEpisodeStatistics(numpy(maker, mode), stats_key="theirs")
    env.reset(seed=1)
    rewards: list[list[float]] = [[] for _ in range(3)]
    over = np.zeros(3, bool)
    returns = []
    for action in sampled_actions(env, 20):
        _, reward, terminated, truncated, info = env.step(action)
        ended = terminated | truncated
        for i in range(3):
            if mode is not SAME or not ended[i]:  # at an end under SAME_STEP theirs are those of the next episode
                assert info["episode"]["l"][i] == env.episode_lengths[i]
                assert info["episode"]["r"][i] == pytest.approx(env.episode_returns[i], rel=1e-5, abs=1e-5)
            if mode is NEXT and over[i]:
                assert (reward[i], ended[i]) == (0, False)  # the step that resets
                assert (info["episode"]["l"][i], info["episode"]["r"][i]) == (0, 0)
                continue
            rewards[i].append(float(reward[i]))
            if ended[i]:
                assert info["_theirs"][i]
                assert info["theirs"]["l"][i] == info["episode"]["l"][i] == len(rewards[i])
                assert info["theirs"]["r"][i] == pytest.approx(math.fsum(rewards[i]), rel=1e-6, abs=1e-6)
                assert info["episode"]["r"][i] == pytest.approx(math.fsum(rewards[i]), rel=1e-5, abs=1e-5)
                returns.append(math.fsum(rewards[i]))
                rewards[i] = []
        over = ended
        if mode is DISABLED and ended.any():
            env.reset(options={"reset_mask": ended.copy()})
    assert len(returns) >= 9
    np.testing.assert_allclose(env.return_queue, returns, rtol=1e-6, atol=1e-6)


def test_upstreams_statistics_refuse_our_key():
    """Why they need a key of their own."""
    env = wrappers.RecordEpisodeStatistics(numpy(MAKERS[0], horizon=1))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'episode' but this key already exists"):
        env.step(env.action_space.sample())


def test_a_masked_reset_leaves_the_callers_options_alone():
    env = numpy(MAKERS[0], DISABLED)
    env.reset(seed=0)
    options = {"reset_mask": np.array([True, False, True])}
    env.reset(options=options)
    assert list(options) == ["reset_mask"]
    np.testing.assert_array_equal(options["reset_mask"], [True, False, True])


@box_observations
def test_normalised_observations_are_standard_scores_of_what_was_seen(maker):
    env, plain = wrappers.NormalizeObservation(numpy(maker, NEXT, 16)), numpy(maker, NEXT, 16)
    env.reset(seed=5)
    seen = [plain.reset(seed=5)[0].copy()]
    for action in sampled_actions(plain, HORIZON - 1):
        observation, *_ = env.step(action)
        seen.append(plain.step(action)[0].copy())
    everything = np.concatenate(seen).astype(np.float64)
    scores = (seen[-1] - everything.mean(0)) / np.sqrt(everything.var(0) + 1e-8)
    # The wrapper starts from 1e-4 of an imagined observation.
    np.testing.assert_allclose(observation, scores, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("mode", [SAME, DISABLED], ids=lambda mode: mode.value)
def test_upstream_normalises_observations_under_next_step_alone(mode):
    with pytest.raises(ValueError, match=rf"NEXT_STEP.*, got AutoresetMode\.{mode.name}"):
        wrappers.NormalizeObservation(numpy(MAKERS[0], mode))


@kinds
def test_flattened_observations_hold_the_same_values(maker):
    env, plain = wrappers.FlattenObservation(numpy(maker, NEXT)), numpy(maker, NEXT)
    single = plain.single_observation_space
    assert env.single_observation_space == flatten_space(single)
    mine, theirs = env.reset(seed=2)[0], plain.reset(seed=2)[0]
    for action in sampled_actions(plain, 8):
        expected = np.stack([flatten(single, row) for row in iterate(plain.observation_space, theirs)])
        np.testing.assert_array_equal(mine, expected)
        mine, theirs = env.step(action)[0], plain.step(action)[0]


@box_actions
def test_clipped_and_rescaled_actions_reach_the_bounds(maker):
    plain = numpy(maker)
    high = plain.action_space.high
    rescaled = wrappers.RescaleAction(numpy(maker), np.float32(-10), np.float32(10))
    clipped = wrappers.ClipAction(numpy(maker))
    for env in (plain, rescaled, clipped):
        env.reset(seed=3)
    expected = plain.step(high)[:4]
    assert same(rescaled.step(np.full_like(high, 10))[:4], expected)
    assert same(clipped.step(high * 1000)[:4], expected)


@kinds
def test_rewards_can_be_transformed_and_clipped(maker):
    env = wrappers.ClipReward(wrappers.TransformReward(numpy(maker), lambda r: 3 * r), -0.5, 0.5)
    plain = numpy(maker)
    env.reset(seed=4)
    plain.reset(seed=4)
    for action in sampled_actions(plain, 8):
        np.testing.assert_array_equal(env.step(action)[1], np.clip(3 * plain.step(action)[1], -0.5, 0.5))


@kinds
@modes
def test_infos_come_as_one_dict_per_env(maker, mode):
    plain = numpy(maker, mode)
    if mode is SAME and isinstance(plain.single_observation_space, Tuple):
        pytest.skip("final_obs is a tuple then, which Gymnasium's DictInfoToList does not know")
    env = wrappers.DictInfoToList(numpy(maker, mode))
    env.reset(seed=6)
    plain.reset(seed=6)
    ends = 0
    for action in sampled_actions(plain, HORIZON):
        infos, info = env.step(action)[-1], plain.step(action)[-1]
        for i, own in enumerate(infos):
            assert ("episode" in own) is bool(info["_episode"][i])
            assert ("final_info" in own) is (mode is SAME and "episode" in own)
            if "episode" in own:
                ends += 1
                assert own["episode"]["l"] == info["episode"]["l"][i]
                assert own["episode"]["r"] == info["episode"]["r"][i]
            if "final_info" in own:
                assert own["final_info"]["episode"] == own["episode"]
    assert ends >= 3


@kinds
def test_a_recorded_video_shows_all_envs(maker, tmp_path):
    """Tensors in and out: the recorder only renders."""
    env = bare(maker, NEXT, 2, render_mode="rgb_array")
    recorder = wrappers.RecordVideo(env, tmp_path / "videos", episode_trigger=lambda episode: episode == 0, fps=FPS)
    recorder.reset(seed=0)
    shown = [np.concatenate(env.render(), 1)]
    for _ in range(3):
        recorder.step(env.sample_actions())
        shown.append(np.concatenate(env.render(), 1))
    recorder.close()
    (path,) = (tmp_path / "videos").iterdir()
    frames = frames_of(path)
    if frames.shape[1:] != shown[0].shape:  # one above the other
        shown = [np.concatenate(np.split(frame, 2, 1), 0) for frame in shown]
    assert frames.shape == (4, *shown[0].shape)
    assert np.abs(frames.astype(float) - np.stack(shown)).mean((1, 2, 3)).max() < 6


@kinds
def test_a_converted_environment_pickles(maker):
    env = numpy(maker)
    env.reset(seed=7)
    first, *rest = sampled_actions(env, 9)
    env.step(first)
    others = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
    for action in rest:
        expected = env.step(action)[:4]
        assert all(same(other.step(action)[:4], expected) for other in others)
