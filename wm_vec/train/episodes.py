"""Real and imagined episodes side by side, as the reality check compares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict

from wm_vec.core import Engine, EnvState
from wm_vec.train.collect import Policy, act

CHUNK_POSITIONS = 1 << 15
"""Canvas positions that go through the network together."""


@dataclass(frozen=True)
class Episodes:
    """One episode of each of n environments.

    Attributes:
        start: ``(n, ...)``, first observations.
        action: ``(H, n, ...)``, the first H actions.
        following: ``(H, n, ...)``, observations after them, before any reset.
        alive: ``(H, n)`` bool: the step belongs to the episode; False after its end.
        returns: ``(n,)`` float64, sums of the rewards of whole episodes.
        lengths: ``(n,)`` int64.
        ended: ``(n,)`` bool; False where the last step came first.
    """

    start: np.ndarray
    action: np.ndarray
    following: np.ndarray
    alive: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray


def real_episodes(
    env_id: str,
    n: int,
    policy: Policy | None,
    *,
    max_steps: int,
    keep: int,
    seed: int,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Episodes:
    """One episode in each of n real environments.

    Args:
        env_id: A registered Gymnasium id.
        n: Environments.
        policy: As `collect_transitions` takes it; None draws from the action space.
        max_steps: Steps after which episodes are cut.
        keep: Steps H whose observations and actions are kept.
        seed: Seeds environments and random actions.
        env_kwargs: Keyword arguments of the environment.
    """
    envs = gym.make_vec(
        env_id,
        num_envs=n,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        **(env_kwargs or {}),
    )
    record = _Record(n, keep)
    try:
        envs.action_space.seed(seed)
        observation = np.array(envs.reset(seed=seed)[0])
        start = observation
        for _ in range(max_steps):
            action = envs.action_space.sample() if policy is None else act(policy, observation, envs.action_space)
            following, reward, terminated, truncated, info = envs.step(action)
            observation, last = np.array(following), np.array(following)
            for i in np.flatnonzero(terminated | truncated):
                last[i] = info["final_obs"][i]
            if record.add(action, last, reward, terminated | truncated):
                break
    finally:
        envs.close()
    return record.episodes(start)


class _Record:
    """Keeps the first steps whole, and of the rest what returns need."""

    def __init__(self, n: int, keep: int) -> None:
        self.keep = keep
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.returns, self.lengths = np.zeros(n), np.zeros(n, np.int64)
        self.ended = np.zeros(n, bool)

    def add(self, action: np.ndarray, following: np.ndarray, reward: np.ndarray, done: np.ndarray) -> bool:
        """Take a step of all environments; returns whether all episodes have ended."""
        alive = ~self.ended
        if len(self.kept) < self.keep:
            self.kept.append((np.array(action), following, alive))
        self.returns += np.where(alive, reward, 0.0)
        self.lengths += alive
        self.ended |= done
        return bool(self.ended.all())

    def episodes(self, start: np.ndarray) -> Episodes:
        action, following, alive = (np.stack(column) for column in zip(*self.kept, strict=True))
        return Episodes(start, action, following, alive, self.returns, self.lengths, self.ended)


@dataclass(frozen=True)
class ImaginedSteps:
    """Imagined steps of n rows: next observation ``(n, ...)``; reward, terminated, diverged ``(n,)``."""

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    diverged: np.ndarray


class Imagination:
    """Imagined steps from given observations, through an engine.

    Args:
        engine: An engine with one perspective and without autoreset, over a dynamics whose state holds
            ``values`` ``(B, N)``; it is reset here.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.perspective = engine.perspectives[0]
        engine.reset(seed=0)
        self._blank: Any = engine.state()[:1]
        positions = engine.predictions().shape[1]
        index = self.perspective.obs_index
        self._index = torch.arange(positions, device=engine.device) if index is None else index
        self._chunk = max(1, CHUNK_POSITIONS // positions)

    def state_at(self, observation: np.ndarray, seed: int) -> EnvState:
        """Fresh episodes that stand at the observations ``(n, ...)``, each with noise of its own."""
        n, engine = len(observation), self.engine
        state = self._blank[torch.zeros(n, dtype=torch.int64, device=engine.device)]
        seen = torch.as_tensor(observation, device=engine.device).reshape(n, -1) - self.perspective.obs_offset
        values = state.dynamics.get("values").index_copy(1, self._index, seen.to(engine.dtype))
        state.dynamics = TensorDict({**state.dynamics, "values": values}, batch_size=[n])
        state.seed = torch.arange(seed, seed + n, device=engine.device)
        return state

    @torch.no_grad()
    def one_step(self, observation: np.ndarray, action: np.ndarray, seed: int) -> ImaginedSteps:
        """One step from each observation ``(n, ...)`` under its action ``(n, ...)``."""
        parts = []
        for first in range(0, len(observation), self._chunk):
            rows = slice(first, first + self._chunk)
            state = self.state_at(observation[rows], seed + first)
            result = self.engine.transition(state, self._action(action[rows]))[1]
            parts.append([result.final_observation, result.reward, result.terminated, result.diverged])
        return ImaginedSteps(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def open_loop(self, start: np.ndarray, action: np.ndarray, seed: int) -> np.ndarray:
        """Observations ``(H, n, ...)`` imagined from `start` ``(n, ...)`` under `action` ``(H, n, ...)``."""
        parts = []
        for first in range(0, len(start), self._chunk):
            rows = slice(first, first + self._chunk)
            state, steps = self.state_at(start[rows], seed + first), []
            for t in range(len(action)):
                state, result = self.engine.transition(state, self._action(action[t, rows]))
                steps.append(result.final_observation)
            parts.append(torch.stack(steps))
        return torch.cat(parts, 1).cpu().numpy()

    def _action(self, action: np.ndarray) -> torch.Tensor:
        dtype = torch.int64 if self.perspective.action.kind == "discrete" else self.engine.dtype
        return torch.as_tensor(action).to(self.engine.device, dtype)


def imagined_returns(
    engine: Engine, action_space: gym.Space, policy: Policy | None, *, max_steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One imagined episode of each env of an engine without autoreset.

    Args:
        engine: Over the world; its horizon is the environment's.
        action_space: One env's actions.
        policy: As `collect_transitions` takes it; None draws from the action space.
        max_steps: Steps after which episodes are cut.
        seed: Seeds the engine and random actions.

    Returns:
        Returns ``(n,)`` float64, lengths ``(n,)`` int64, and whether the episode ended, ``(n,)`` bool.
    """
    spaces = batch_space(action_space, engine.num_envs)
    spaces.seed(seed)
    dtype = torch.int64 if engine.perspectives[0].action.kind == "discrete" else engine.dtype
    observation = engine.reset(seed=seed)
    record = _Record(engine.num_envs, 0)
    for _ in range(max_steps):
        seen = observation.cpu().numpy()
        action = spaces.sample() if policy is None else act(policy, seen, spaces)
        result = engine.step(torch.as_tensor(action).to(engine.device, dtype))
        observation = result.observation
        if record.add(action, seen, result.reward.cpu().numpy(), result.finished.cpu().numpy()):
            break
    return record.returns, record.lengths, record.ended
