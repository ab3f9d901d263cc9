"""Evaluation: an imagined world against the real environment that it was learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Discrete
from tensordict import TensorDict
from torch import Tensor

from wm_vec.canvas import EnvSignature
from wm_vec.canvas.signature import RealEnv, position_names
from wm_vec.compat import tree_map
from wm_vec.core import AutoresetMode, Engine, spawn_seeds
from wm_vec.core.trees import Tree, observation_in
from wm_vec.spaces import Path, classes_of, leaves, map_leaves
from wm_vec.train.collect import Policy, collect_transitions
from wm_vec.train.data import flat_values
from wm_vec.train.episodes import EPISODE_CAP, Episodes, Imagination, imagined_episodes, real_episodes
from wm_vec.train.evaluation_report import EvaluationReport, OneStep, PolicyReport, Returns, Samples
from wm_vec.train.ground_truth import GROUND_TRUTH, true_next_observations
from wm_vec.train.metrics import CONSTANT, class_metrics, dimension_metrics, reward_metrics, termination_metrics
from wm_vec.train.rollout_metrics import (
    EffectMetrics,
    OpenLoopMetrics,
    distribution,
    effect_metrics,
    ks_critical,
    open_loop_metrics,
    returns_statistic,
)

EFFECT_STATES = 500
SHOWN_TRAJECTORIES, SHOWN_STEPS = 3, 1000
SEED_SALT = 0x4EA1
"""Keeps the evaluation's seeds apart from those that training data were collected with."""


class EvaluationError(ValueError):
    """A world and an environment that cannot be compared."""


