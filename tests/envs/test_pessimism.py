"""Wrappers that charge for disagreement: by hand over resets, by the checkers, under Stable-Baselines3."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics

from tests.envs.rollouts import MODES
from wm_vec.adapters import AdapterError
from wm_vec.envs import (
    PessimisticReward,
    PessimisticVectorReward,
    WorldModelEnv,
    WorldModelVectorEnv,
    check_vector_env,
)

COUNT = Box(0.0, 100.0, (1,), np.float32)
PUSH = Box(-1.0, 1.0, (1,), np.float32)
STARTS = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
END = 6.0


def count(state, action):
    """Counts up to `END`; pays the action, and the members disagree by a quarter of the count."""
    count = state + 1.0
    ends = count[..., 0] >= END
    info = {"disagreement": count[..., 0] / 4.0}
    return count, action[..., 0], ends, torch.zeros_like(ends), info


class Model:
    """No more than a name for messages."""


def vector(num_envs=4, transition_fn=count, **options):
    return WorldModelVectorEnv.from_callables(
        Model(), COUNT, PUSH, num_envs=num_envs, initial_state=STARTS, transition_fn=transition_fn, **options
    )


def scalar(transition_fn=count, **options):
    return WorldModelEnv(Model(), COUNT, PUSH, initial_state=STARTS[0], transition_fn=transition_fn, **options)


def pushes(num_steps, num_envs):
    return torch.rand(num_steps, num_envs, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1


# -- rewards and sums by hand ---------------------------------------------------------------------------------------


def test_the_scalar_env_is_charged():
    env = PessimisticReward(scalar(), 2.0)
    env.reset(seed=0)
    for step in range(1, 7):
        _, reward, terminated, _, info = env.step(np.array([0.5], np.float32))
        assert reward == pytest.approx(0.5 - 2.0 * step / 4.0)
        assert type(reward) is float
        assert info["penalty"] == pytest.approx(step / 2.0)
        assert terminated == (step == 6)


@pytest.mark.parametrize("mode", MODES)
def test_rewards_and_episodes_by_hand(mode):
    """Each env's counts are observed, so that a line of Python knows what every step and episode must come to."""
    env = PessimisticVectorReward(vector(autoreset_mode=mode), 2.0)
    observation, _ = env.reset(seed=1)
    # Per env: the count, the sum that is paid, the sum that is taken off, whether a reset is due.
    counts = observation[:, 0].tolist()
    paid, taken, due = [0.0] * 4, [0.0] * 4, [False] * 4
    ended_once = 0
    for t, action in enumerate(pushes(25, 4)):
        observation, reward, terminated, _, info = env.step(action)
        for i in range(4):
            if due[i]:  # NEXT_STEP spends this step on the reset
                assert reward[i] == 0
                assert info["penalty"][i] == 0
                assert info["episode"]["r"][i] == 0
                assert info["episode"]["penalty"][i] == 0
                counts[i], paid[i], taken[i], due[i] = float(observation[i]), 0.0, 0.0, False
                continue
            counts[i] += 1
            pushed, penalty = float(action[i]), counts[i] / 2
            assert float(reward[i]) == pytest.approx(pushed - penalty, abs=1e-6)
            paid[i], taken[i] = paid[i] + pushed - penalty, taken[i] + penalty
            for place in (info, info["final_info"]) if mode is AutoresetMode.SAME_STEP else (info,):
                assert float(place["episode"]["r"][i]) == pytest.approx(paid[i], abs=1e-5)
                assert float(place["episode"]["penalty"][i]) == pytest.approx(taken[i], abs=1e-5)
            assert bool(terminated[i]) == (counts[i] >= END)
            if not terminated[i]:
                continue
            ended_once += 1
            if mode is AutoresetMode.NEXT_STEP:
                due[i] = True
            elif mode is AutoresetMode.SAME_STEP:
                counts[i], paid[i], taken[i] = float(observation[i]), 0.0, 0.0
        if mode is AutoresetMode.DISABLED and terminated.any():
            mask = terminated if t % 2 else terminated.numpy()
            observation, _ = env.reset(options={"reset_mask": mask})
            for i in torch.nonzero(terminated)[:, 0].tolist():
                counts[i], paid[i], taken[i] = float(observation[i]), 0.0, 0.0
    assert ended_once > 10


