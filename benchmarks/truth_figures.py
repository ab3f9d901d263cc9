"""What a learned world is held to, world by world: figures of imagined steps and episodes beside real ones.

Every function takes a `Subject` and returns its figures, each made by `figure`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from safetensors.torch import load_file, save_file

from benchmarks.open_loop import imagination
from tests.stochastic_envs import Bimodal
from wm_vec import WorldModel
from wm_vec.cli.ppo import Policy, PPOConfig, train_policy
from wm_vec.train.collect import RandomActions
from wm_vec.train.episodes import Episodes, ImaginedSteps, imagined_episodes, real_episodes
from wm_vec.train.rollout_metrics import ks_statistic

ALPHA = 0.01
END_DRAWS = 20
"""Samples at every real end, for the recall."""
GAP = 0.075
"""Noise nearer to 0 than this, 2.5 deviations of a mode from its middle, lies between the modes: .6 % of the real."""
VELOCITIES, LEGS = {"x": 2, "y": 3, "angular": 5}, slice(6, 8)
"""LunarLander's dimensions."""


def figure(name: str, value: float | None, low: float | None = None, high: float | None = None, **more: Any) -> dict:
    """A figure with its bar, ``low <= value <= high``, and whether it is met: None where there is no bar."""
    met = None
    if low is not None or high is not None:
        met = value is not None and (low is None or value >= low) and (high is None or value <= high)
    return {"figure": name, "value": value, "at_least": low, "at_most": high, "met": met, **more}


@dataclass
class Subject:
    """A trained world and held-out steps of the environment that it was learned from.

    Attributes:
        env_id: The environment's id.
        world: The world.
        held_out: ``observation``, ``action``, ``next_observation`` ``(n, ...)``, ``reward``, ``terminated`` ``(n,)``.
        episodes: Episodes on either side.
        seed: Seeds what is imagined.
        k: Denoise steps; None for the world's own.
    """

    env_id: str
    world: WorldModel
    held_out: dict[str, np.ndarray]
    episodes: int
    seed: int
    k: int | None

    def __post_init__(self) -> None:
        self.env = gym.make(self.env_id)
        self.imagination = imagination(self.world, self.k)

    def sample(self, where: np.ndarray | slice = slice(None), draws: int = 1) -> ImaginedSteps:
        """One imagined step from held-out steps' observations and actions, ``(draws, n, ...)``."""
        observation, action = (np.concatenate([self.held_out[x][where]] * draws) for x in ("observation", "action"))
        steps = self.imagination.steps(observation, action[None], self.seed + 1)
        columns = steps.observation, steps.reward, steps.terminated, steps.diverged
        return ImaginedSteps(*(x.reshape(draws, -1, *x.shape[2:]) for x in columns))

    def both_episodes(self) -> tuple[Episodes, Episodes]:
        """Real and imagined episodes under random actions, to the environment's own horizon."""
        assert self.env.spec is not None
        horizon, n = self.env.spec.max_episode_steps, self.episodes
        assert horizon is not None
        space = self.env.action_space
        engine = self.world.to_engine(n, n_denoise_steps=self.k, max_episode_steps=horizon, autoreset_mode="disabled")
        real_policy, policy = (RandomActions(space, n, seed, "random") for seed in (self.seed + 2, self.seed + 3))
        real = real_episodes(self.env_id, n, real_policy, max_steps=horizon, seed=self.seed + 50_000)
        return real, imagined_episodes(engine, space, policy, max_steps=horizon, seed=self.seed + 3)

    def policy_return(self, path: Path, config: PPOConfig, num_envs: int, episodes: int) -> float:
        """Mean real return of a policy that is trained in the world alone, unless `path` keeps it already."""
        assert self.env.spec is not None
        horizon, policy = self.env.spec.max_episode_steps, Policy(self.world, config.seed)
        if path.exists():
            policy.load_state_dict(load_file(path))
        else:
            settings: dict[str, Any] = {"n_denoise_steps": self.k, "max_episode_steps": horizon, "seed": config.seed}
            env = self.world.to_vector_env(num_envs, **settings)
            env.reset()
            train_policy(policy, env, config)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.clone() for name, tensor in policy.state_dict().items()}, path)
        assert horizon is not None
        returns = real_episodes(self.env_id, episodes, policy, max_steps=horizon, seed=config.seed + 60_000).returns
        return float(returns.mean())


def ks_figure(name: str, real: np.ndarray, imagined: np.ndarray) -> dict:
    """The Kolmogorov-Smirnov statistic against its critical value for two large samples at `ALPHA`."""
    n, m = len(real), len(imagined)
    critical = math.sqrt(-math.log(ALPHA / 2) / 2) * math.sqrt((n + m) / (n * m))
    return figure(f"KS of {name}", ks_statistic(real, imagined), high=critical, real=float(real.mean()))


