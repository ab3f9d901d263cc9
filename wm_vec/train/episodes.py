"""Real and imagined episodes side by side, as the evaluation compares them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict

from wm_vec.canvas.signature import RealEnv
from wm_vec.compat import tree_leaves, tree_map
from wm_vec.core import Engine, EnvState, step
from wm_vec.core.trees import Tree
from wm_vec.train.collect import Policy, act, real_steps

EPISODE_CAP = 1000
"""Steps after which an episode is cut, where the environment itself has no time limit."""
CHUNK_POSITIONS = 1 << 15
"""Canvas positions that go through the network together."""


class Episodes:
    """One episode of each of n environments.

    Attributes:
        steps: The first steps of all: observation, action and next observation ``(n, ...)``, in the spaces' structure,
            and ``(n,)`` bool, whether the step belongs to the episode.
        returns: ``(n,)`` float64, sums of the rewards of whole episodes.
        lengths: ``(n,)`` int64.
        ended: ``(n,)`` bool; False where the last step came first.
    """

    def __init__(self, n: int, keep: int = 0) -> None:
        self._keep = keep
        self.steps: list[tuple[Tree, ...]] = []
        self.returns, self.lengths, self.ended = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)

    def add(self, kept: tuple[Tree, ...], reward: np.ndarray, done: np.ndarray) -> bool:
        """Add a step of all environments; returns whether all episodes have ended."""
        alive = ~self.ended
        if len(self.steps) < self._keep:
            self.steps.append((*kept, alive))
        self.returns += np.where(alive, reward, 0.0)
        self.lengths += alive
        self.ended |= done
        return bool(self.ended.all())


def real_episodes(
    env: RealEnv,
    n: int,
    policy: Policy | None,
    *,
    max_steps: int = EPISODE_CAP,
    keep: int = 0,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Episodes:
    """One episode in each of n real environments.

    Args:
        env: A registered Gymnasium id, an env, of which copies are run, or a callable that makes one.
        n: Environments.
        policy: As `collect_transitions` takes it; None draws from the action space.
        max_steps: Steps after which episodes are cut.
        keep: Steps that are kept whole.
        seed: Seeds environments and random actions.
        env_kwargs: Keyword arguments of the id or the callable.
    """
    episodes = Episodes(n, keep)
    steps = real_steps(env, n, "random" if policy is None else policy, seed, env_kwargs)
    for *kept, reward, terminated, truncated in islice(steps, max_steps):
        if episodes.add(tuple(kept), reward, terminated | truncated):
            break
    return episodes


def imagined_episodes(
    engine: Engine, action_space: gym.Space, policy: Policy | None, *, max_steps: int, seed: int
) -> Episodes:
    """One imagined episode of each env of an engine without autoreset; none of their steps are kept.

    Args:
        engine: Over the world; its horizon is the environment's.
        action_space: One env's actions.
        policy: As `collect_transitions` takes it; None draws from the action space.
        max_steps: Steps after which episodes are cut.
        seed: Seeds the engine and random actions.
    """
    spaces = batch_space(action_space, engine.num_envs)
    spaces.seed(seed)
    name = engine.only_perspective("imagined_episodes").name
    observation = engine.reset(seed=seed)[name]
    episodes = Episodes(engine.num_envs)
    for _ in range(max_steps):
        action = spaces.sample() if policy is None else act(policy, tree_map(_on_host, observation), spaces)
        output = engine.step(action_tensor(engine, action))
        observation = output.observation[name]
        if episodes.add((), output.reward[:, 0].cpu().numpy(), output.finished.cpu().numpy()):
            break
    return episodes


@dataclass(frozen=True)
class ImaginedSteps:
    """H imagined steps of n envs: next observation ``(H, n, ...)`` in the space's structure; the others ``(H, n)``."""

    observation: Tree
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
        self.perspective = engine.only_perspective("Imagination")
        engine.reset(seed=0)
        self._blank: Any = engine.state()[:1]
        positions = engine.predictions().shape[1]
        self._chunk = max(1, CHUNK_POSITIONS // positions)

    @torch.no_grad()
    def steps(self, start: Tree, action: np.ndarray, seed: int) -> ImaginedSteps:
        """Imagine from the observations `start` ``(n, ...)`` under the actions ``(H, n, ...)``."""
        chunks = []
        for first in range(0, action.shape[1], self._chunk):
            envs = slice(first, first + self._chunk)
            state, steps = self._state_at(tree_map(operator.itemgetter(envs), start), seed + first), []
            for taken in action[:, envs]:
                state, output = step(self.engine.world, state, [action_tensor(self.engine, taken)])
                seen = output.final_observation[self.perspective.name]
                steps.append((seen, output.reward[:, 0], output.terminated[:, 0], output.diverged))
            chunks.append([tree_map(lambda *x: torch.stack(x), *column) for column in zip(*steps, strict=True)])
        joined = (tree_map(lambda *x: _on_host(torch.cat(x, 1)), *column) for column in zip(*chunks, strict=True))
        return ImaginedSteps(*joined)

    def _state_at(self, observation: Tree, seed: int) -> EnvState:
        """Fresh episodes that stand at the observations ``(n, ...)``, each with noise of its own."""
        engine = self.engine
        seen = tree_map(lambda part: torch.as_tensor(part, device=engine.device), observation)
        n = len(tree_leaves(seen)[0])
        state = self._blank[torch.zeros(n, dtype=torch.int64, device=engine.device)]
        values = state.dynamics.get("values")
        whole = self.perspective.whole(seen, values).to(values)
        values = torch.where(whole.isnan(), values, whole)
        state.dynamics = TensorDict({**state.dynamics, "values": values}, batch_size=[n])
        state.seed = torch.arange(seed, seed + n, device=engine.device)
        return state


def _on_host(part: torch.Tensor) -> np.ndarray:
    return part.cpu().numpy()


def action_tensor(engine: Engine, action: np.ndarray) -> torch.Tensor:
    """A batch of actions as an engine takes them."""
    dtype = torch.int64 if engine.only_perspective("action_tensor").action.kind == "discrete" else engine.dtype
    return torch.as_tensor(action).to(engine.device, dtype)
