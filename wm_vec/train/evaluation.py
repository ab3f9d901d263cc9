"""The reality check: an imagined world against the real environment it was learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Discrete
from tensordict import TensorDict

from wm_vec.canvas import EnvSignature
from wm_vec.canvas.signature import space_size
from wm_vec.core import AutoresetMode, Engine, spawn_seeds
from wm_vec.train.collect import Policy, collect_transitions
from wm_vec.train.episodes import Episodes, Imagination, imagined_returns, real_episodes
from wm_vec.train.evaluation_report import OneStep, PolicyReport, RealityReport, Returns, Samples
from wm_vec.train.ground_truth import SETTABLE, real_next
from wm_vec.train.metrics import (
    CONSTANT,
    class_figures,
    dimension_figures,
    reward_figures,
    termination_figures,
)
from wm_vec.train.rollout_metrics import (
    EffectFigures,
    OpenLoopFigures,
    distribution,
    effect_figures,
    ks_critical,
    open_loop_figures,
    returns_statistic,
)

EPISODE_CAP = 1000
"""Steps after which an episode is cut, where the environment itself has no time limit."""
EFFECT_STATES = 500
SHOWN_TRAJECTORIES, SHOWN_STEPS = 3, 1000
SEED_SALT = 0x4EA1
"""Keeps the check's seeds apart from those that training data were collected with."""


class RealityError(ValueError):
    """A world and an environment that cannot be compared."""


class SignedWorld(Protocol):
    """What the check needs of a world: `WorldModel` has it."""

    signature: EnvSignature | None

    def to_engine(
        self,
        num_envs: int,
        *,
        max_episode_steps: int | None = ...,
        n_denoise_steps: int | None = ...,
        autoreset_mode: AutoresetMode | str = ...,
    ) -> Engine:
        """An engine over the world, seen as its environment."""
        ...