def ends(subject: Subject, low: float, high: float, recall: float | None = None) -> list[dict]:
    """The rate of imagined ends over the real one, with its 95 % interval; and the share of real ends imagined."""
    real = subject.held_out["terminated"]
    imagined = subject.sample()
    counts = int(real.sum()), int(imagined.terminated.sum())
    more: dict[str, Any] = {"real": float(real.mean()), "real_ends": counts[0], "imagined_ends": counts[1]}
    ratio = counts[1] / counts[0] if counts[0] else None
    if ratio:
        half = 1.96 * math.sqrt(1 / counts[0] + 1 / counts[1])  # normal approximation of the ratio's logarithm
        more["interval"] = [ratio * math.exp(-half), ratio * math.exp(half)]
    figures = [figure("end rate / real", ratio, low, high, **more)]
    if recall is not None:
        share = None
        if counts[0]:
            share = float(subject.sample(np.flatnonzero(real), END_DRAWS).terminated.mean())
        figures.append(figure("end recall", share, recall, real_ends=counts[0]))
    return figures


def hazard(subject: Subject) -> list[dict]:
    """Ends by chance alone."""
    real, imagined = subject.both_episodes()
    return [*ends(subject, 0.7, 1.4), ks_figure("episode lengths", real.lengths, imagined.lengths)]


def frozen_lake(subject: Subject) -> list[dict]:
    """Ends, rewards and moves that the environment's own table allows."""
    env: Any = subject.env.unwrapped
    final = np.isin(env.desc.reshape(-1), [b"H", b"G"])
    possible = np.zeros((len(final), 4, len(final)), bool)
    for state, by_action in env.P.items():
        for action, outcomes in by_action.items():
            possible[state, action, [after for p, after, _, _ in outcomes if p > 0]] = True
    imagined = subject.sample()
    after, end = imagined.observation[0].reshape(-1).astype(int), imagined.terminated[0]
    move = subject.held_out["observation"], subject.held_out["action"], after
    at_end = final[after]
    real, dreamt = subject.both_episodes()
    return [
        figure("P(end given next is hole or goal)", _mean(end[at_end]), low=0.98),
        figure("P(end given other)", _mean(end[~at_end]), high=0.005),
        figure("rewards exactly 0 or 1", _mean(np.isin(imagined.reward, (0.0, 1.0))), low=1.0),
        figure("impossible moves", _mean(~possible[move]), high=0.01),
        ks_figure("returns", real.returns, dreamt.returns),
    ]


def next_class(subject: Subject) -> list[dict]:
    """The share of next classes that are right; the environment is deterministic."""
    right = subject.sample().observation[0].reshape(-1) == subject.held_out["next_observation"]
    return [figure("next class right", _mean(right), low=0.97)]


def bimodal(subject: Subject) -> list[dict]:
    """The noise's standard deviation, and the share of it where there is none."""
    held_out = subject.held_out
    mean = Bimodal.mean(held_out["observation"], held_out["action"][:, None])
    noise, real = subject.sample(draws=5).observation - mean, held_out["next_observation"] - mean
    gap, most = _mean(np.abs(noise) < GAP), 0.04 if subject.k == 5 else 0.1
    return [
        figure("sd of the noise", float(noise.std()), 0.092, 0.109, real=float(real.std())),
        figure("share in the gap", gap, high=most, real=_mean(np.abs(real) < GAP)),
    ]


def coin_reward(subject: Subject) -> list[dict]:
    """Rewards by chance."""
    above, reward = subject.held_out["observation"][:, 0] > 0, subject.sample(draws=5).reward
    return [
        figure("P(reward > .5 given x > 0)", _mean(reward[:, above] > 0.5), 0.27, 0.33),
        figure("P(reward > .5 given x <= 0)", _mean(reward[:, ~above] > 0.5)),
        figure("rewards exactly 0 or 1", _mean(np.isin(reward, (0.0, 1.0))), low=1.0),
    ]


def lunar_lander(subject: Subject) -> list[dict]:
    """Crashes and landings; and velocities where no leg touches the ground, before and after."""
    now, after = subject.held_out["observation"], subject.held_out["next_observation"]
    flying = (now[:, LEGS] == 0).all(1) & (after[:, LEGS] == 0).all(1) & ~subject.held_out["terminated"]
    guess, dimensions = subject.sample(flying).observation[0], list(VELOCITIES.values())
    r2 = residual_r2(*(x[:, dimensions] for x in (now[flying], after[flying], guess)))
    reported = [
        figure(f"residual R2 of the {name} velocity in flight", r) for name, r in zip(VELOCITIES, r2, strict=True)
    ]
    return [*ends(subject, 0.7, 1.4, 0.4), *reported]


def acrobot(subject: Subject) -> list[dict]:
    """Few ends."""
    return ends(subject, 0.5, 2.0, 0.3)


def rare_end(subject: Subject) -> list[dict]:
    """Rare ends, which are a fact of the next observation."""
    sure = subject.sample(draws=5)
    return [
        *ends(subject, 0.7, 1.4, 0.55),
        figure("P(x' > .9 given end)", _mean(sure.observation[sure.terminated] > 0.9), low=0.8),
    ]


def residual_r2(now: np.ndarray, after: np.ndarray, guess: np.ndarray) -> list[float]:
    """R2 of the residual ``s' - s`` in every dimension, from ``(n, D)``."""
    now, after, guess = (x.astype(np.float64) for x in (now, after, guess))
    moved = after - now
    return (1 - np.square(guess - after).sum(0) / np.square(moved - moved.mean(0)).sum(0)).tolist()


def _mean(chosen: np.ndarray) -> float | None:
    return float(chosen.mean()) if chosen.size else None