@pytest.mark.parametrize("mode", MODES)
def test_partial_resets_begin_new_sums(mode):
    """Of an env in the middle of an episode, and of one whose reset is due; by mask and by number."""
    env = PessimisticVectorReward(vector(autoreset_mode=mode), 2.0)
    env.reset(seed=1)
    ended, sums = torch.zeros(4, dtype=torch.bool), torch.zeros(4)
    while not ended.any():
        _, reward, ended, _, info = env.step(torch.ones(4, 1))
        sums += reward
        torch.testing.assert_close(info["episode"]["r"], sums)
    index = int(ended.nonzero()[0])
    other = int((~ended).nonzero()[0])
    chosen = {"env_idx": [index, other]} if mode is AutoresetMode.SAME_STEP else {"env_idx": np.arange(4) == index}
    observation, _ = env.reset(options=chosen)
    _, reward, _, _, info = env.step(torch.ones(4, 1))
    begun = [index, other] if mode is AutoresetMode.SAME_STEP else [index]
    for i in begun:
        expected = 1.0 - (float(observation[i]) + 1.0) / 2.0
        assert float(reward[i]) == pytest.approx(expected)
        assert float(info["episode"]["r"][i]) == pytest.approx(expected)
    if mode is not AutoresetMode.SAME_STEP:
        assert info["episode"]["r"][other] == pytest.approx(float(sums[other] + reward[other]))
    env.reset()
    _, reward, _, _, info = env.step(torch.ones(4, 1))
    assert torch.equal(info["episode"]["r"], reward)


