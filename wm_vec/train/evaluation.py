"""Evaluation: an imagined world against the real environment that it was learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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
from wm_vec.plain import seed_number, whole_number
from wm_vec.spaces import Path, classes_of, leaves, map_leaves
from wm_vec.train.collect import Policy, RandomPolicy, collect_transitions
from wm_vec.train.data import flat_values
from wm_vec.train.distribution_metrics import (
    N_SAMPLES,
    class_metrics,
    distribution_metrics,
    end_given_class,
    end_metrics,
    transition_metrics,
)
from wm_vec.train.episodes import EPISODE_CAP, Episodes, Imagination, imagined_episodes, real_episodes
from wm_vec.train.evaluation_report import EvaluationReport, OneStep, PolicyReport, Returns, Shown
from wm_vec.train.ground_truth import GROUND_TRUTH, true_next_observations
from wm_vec.train.metrics import CONSTANT, dimension_metrics, reward_metrics
from wm_vec.train.rollout_metrics import (
    EffectMetrics,
    OpenLoopMetrics,
    distribution,
    effect_metrics,
    ks_critical,
    ks_statistic,
    open_loop_metrics,
    returns_statistic,
)

SAMPLED_PART = 8
"""Of n transitions, at most n / 8 that end and n / 8 others are imagined several times."""
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

    One step of a deterministic dimension is measured by R2 of the residual ``s' - s`` and by skill over standing still
    and over the best linear fit that does not see the action; never by R2 of the next state, on which standing still
    does well. What chance decides is measured by its distribution, from several samples of the same state and action.

    Args:
        world: A `WorldModel` that was learned from the environment, or whatever has its `signature` and `to_engine`.
        env: Its Gymnasium id, an env, of which copies are run, or a callable that makes one.
        policies: Further policies by name; each takes a batch of observations, as in `collect_transitions`.
        n_transitions: Held-out transitions for the one-step metrics; as many again for the linear baseline and to
            know what can happen.
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
        whole_number(size, f"evaluate_world: {name}", least)
    seed = seed_number(seed, "evaluate_world: seed")
    if not (hasattr(world, "signature") and hasattr(world, "to_engine")):
        raise TypeError(f"evaluate_world: world must be a WorldModel, got {type(world).__name__}.")
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


class _Steps(NamedTuple):
    """Observations before and after n steps ``(n, D)``, actions ``(n, A)``, rewards and terminations ``(n,)``."""

    now: np.ndarray
    action: np.ndarray
    after: np.ndarray
    reward: np.ndarray
    ended: np.ndarray


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
        known = GROUND_TRUTH.get(self.env) if isinstance(self.env, str) else None
        fields = self.real.observation_fields
        self.names = list(known.names) if known else position_names(fields)
        self.classes = np.array([f.num_classes is not None for f in fields.values() for _ in range(f.num_positions)])

    def of_policy(self, name: str, policy: Policy | None, seed: int) -> PolicyReport:
        """Everything under one policy."""
        held_out_seed, fit_seed, episode_seed, noise_seed = (s % 2**31 for s in spawn_seeds(seed, 4))
        self.say(f"{name}: single steps")
        actions: Policy | RandomPolicy = "random" if policy is None else policy
        held_out, fit = (
            collect_transitions(self.env, self.n_transitions, actions, seed=s, env_kwargs=self.env_kwargs)
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
            ks_statistic(real.lengths, imagined.lengths),
            ks_critical(self.n_starts, self.n_starts),
        )
        shown = _spread(self.n_transitions, SHOWN_STEPS)
        steps = [x[shown][:, ~self.classes] for x in (moved, guessed)]
        plotted = Shown(steps[0], steps[1], real_paths, imagined_paths, real.returns, imagined.returns)
        return PolicyReport(one_step, open_loop, effects, returns, plotted)

    def _one_step(self, held_out: TensorDict, fit: TensorDict, seed: int) -> tuple[OneStep, np.ndarray, np.ndarray]:
        """Metrics, and the real and imagined residuals ``(n, D)``."""
        real, others = self._steps(held_out), self._steps(fit)
        known = _Steps(*(np.concatenate(both) for both in zip(real, others, strict=True)))
        observation = observation_in(held_out, self.real.observation_space, nested=True)
        action = held_out["action"].numpy()
        once = self.imagination.steps(observation, action[None], seed)
        guess = _Steps(real.now, real.action, self._flat(once.observation), once.reward[0], once.terminated[0])
        chosen, weight = _strata(real.ended | guess.ended, self.n_transitions // SAMPLED_PART + 1, seed)
        again, shape = np.tile(chosen, N_SAMPLES), (N_SAMPLES, len(chosen))
        starts = tree_map(lambda part: part[again], observation)
        drawn = self.imagination.steps(starts, action[again][None], seed + self.n_transitions)
        samples, paid = self._flat(drawn.observation).reshape(*shape, -1), drawn.reward.reshape(shape)

        numbers, classes = (
            [(d, self.names[d]) for d in np.flatnonzero(kind)] for kind in (~self.classes, self.classes)
        )
        columns = (x[:, ~self.classes] for x in (real.now, real.after, guess.after, others.now, others.after))
        dimensions = dimension_metrics([name for _, name in numbers], *columns)
        rewards = reward_metrics(real.reward, guess.reward, known.reward, paid, weight)
        moved = real.after - real.now
        uncertain = [
            (name, real.after[chosen, d], samples[..., d], moved[:, d].var())
            for (d, name), metrics in zip(numbers, dimensions, strict=True)
            if metrics.r2 is not None
        ]
        if rewards.r2 is not None and rewards.exact is None:
            uncertain.append(("reward", real.reward[chosen], paid, real.reward.var()))
        transitions = None
        if not numbers and np.issubdtype(action.dtype, np.integer):
            tables = [np.column_stack([steps.now, steps.action, steps.after]) for steps in (known, guess)]
            transitions = transition_metrics(tables[0], tables[1], real.now.shape[1] + real.action.shape[1])
        by_class = []
        for d, name in classes if known.ended.any() else ():
            by_class += end_given_class(name, known.after[:, d], known.ended, guess.after[:, d], guess.ended)
        metrics = OneStep(
            self.n_transitions,
            len(chosen),
            dimensions,
            [distribution_metrics(*what, weight) for what in uncertain],
            [
                class_metrics(name, real.now[:, d], real.after[:, d], guess.after[:, d], samples[..., d], weight)
                for d, name in classes
            ],
            transitions,
            rewards,
            end_metrics(real.ended, guess.ended, chosen, drawn.terminated.reshape(shape), weight),
            by_class,
            int(once.diverged.sum()),
        )
        return metrics, moved, guess.after - real.now

    def _steps(self, data: TensorDict) -> _Steps:
        action, following, space = data["action"].numpy(), data["next"], self.real.observation_space
        return _Steps(
            self._flat(observation_in(data, space, nested=True)),
            action.reshape(len(action), -1),
            self._flat(observation_in(following, space, nested=True)),
            following["reward"][:, 0].numpy().astype(np.float64),
            following["terminated"][:, 0].numpy(),
        )

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
        data = self._flat(observation_in(held_out["next"], self.real.observation_space, nested=True))
        std = data.std(0)
        std = np.where(std > CONSTANT * np.abs(data).max(0), std, 0.0)
        # The longest ones, since most is to be seen there.
        shown = np.argsort(-alive.sum(0), kind="stable")[:SHOWN_TRAJECTORIES]
        gone = ~alive[:, shown, None]
        paths = [np.concatenate([start[:, shown], np.where(gone, np.nan, x[:, shown])]) for x in (after, guess)]
        return open_loop_metrics(self.names, real, guess, alive, std, self.classes), paths[0], paths[1]

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


def _strata(ended: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many of the steps that end and of the others, drawn at random; and their weights, 1 for the former."""
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(ended), np.flatnonzero(~ended)]
    chosen = [rng.permutation(stratum)[:most] for stratum in strata]
    each = [len(stratum) / max(1, len(part)) for stratum, part in zip(strata, chosen, strict=True)]
    weight = [np.full(len(part), w / (each[0] or 1)) for w, part in zip(each, chosen, strict=True)]
    return np.concatenate(chosen), np.concatenate(weight)


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
