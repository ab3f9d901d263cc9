"""The Stable-Baselines3 face: observations and actions of every kind, on an environment that is counted by hand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.envs.counting import IMAGE, KINDS, Counting, actions_for, expected_observation
from tests.envs.test_transfer import CountHostReads

pytest.importorskip("stable_baselines3")

from stable_baselines3.common.vec_env import VecNormalize

from wm_vec.envs import SB3VecEnv


def assert_observation(got, expected, row=None):
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for key in expected:
            assert_observation(got[key], expected[key], row)
        return
    got = got if row is None else got[row]
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_observation_and_our_own_count_of_episodes(kind):
    venv = SB3VecEnv(Counting(4, *KINDS[kind]))
    observation = venv.reset()
    for i in range(4):
        assert_observation(observation, expected_observation(kind, i, 0), i)
    actions = actions_for(venv, 12)
    for t, action in enumerate(actions, 1):
        observation, reward, done, infos = venv.step(action)
        assert reward.dtype == np.float32
        np.testing.assert_array_equal(reward, action)
        for i in range(4):
            length = i + 2
            assert_observation(observation, expected_observation(kind, i, t % length), i)
            assert venv.observation_space.contains(
                {k: v[i] for k, v in observation.items()} if kind == "dict" else observation[i]
            )
            assert done[i] == (t % length == 0)
            if not done[i]:
                assert infos[i] == {}
                continue
            assert_observation(infos[i]["terminal_observation"], expected_observation(kind, i, length))
            assert infos[i]["TimeLimit.truncated"] is (i % 2 == 1)
            episode = infos[i]["episode"]
            assert (episode["r"], episode["l"]) == (sum(int(a[i]) for a in actions[t - length : t]), length)
    venv.step(actions[0])
    venv.reset()
    _, _, _, infos = venv.step(actions[1])
    _, _, _, infos = venv.step(actions[2])
    assert infos[0]["episode"]["r"] == actions[1][0] + actions[2][0], "a reset starts the count anew"


@pytest.mark.parametrize("kind", ["numbers", "dict"])
def test_one_copy_to_the_host_per_step(kind):
    venv = SB3VecEnv(Counting(4, *KINDS[kind]))
    venv.reset()
    ended = 0
    for actions in actions_for(venv, 12):
        with CountHostReads() as count:
            venv.step_async(actions)
        assert count.calls == {"to": 1}, "the actions, on their way in"
        with CountHostReads() as count:
            *_, done, _ = venv.step_wait()
        assert count.calls == {"cpu": 1, "numpy": 1}
        ended += done.sum()
    assert ended >= 5


def test_options_are_shared():
    vector = Counting(2, *KINDS["classes"])
    venv = SB3VecEnv(vector)
    venv.set_options({"level": 3})
    venv.reset()
    assert vector.options == {"level": 3}
    venv.reset()
    assert vector.options is None
    venv.set_options([{"level": 1}, {"level": 2}])
    with pytest.raises(ValueError, match="share their options"):
        venv.reset()


@pytest.mark.parametrize(
    ("space", "given", "dtype"),
    [
        (spaces.Discrete(3), np.array([2, 1], np.int32), torch.int64),
        # Of such actions policies make floats.
        (spaces.MultiBinary(2), np.array([[1, 0], [0, 1]], np.float32), torch.int8),
        (spaces.Box(-1, 1, (1,)), np.array([[0.5], [-0.5]]), torch.float32),
    ],
)
def test_the_environment_gets_actions_of_its_own(space, given, dtype):
    vector = Counting(2, *KINDS["classes"], actions=space)
    venv = SB3VecEnv(vector)
    venv.reset()
    values = given.tolist()
    venv.step(given)
    given[:] = 0
    assert vector.taken.dtype == dtype
    assert vector.taken.tolist() == values


def test_a_normaliser_leaves_the_environments_spaces_alone():
    """It writes boxes of its own into the Dict that it is given; algorithms seed spaces."""
    vector = Counting(2, *KINDS["dict"])
    venv = SB3VecEnv(vector)
    VecNormalize(venv, norm_obs_keys=["image"])
    assert vector.single_observation_space == KINDS["dict"][0]
    for theirs, ours in (
        (vector.single_action_space, venv.action_space),
        (vector.single_observation_space["mode"], venv.observation_space["mode"]),
    ):
        theirs.seed(0)
        expected = [theirs.sample() for _ in range(20)]
        theirs.seed(0)
        ours.seed(1)
        assert [theirs.sample() for _ in range(20)] == expected


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({"a.b": IMAGE, "a_b": IMAGE}), "two parts .* would be 'a_b'; rename one"),
        (spaces.Dict({"a": spaces.Dict({"b": IMAGE}), "a_b": IMAGE}), "two parts .* would be 'a_b'; rename one"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Text(3)})}), r"the observation space's 'a''s 'b' is Text"),
        (spaces.Tuple([IMAGE, spaces.Discrete(3, start=1)]), r"the observation space's 1 is .*counts classes from 0"),
        (spaces.Discrete(3, start=1), "counts classes from 0"),
    ],
)
def test_observation_spaces_that_no_policy_takes(space, message):
    with pytest.raises(ValueError, match=message):
        SB3VecEnv(Counting(2, space, None))


def test_action_spaces_that_no_policy_takes():
    with pytest.raises(ValueError, match="the action space is Dict"):
        SB3VecEnv(Counting(2, *KINDS["image"], actions=spaces.Dict({"a": spaces.Discrete(2)})))


def test_other_environments_are_refused(cartpole):
    with pytest.raises(TypeError, match=r"to_vector_env\(\)"):
        SB3VecEnv(cartpole.to_env())
    numpy = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(TypeError, match=r"observation must be a torch tensor, got ndarray.*DummyVecEnv"):
        SB3VecEnv(numpy).reset()
    with pytest.raises(ValueError, match=r"observation must have shape \(2, 1\), got \(2,\)"):
        SB3VecEnv(Counting(2, spaces.Box(0, 9, (1,)), lambda i, n: n)).reset()


def test_an_episodes_end_without_its_last_observation():
    venv = SB3VecEnv(Counting(3, *KINDS["classes"], final=False))
    venv.reset()
    venv.step(np.zeros(3, np.int64))
    with pytest.raises(RuntimeError, match=r"envs \[0\] ended.*'final_obs'"):
        venv.step(np.zeros(3, np.int64))


BOX, BITS = spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Discrete(3), np.zeros(3, np.int64), r"shape \(2,\), got shape \(3,\)"),
        (spaces.Discrete(3), np.array(["a", "b"]), "numbers"),
        (spaces.Discrete(3), np.array([0, 3]), r"Discrete\(3\), got 3 for env 1"),
        (spaces.Discrete(3), np.array([-1, 0]), "got -1 for env 0"),
        (spaces.Discrete(3), np.array([0.5, 0]), "got 0.5 for env 0"),
        (spaces.MultiDiscrete([2, 3]), np.array([[1, 2], [2, 1]]), r"got \[2 1\] for env 1"),
        (BITS, np.array([[1, 0], [0, 2]]), "for env 1"),
        (BOX, np.array([[0, np.nan], [0, 0]]), "finite numbers, got .* for env 0"),
        (BOX, np.zeros((2, 1)), r"shape \(2, 2\)"),
    ],
)
def test_bad_actions_are_named(space, actions, message):
    venv = SB3VecEnv(Counting(2, *KINDS["classes"], actions=space))
    venv.reset()
    with pytest.raises(ValueError, match=message):
        venv.step(actions)
    assert venv.step(np.zeros((2, *space.shape)))[0].tolist() == [1, 1]
