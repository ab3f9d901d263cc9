"""An exact sampler meets the bars that learned worlds are held to, and a wrong one does not."""

from functools import cache

import gymnasium as gym
import numpy as np
import pytest

import benchmarks.truth_figures as measure
from benchmarks.report import bar
from benchmarks.truth_drift import drift_figures, quality
from tests.stochastic_envs import CoinReward
from wm_vec import collect_transitions
from wm_vec.train.collect import RandomActions
from wm_vec.train.episodes import ImaginedSteps, real_episodes

STOCHASTIC = "tests.stochastic_envs:wm_vec_tests/{}-v0"


class RealSteps:
    """A subject that imagines what the environment itself does, from a state that is set."""

    def __init__(self, env_id, n):
        self.env_id, self.env, self.k = env_id, gym.make(env_id), 5
        steps = collect_transitions(env_id, n, "random", seed=0)
        following = {
            "next_observation": steps["next", "observation"],
            "reward": steps["next", "reward"][:, 0],
            "terminated": steps["next", "terminated"][:, 0],
        }
        arrays = {"observation": steps["observation"], "action": steps["action"], **following}
        self.held_out = {name: tensor.numpy() for name, tensor in arrays.items()}
        self.env.reset(seed=1)

    def sample(self, where=slice(None), draws=1):
        env, rows = self.env.unwrapped, []
        for _ in range(draws):
            for seen, action in zip(self.held_out["observation"][where], self.held_out["action"][where], strict=True):
                if seen.shape:
                    env.x = float(seen[0])
                else:
                    env.s = int(seen)
                rows.append(env.step(action)[:3])
        observation, reward, ended = (np.array(column) for column in zip(*rows, strict=True))
        shaped = (x.reshape(draws, -1, *x.shape[1:]) for x in (observation, reward, ended, np.zeros_like(ended)))
        return ImaginedSteps(*shaped)

    def both_episodes(self):
        n, horizon = 60, self.env.spec.max_episode_steps
        policies = (RandomActions(self.env.action_space, n, seed, "random") for seed in (1, 2))
        return [real_episodes(self.env_id, n, p, max_steps=horizon, seed=10_000 * i) for i, p in enumerate(policies)]


CASES = {
    "Hazard": (STOCHASTIC.format("Hazard"), measure.hazard, 20_000),
    "Bimodal": (STOCHASTIC.format("Bimodal"), measure.bimodal, 2000),
    "CoinReward": (STOCHASTIC.format("CoinReward"), measure.coin_reward, 5000),
    "RareEnd": (STOCHASTIC.format("RareEnd"), measure.rare_end, 30_000),
    "FrozenLake": ("FrozenLake-v1", measure.frozen_lake, 5000),
    "Taxi": ("Taxi-v4", measure.next_class, 2000),
}


@cache
def figures_of(name):
    env_id, figures, n = CASES[name]
    return {row["figure"]: row for row in figures(RealSteps(env_id, n))}


@pytest.mark.parametrize("name", CASES)
def test_the_environment_itself_meets_every_bar(name):
    rows = figures_of(name)
    assert [figure for figure, row in rows.items() if row["met"] is False] == []
    assert any(row["met"] for row in rows.values())


def test_chances_are_those_of_the_table():
    rows = figures_of("RareEnd")
    assert rows["end rate / real"]["real"] == pytest.approx(1 / 570, rel=0.3)
    assert rows["end recall"]["value"] < 0.95  # of noise, not of a threshold alone
    sd, gap = figures_of("Bimodal").values()
    assert (sd["real"], gap["real"]) == (pytest.approx(0.1005, abs=0.001), pytest.approx(0.0062, abs=0.005))


def test_another_chance_misses_the_bars(monkeypatch):
    hazard = RealSteps(STOCHASTIC.format("Hazard"), 20_000)
    monkeypatch.setattr("tests.stochastic_envs.HAZARD", 1 / 1000)
    assert not measure.ends(hazard, 0.7, 1.4)[0]["met"]
    coin = RealSteps(STOCHASTIC.format("CoinReward"), 3000)
    monkeypatch.setattr(CoinReward, "reward", lambda self, before: 0.25 * (before > 0))
    assert [row["met"] for row in measure.coin_reward(coin)] == [False, None, False]
    lengths = np.random.default_rng(0).geometric(1 / 200, 1000), np.random.default_rng(1).geometric(1 / 1000, 1000)
    assert not measure.ks_figure("episode lengths", *lengths)["met"]


def test_drift_is_the_median_error_of_what_is_alive():
    rng = np.random.default_rng(0)
    now, moved = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    path, alive = np.zeros((50, 40, 2)), np.ones((50, 40), bool)
    alive[:, 30:] = False
    real = {"one_start": now, "one_next": now + moved, "path_next": path, "alive": alive}
    off = path + np.where(alive[..., None], 0.3, 99.0)
    found = quality(real, {"one": (now + moved)[None], "path": off})
    assert found["r2"] == [1, 1]
    assert found["alive at 20"] == 30
    assert found["drift at 50"] == pytest.approx(0.3 / real["one_next"].std(0))
    standing = quality(real, {"one": now[None], "path": 2 * off})
    assert standing["r2"] == pytest.approx([0, 0], abs=0.02)
    rows = drift_figures("nameless", {seed: {"now": standing, "before": found} for seed in (0, 1)})
    assert [row["value"] for row in rows[2:]] == pytest.approx([2] * 4)
    assert not any(row["met"] for row in rows)
    assert bar(rows[-1]) == "at most 1.5"