def evaluate_world(
    world: Any,
    env: RealEnv,
    *,
    policies: Mapping[str, Policy] | None = None,
    n_transitions: int = 10_000,
    n_starts: int = 200,
    horizon: int = 50,
    n_denoise_steps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Compare a world with the real environment, under random actions and under every policy given.

    One step is measured by R2 of the residual ``s' - s`` and by skill over standing still and over the best
    linear fit that does not see the action; never by R2 of the next state, on which standing still does well.

    Args:
        world: A `WorldModel` that was learned from the environment, or whatever has its `signature` and `to_engine`.
        env: Its Gymnasium id, an env, of which copies are run, or a callable that makes one.
        policies: Further policies by name; each takes a batch of observations, as in `collect_transitions`.
        n_transitions: Held-out transitions for the one-step metrics; as many again for the linear baseline.
        n_starts: Episodes of the open-loop errors and of the returns.
        horizon: Steps of the open loop.
        n_denoise_steps: K; None for the world's own.
        env_kwargs: Keyword arguments of the id or the callable.
        seed: Seeds everything: the same seed gives the same numbers. No episode is one that
            ``collect_transitions(seed=...)`` gives for training.
        progress: Called with what is about to be done.

    Raises:
        EvaluationError: The world comes from no environment, or from one with other spaces.
        ValueError: Sizes that are too small, or a policy named ``"random"``.
    """
    for name, size, least in (("n_transitions", n_transitions, 2), ("n_starts", n_starts, 2), ("horizon", horizon, 1)):
        if size < least:
            raise ValueError(f"evaluate_world: {name} must be at least {least}, got {size}.")
    if policies and "random" in policies:
        raise ValueError("evaluate_world: 'random' is always evaluated; give your policy another name.")
    started = time.perf_counter()
    real = EnvSignature.of_env(env, env_kwargs)
    _require_same_spaces(world.signature, real)
    settings = {"max_episode_steps": real.max_episode_steps, "n_denoise_steps": n_denoise_steps}
    engine = partial(world.to_engine, **settings, autoreset_mode=AutoresetMode.DISABLED)
    say = progress or (lambda _: None)
    evaluation = _Evaluation(engine, env, dict(env_kwargs or {}), real, n_transitions, n_starts, horizon, say)
    everyone: dict[str, Policy | None] = {"random": None, **(policies or {})}
    seeds = spawn_seeds(SEED_SALT + seed, len(everyone))
    reports = {name: evaluation.of_policy(name, everyone[name], s) for name, s in zip(everyone, seeds, strict=True)}
    k = getattr(evaluation.imagination.engine.dynamics, "n_denoise_steps", None)
    return EvaluationReport(real.env_id or "environment", k, seed, time.perf_counter() - started, reports)


@dataclass
class _Evaluation:
    """The settings of an evaluation, and what it measures under one policy."""

    engine: Callable[[int], Engine]
    env: RealEnv
    env_kwargs: Mapping[str, Any]
    real: EnvSignature
    n_transitions: int
    n_starts: int
    horizon: int
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.imagination = Imagination(self.engine(1))
        self.discrete = isinstance(self.real.observation_space, Discrete)
        known = GROUND_TRUTH.get(self.env) if isinstance(self.env, str) else None
        self.names = list(known.names) if known else position_names(self.real.observation_fields)

    def of_policy(self, name: str, policy: Policy | None, seed: int) -> PolicyReport:
        """Everything under one policy."""
        held_out_seed, fit_seed, episode_seed, noise_seed = (s % 2**31 for s in spawn_seeds(seed, 4))
        self.say(f"{name}: single steps")
        held_out, fit = (
            collect_transitions(self.env, self.n_transitions, policy, seed=s, env_kwargs=self.env_kwargs)
            for s in (held_out_seed, fit_seed)
        )
        one_step, moved, guessed = self._one_step(held_out, fit, noise_seed)
        effects = None
        if isinstance(self.env, str) and self.env in GROUND_TRUTH:
            self.say(f"{name}: effects of actions")
            effects = self._effects(self.env, held_out, noise_seed)
        self.say(f"{name}: whole episodes in the real environment")
        cap = self.real.max_episode_steps or max(EPISODE_CAP, self.horizon)
        options: dict[str, Any] = {"keep": self.horizon, "seed": episode_seed, "env_kwargs": self.env_kwargs}
        real = real_episodes(self.env, self.n_starts, policy, max_steps=cap, **options)
        self.say(f"{name}: open loop")
        open_loop, real_paths, imagined_paths = self._open_loop(real, held_out, noise_seed)
        self.say(f"{name}: whole imagined episodes")
        imagined = imagined_episodes(
            self.engine(self.n_starts), self.real.action_space, policy, max_steps=cap, seed=noise_seed
        )
        returns = Returns(
            distribution(real.returns, real.lengths, real.ended),
            distribution(imagined.returns, imagined.lengths, imagined.ended),
            returns_statistic(real.returns, imagined.returns),
            ks_critical(self.n_starts, self.n_starts),
        )
        shown = _spread(self.n_transitions, SHOWN_STEPS)
        samples = Samples(moved[shown], guessed[shown], real_paths, imagined_paths, real.returns, imagined.returns)
        return PolicyReport(one_step, open_loop, effects, returns, samples)

    def _one_step(self, held_out: TensorDict, fit: TensorDict, seed: int) -> tuple[OneStep, np.ndarray, np.ndarray]:
        """Metrics, and the real and imagined residuals ``(n, D)``."""
        action = held_out["action"].numpy()
        space = self.real.observation_space
        imagined = self.imagination.steps(observation_in(held_out, space, nested=True), action[None], seed)
        guess = self._flat(imagined.observation)
        now, real, fit_now, fit_real = (
            self._flat(observation_in(data, space, nested=True))
            for steps in (held_out, fit)
            for data in (steps, steps["next"])
        )
        dimensions, classes = [], None
        if self.discrete:
            discrete_action = isinstance(self.real.action_space, Discrete)
            acts, fit_acts = (action, fit["action"].numpy()) if discrete_action else (None, None)
            classes = class_metrics(now[:, 0], acts, real[:, 0], guess[:, 0], fit_now[:, 0], fit_acts, fit_real[:, 0])
        else:
            dimensions = dimension_metrics(self.names, now, real, guess, fit_now, fit_real)
        metrics = OneStep(
            self.n_transitions,
            dimensions,
            classes,
            reward_metrics(held_out["next", "reward"][:, 0].numpy(), imagined.reward[0]),
            termination_metrics(held_out["next", "terminated"][:, 0].numpy(), imagined.terminated[0]),
            int(imagined.diverged.sum()),
        )
        return metrics, real - now, guess - now

    def _open_loop(
        self, episodes: Episodes, held_out: TensorDict, seed: int
    ) -> tuple[OpenLoopMetrics, np.ndarray, np.ndarray]:
        """Metrics, and a few real and imagined paths ``(H + 1, k, D)``."""
        first = episodes.steps[0][0]
        _, action, following, alive = (
            tree_map(lambda *parts: np.stack(parts), *column) for column in zip(*episodes.steps, strict=True)
        )
        imagined = self.imagination.steps(first, action, seed).observation
        shape = -1, self.n_starts, len(self.names)
        start, after, guess = (self._flat(x).reshape(shape) for x in (first, following, imagined))
        real = np.concatenate([start, after])
        std = None
        if not self.discrete:
            data = self._flat(observation_in(held_out["next"], self.real.observation_space, nested=True))
            std = data.std(0)
            std = np.where(std > CONSTANT * np.abs(data).max(0), std, 0.0)
        # The longest ones, since most is to be seen there.
        shown = np.argsort(-alive.sum(0), kind="stable")[:SHOWN_TRAJECTORIES]
        gone = ~alive[:, shown, None]
        paths = [np.concatenate([start[:, shown], np.where(gone, np.nan, x[:, shown])]) for x in (after, guess)]
        return open_loop_metrics(self.names, real, guess, alive, std), paths[0], paths[1]

    def _effects(self, env_id: str, held_out: TensorDict, seed: int) -> list[EffectMetrics]:
        """From the same states and with the same noise, how the next state differs between two actions."""
        states = held_out["observation"].numpy()[_spread(self.n_transitions, EFFECT_STATES)]
        moved = self._flat(held_out["next", "observation"] - held_out["observation"])
        space: Any = self.real.action_space
        if isinstance(space, Discrete):
            actions = list(np.arange(space.start, space.start + space.n))
            labels = [str(a) for a in actions]
        else:
            actions, labels = [space.low, space.high], ["low", "high"]
        real = true_next_observations(env_id, self.env_kwargs, states, actions)
        imagined = []
        for action in actions:
            batch = np.broadcast_to(action, (1, len(states), *np.shape(action))).copy()
            imagined.append(self._flat(self.imagination.steps(states, batch, seed).observation))
        metrics = []
        for label, other, guess in zip(labels[1:], real[1:], imagined[1:], strict=True):
            compared = f"{label} against {labels[0]}"
            metrics += effect_metrics(compared, self.names, other - real[0], guess - imagined[0], moved.std(0))
        return metrics

    def _flat(self, observation: Tree) -> np.ndarray:
        """``(n, D)`` float64 of any batch of observations; classes count from 0."""

        def one_batch(_: Path, leaf: gym.Space, part: Any) -> Tensor:
            return torch.as_tensor(part).reshape(-1, *(leaf.shape or ()))

        space = self.real.observation_space
        return flat_values(space, map_leaves(one_batch, space, observation), "observation").numpy()


def _spread(size: int, most: int) -> np.ndarray:
    """At most so many indices, spread evenly over `size`."""
    return np.linspace(0, size - 1, min(most, size)).astype(int)


def _require_same_spaces(world: EnvSignature | None, real: EnvSignature) -> None:
    if world is None:
        raise EvaluationError(
            "The world comes from a schema, not from an environment: there is no real one to compare it with."
        )
    for role in ("observation_space", "action_space"):
        mine, theirs = getattr(world, role), getattr(real, role)
        same = _form(mine) == _form(theirs)
        if not same:
            raise EvaluationError(
                f"The world ({world.env_id or 'unnamed'}) has the {role.replace('_', ' ')} {mine}, "
                f"{real.env_id} has {theirs}. Evaluate it against the environment that it was learned from."
            )


def _form(space: gym.Space) -> dict[Path, tuple[Any, ...]]:
    """What two spaces must have in common: everything but the bounds of numbers."""
    counted = {path: classes_of(leaf) for path, leaf in leaves(space)}
    classes = {path: None if found is None else np.stack(found).tolist() for path, found in counted.items()}
    return {path: (type(leaf), leaf.shape, classes[path]) for path, leaf in leaves(space)}