def test_what_is_handed_out_is_the_callers_to_write_into():
    env, twin = (PessimisticVectorReward(vector(autoreset_mode="disabled"), 2.0) for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    for action in pushes(3, 4):
        spoilt, kept = env.step(action), twin.step(action)
        assert torch.equal(spoilt[4]["episode"]["r"], kept[4]["episode"]["r"])
        for tensor in (spoilt[1], spoilt[4]["penalty"], *spoilt[4]["episode"].values()):
            tensor.fill_(99)


def test_without_a_coefficient_nothing_changes():
    env, plain = PessimisticVectorReward(vector(), 0.0), vector()
    env.reset(seed=0)
    plain.reset(seed=0)
    for action in pushes(20, 4):
        one, two = env.step(action), plain.step(action)
        assert torch.equal(one[1], two[1])
        assert torch.equal(one[4]["episode"]["r"], two[4]["episode"]["r"])


def breaking(state, action):
    """Breaks down from a count of 3 on: nothing is a number there, and neither is the disagreement."""
    following, reward, ends, cut, info = count(state, action)
    gone = torch.where(following > 3, torch.inf, following)
    told = info["disagreement"] + (gone - gone)[..., 0]  # inf - inf
    return gone, reward, ends, cut, {"disagreement": told}


def test_a_world_that_breaks_down_costs_nothing_and_spoils_no_sum():
    env = PessimisticVectorReward(vector(transition_fn=breaking), 2.0)
    env.reset(seed=0)
    broken = 0
    for action in pushes(12, 4):
        _, reward, terminated, _, info = env.step(action)
        down = info["diverged"]
        broken += int(down.sum())
        assert torch.equal(terminated, down)
        assert not reward[down].any()
        assert info["episode"]["r"].isfinite().all()
    assert broken > 4
    single = PessimisticReward(scalar(lambda state, action: breaking(state, action), batching="batched"), 2.0)
    single.reset(seed=0)
    rewards = [single.step(np.zeros(1, np.float32))[1] for _ in range(4)]
    assert rewards == pytest.approx([-0.5, -1.0, -1.5, 0.0])


def test_what_a_model_that_is_called_directly_pays_is_handed_on():
    """Nobody there judges whether the world broke down."""
    single = PessimisticReward(scalar(lambda state, action: breaking(state, action)), 2.0)
    single.reset(seed=0)
    rewards = [single.step(np.zeros(1, np.float32))[1] for _ in range(4)]
    assert rewards[:3] == pytest.approx([-0.5, -1.0, -1.5])
    assert np.isnan(rewards[3])


# -- other people's checkers and statistics -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_vector_env_keeps_its_contract(mode):
    """Our checker sums the rewards itself, and compares ``info["episode"]``."""

    def make(num_envs):
        return PessimisticVectorReward(vector(num_envs, autoreset_mode=mode, max_episode_steps=2), 1.5)

    report = check_vector_env(make(5), num_steps=64, make_env=make)
    assert "statistics" in report.passed
    assert set(report.skipped) <= {"final_obs"}


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_the_scalar_env_passes_gymnasiums_checker_and_keeps_its_recipe():
    env = PessimisticReward(scalar(max_episode_steps=10), 1.5)
    check_env(env, skip_render_check=True)
    gym.register("wm_vec_tests/Counting-v0", entry_point=scalar)
    try:
        recipe = PessimisticReward(gym.make("wm_vec_tests/Counting-v0"), 1.5, key="disagreement").spec
        again = gym.make(recipe)
        again.reset(seed=0)
        assert again.step(np.zeros(1, np.float32))[1] == pytest.approx(-1.5 / 4)
    finally:
        del gym.registry["wm_vec_tests/Counting-v0"]


def test_statistics_count_the_rewards_of_what_they_wrap():
    outside = RecordEpisodeStatistics(PessimisticReward(scalar(), 2.0))
    inside = PessimisticReward(RecordEpisodeStatistics(scalar()), 2.0)
    for env, expected in ((outside, 6 * 0.5 - 2 * 21 / 4), (inside, 6 * 0.5)):
        env.reset(seed=0)
        for _ in range(6):
            info = env.step(np.array([0.5], np.float32))[4]
        assert info["episode"]["r"] == pytest.approx(expected)


def test_stable_baselines3_sees_the_charged_rewards():
    pytest.importorskip("stable_baselines3")
    from wm_vec.envs import SB3VecEnv

    charged = SB3VecEnv(PessimisticVectorReward(vector(), 2.0))
    plain = SB3VecEnv(vector())
    charged.seed(0)
    plain.seed(0)
    before = charged.reset()
    assert np.array_equal(before, plain.reset())
    ends, sums = 0, np.zeros(4)
    for action in pushes(12, 4).numpy():
        observation, reward, done, infos = charged.step(action)
        _, own, _, own_infos = plain.step(action)
        penalty = (before[:, 0] + 1) / 2
        np.testing.assert_allclose(reward, own - penalty, rtol=1e-5)
        sums += reward
        for i in np.flatnonzero(done):
            ends += 1
            assert infos[i]["episode"]["r"] == pytest.approx(sums[i], abs=1e-4)
            assert infos[i]["episode"]["r"] < own_infos[i]["episode"]["r"]
            assert infos[i]["terminal_observation"] == [END]
            sums[i] = 0
        before = observation
    assert ends > 4
    assert charged.env_is_wrapped(PessimisticVectorReward) == [True] * 4


# -- what does not fit ----------------------------------------------------------------------------------------------


def silent(state, action):
    return (*count(state, action)[:4], {"spread": state[..., 0]})


@pytest.mark.parametrize("fn", [silent, count])
def test_a_key_that_is_not_there(fn):
    key = "disagreement" if fn is silent else "doubt"
    message = re.escape(f"info has no {key!r}; it has [")
    env = PessimisticReward(scalar(fn), 1.0, key)
    env.reset(seed=0)
    with pytest.raises(AdapterError, match=f"PessimisticReward: {message}"):
        env.step(np.zeros(1, np.float32))
    env = PessimisticVectorReward(vector(transition_fn=fn), 1.0, key)
    env.reset(seed=0)
    with pytest.raises(AdapterError, match=r"return info with '\w+': a number per env, shape \(4,\)") as caught:
        env.step(torch.zeros(4, 1))
    assert ("'spread'" if fn is silent else "'disagreement'") in str(caught.value)


def test_a_key_of_another_name_and_a_column_are_taken():
    env = PessimisticVectorReward(vector(transition_fn=silent), 1.0, "spread")
    column = PessimisticVectorReward(
        vector(transition_fn=lambda state, action: (*count(state, action)[:4], {"spread": state})), 1.0, "spread"
    )
    env.reset(seed=0)
    column.reset(seed=0)
    assert torch.equal(env.step(torch.zeros(4, 1))[1], column.step(torch.zeros(4, 1))[1])


@pytest.mark.parametrize("value", [torch.ones(4, 2), torch.tensor(1.0), 1.0, "much"])
def test_a_disagreement_that_is_no_number_per_env(value):
    env = PessimisticVectorReward(vector(transition_fn=lambda s, a: (*count(s, a)[:4], {"disagreement": value})), 1.0)
    env.reset(seed=0)
    with pytest.raises(AdapterError, match=r"info\['disagreement'\] must be a tensor of a number per env"):
        env.step(torch.zeros(4, 1))


@pytest.mark.parametrize("value", [torch.ones(2), "much"])
def test_a_disagreement_that_is_not_one_number(value):
    env = PessimisticReward(scalar(lambda s, a: (*count(s, a)[:4], {"disagreement": value})), 1.0)
    env.reset(seed=0)
    with pytest.raises(AdapterError, match=r"info\['disagreement'\] must be one number, got"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("coefficient", [-0.1, float("nan"), float("inf"), "1", True])
@pytest.mark.parametrize(("wrapper", "env"), [(PessimisticReward, scalar), (PessimisticVectorReward, vector)])
def test_coefficients_that_mean_nothing(wrapper, env, coefficient):
    with pytest.raises(ValueError, match=f"{wrapper.__name__}: coefficient must be"):
        wrapper(env(), coefficient)


def test_arrays_belong_into_scalar_wrappers():
    env = PessimisticVectorReward(SyncVectorEnv([scalar, scalar]), 1.0)
    env.reset(seed=0)
    with pytest.raises(AdapterError, match="Wrap the scalar environments in PessimisticReward"):
        env.step(np.zeros((2, 1), np.float32))
    envs = SyncVectorEnv([lambda: PessimisticReward(scalar(), 2.0)] * 2)
    envs.reset(seed=0)
    assert envs.step(np.zeros((2, 1), np.float32))[1] == pytest.approx([-0.5, -0.5])