def check_reality(
    world: SignedWorld,
    env_id: str,
    *,
    policies: Mapping[str, Policy] | None = None,
    n_transitions: int = 10_000,
    n_starts: int = 200,
    horizon: int = 50,
    n_denoise_steps: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> RealityReport:
    """Compare a world with the real environment, under random actions and under every policy given.

    One step is measured by R2 of the residual ``s' - s`` and by skill over standing still and over the best
    linear fit that does not see the action; never by R2 of the next state, on which standing still does well.

    Args:
        world: A world that was learned from the environment.
        env_id: Its Gymnasium id.
        policies: Further policies by name; each takes a batch of observations, as in `collect_transitions`.
        n_transitions: Held-out transitions for the one-step figures; as many again for the linear baseline.
        n_starts: Episodes of the open-loop errors and of the returns.
        horizon: Steps of the open loop.
        n_denoise_steps: K; None for the world's own.
        env_kwargs: Keyword arguments of the environment.
        seed: Seeds everything. The same numbers come out again, and none of the episodes that
            ``collect_transitions(seed=...)`` gave for training.
        progress: Called with what is about to be done.

    Raises:
        RealityError: The world comes from no environment, or from one with other spaces.
        ValueError: Sizes below 1, or a policy named ``"random"``.
    """
    for name, size, least in (
        ("n_transitions", n_transitions, 2),
        ("n_starts", n_starts, 2),
        ("horizon", horizon, 1),
    ):
        if size < least:
            raise ValueError(f"check_reality: {name} must be at least {least}, got {size}.")
    if policies and "random" in policies:
        raise ValueError("check_reality: 'random' is always checked; give your policy another name.")
    started = time.perf_counter()
    real = EnvSignature.of_env(env_id, env_kwargs)
    _require_same_spaces(world.signature, real)
    check = _Check(
        world,
        env_id,
        real,
        n_transitions,
        n_starts,
        horizon,
        n_denoise_steps,
        dict(env_kwargs or {}),
        progress or (lambda _: None),
    )
    everyone: dict[str, Policy | None] = {"random": None, **(policies or {})}
    seeds = spawn_seeds(SEED_SALT + seed, len(everyone))
    reports = {
        name: check.of_policy(name, policy, policy_seed)
        for (name, policy), policy_seed in zip(everyone.items(), seeds, strict=True)
    }
    k = getattr(check.imagination.engine.dynamics, "n_denoise_steps", None)
    return RealityReport(env_id, k, seed, time.perf_counter() - started, reports)


@dataclass
class _Check:
    """The settings of a check, and what it does for one policy."""

    world: SignedWorld
    env_id: str
    real: EnvSignature
    n_transitions: int
    n_starts: int
    horizon: int
    n_denoise_steps: int | None
    env_kwargs: Mapping[str, Any]
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.imagination = Imagination(self._engine(1))
        self.discrete = isinstance(self.real.observation_space, Discrete)
        known = SETTABLE.get(self.env_id)
        size = space_size(self.real.observation_space)
        self.names = list(known.names) if known else [f"observation[{i}]" for i in range(size)]

    def _engine(self, num_envs: int) -> Engine:
        return self.world.to_engine(
            num_envs,
            max_episode_steps=self.real.max_episode_steps,
            n_denoise_steps=self.n_denoise_steps,
            autoreset_mode=AutoresetMode.DISABLED,
        )

    def of_policy(self, name: str, policy: Policy | None, seed: int) -> PolicyReport:
        """All figures under one policy."""
        held_out_seed, fit_seed, episode_seed, noise_seed = (s % 2**31 for s in spawn_seeds(seed, 4))
        self.say(f"{name}: single steps")
        held_out, fit = (
            collect_transitions(self.env_id, self.n_transitions, policy, seed=s, env_kwargs=self.env_kwargs)
            for s in (held_out_seed, fit_seed)
        )
        one_step, real_moves, imagined_moves = self._one_step(held_out, fit, noise_seed)
        effects = None
        if self.env_id in SETTABLE:
            self.say(f"{name}: effects of actions")
            effects = self._effects(held_out, noise_seed)
        self.say(f"{name}: whole episodes in the real environment")
        cap = self.real.max_episode_steps or max(EPISODE_CAP, self.horizon)
        episodes = real_episodes(
            self.env_id,
            self.n_starts,
            policy,
            max_steps=cap,
            keep=self.horizon,
            seed=episode_seed,
            env_kwargs=self.env_kwargs,
        )
        self.say(f"{name}: open loop")
        open_loop, real_paths, imagined_paths = self._open_loop(episodes, held_out, noise_seed)
        self.say(f"{name}: whole imagined episodes")
        returns, imagined = self._returns(episodes, policy, cap, noise_seed)
        shown = np.linspace(0, len(real_moves) - 1, min(SHOWN_STEPS, len(real_moves))).round().astype(int)
        samples = Samples(
            real_moves[shown],
            imagined_moves[shown],
            real_paths,
            imagined_paths,
            episodes.returns,
            imagined,
        )
        return PolicyReport(one_step, open_loop, effects, returns, samples)

    def _one_step(self, held_out: TensorDict, fit: TensorDict, seed: int) -> tuple[OneStep, np.ndarray, np.ndarray]:
        """Figures, and the real and imagined residuals ``(n, D)``."""
        action = held_out["action"].numpy()
        imagined = self.imagination.one_step(held_out["observation"].numpy(), action, seed)
        now, real, guess = (
            self._flat(x)
            for x in (
                held_out["observation"].numpy(),
                held_out["next", "observation"].numpy(),
                imagined.observation,
            )
        )
        fit_now, fit_real = (self._flat(fit[key].numpy()) for key in ("observation", ("next", "observation")))
        dimensions, classes = [], None
        if self.discrete:
            discrete_action = isinstance(self.real.action_space, Discrete)
            acts, fit_acts = (action, fit["action"].numpy()) if discrete_action else (None, None)
            classes = class_figures(now[:, 0], acts, real[:, 0], guess[:, 0], fit_now[:, 0], fit_acts, fit_real[:, 0])
        else:
            dimensions = dimension_figures(self.names, now, real, guess, fit_now, fit_real)
        figures = OneStep(
            self.n_transitions,
            dimensions,
            classes,
            reward_figures(held_out["next", "reward"][:, 0].numpy(), imagined.reward),
            termination_figures(held_out["next", "terminated"][:, 0].numpy(), imagined.terminated),
            int(imagined.diverged.sum()),
        )
        return figures, real - now, guess - now

    def _open_loop(
        self, episodes: Episodes, held_out: TensorDict, seed: int
    ) -> tuple[OpenLoopFigures, np.ndarray, np.ndarray]:
        """Figures, and a few real and imagined paths ``(H + 1, k, D)``."""
        imagined = self.imagination.open_loop(episodes.start, episodes.action, seed)
        steps, n = episodes.alive.shape
        start = self._flat(episodes.start).reshape(1, n, -1)
        real = np.concatenate([start, self._flat(episodes.following).reshape(steps, n, -1)])
        guess = self._flat(imagined).reshape(steps, n, -1)
        std = None
        if not self.discrete:
            data = self._flat(held_out["next", "observation"].numpy())
            std = data.std(0)
            std = np.where(std > CONSTANT * np.abs(data).max(0), std, 0.0)
        figures = open_loop_figures(self.names, real, guess, episodes.alive, std)
        # The longest ones, since most is to be seen there.
        shown = np.argsort(-episodes.alive.sum(0), kind="stable")[:SHOWN_TRAJECTORIES]
        gone = ~episodes.alive[:, shown, None]
        real_paths = np.concatenate([real[:1, shown], np.where(gone, np.nan, real[1:, shown])])
        imagined_paths = np.concatenate([real[:1, shown], np.where(gone, np.nan, guess[:, shown])])
        return figures, real_paths, imagined_paths

    def _returns(self, episodes: Episodes, policy: Policy | None, cap: int, seed: int) -> tuple[Returns, np.ndarray]:
        imagined, lengths, ended = imagined_returns(
            self._engine(self.n_starts), self.real.action_space, policy, max_steps=cap, seed=seed
        )
        figures = Returns(
            distribution(episodes.returns, episodes.lengths, episodes.ended),
            distribution(imagined, lengths, ended),
            returns_statistic(episodes.returns, imagined),
            ks_critical(len(episodes.returns), len(imagined)),
        )
        return figures, imagined

    def _effects(self, held_out: TensorDict, seed: int) -> list[EffectFigures]:
        """From the same states and with the same noise, how the next state differs between two actions."""
        spread = np.linspace(0, self.n_transitions - 1, min(EFFECT_STATES, self.n_transitions)).astype(int)
        states = held_out["observation"].numpy()[spread]
        moved = self._flat((held_out["next", "observation"] - held_out["observation"]).numpy())
        space = self.real.action_space
        if isinstance(space, Discrete):
            actions = [np.asarray(space.start + a) for a in range(int(space.n))]
            labels = [str(int(a)) for a in actions]
        else:
            actions, labels = [space.low, space.high], ["low", "high"]  # type: ignore[attr-defined]
        real = real_next(self.env_id, self.env_kwargs, states, actions)
        imagined = []
        for action in actions:
            batch = np.broadcast_to(action, (len(states), *np.shape(action))).copy()
            imagined.append(self._flat(self.imagination.one_step(states, batch, seed).observation))
        figures = []
        for i in range(1, len(actions)):
            figures += effect_figures(
                f"{labels[i]} against {labels[0]}",
                self.names,
                real[i] - real[0],
                imagined[i] - imagined[0],
                moved.std(0),
            )
        return figures

    def _flat(self, observation: np.ndarray) -> np.ndarray:
        """``(rows, D)`` float64; classes stay the whole numbers they are."""
        return observation.reshape(-1, len(self.names)).astype(np.float64)


def _require_same_spaces(world: EnvSignature | None, real: EnvSignature) -> None:
    if world is None:
        raise RealityError("It comes from a schema, not from an environment: there is no real one to compare it with.")
    for role in ("observation_space", "action_space"):
        mine, theirs = getattr(world, role), getattr(real, role)
        same = type(mine) is type(theirs) and mine.shape == theirs.shape
        if isinstance(mine, Discrete) and same:
            same = (mine.n, mine.start) == (theirs.n, theirs.start)
        if not same:
            raise RealityError(
                f"The world ({world.env_id or 'unnamed'}) has the {role.replace('_', ' ')} {mine}, "
                f"{real.env_id} has {theirs}. Check it against the environment that it was learned from."
            )
