"""Rollouts of an environment, and where two of them part."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from wm_vec.compat import tree_map
from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.values import Tree, as_numpy, envs_differ, leaves, one_env, snapshot, some_envs, trees_equal

Watch = Callable[[str, dict[str, Any]], None]
"""Called with a place in words and what the environment returned there, by name, before all else."""
RETURNED = ("observation", "reward", "terminated", "truncated", "info")


class Step:
    """One step, in NumPy copies.

    Attributes:
        observation: Batched tree.
        reward: ``(B,)`` float64.
        terminated, truncated, ended: ``(B,)`` bool; `ended` is either.
        masks: ``_final_obs``, ``_final_info`` and ``_episode`` where info has them, ``(B,)``.
        final: Env -> its final observation, for envs whose episode ended and for which there is one.
        statistics: The environment's own returns and lengths of episodes ``(B,)``, or None.
        action_kept: Whether the action handed in was left as it was.
        restarted: What a masked reset after this step returned; None without one.
        restarted_envs: ``(B,)`` bool, the envs that it reset.
    """

    def __init__(self, returned: tuple[Any, ...], action_kept: bool) -> None:
        observation, reward, terminated, truncated, info = returned
        self.observation: Tree = snapshot(observation)
        self.reward = as_numpy(reward).astype(np.float64)
        self.terminated, self.truncated = (as_numpy(flag).astype(bool) for flag in (terminated, truncated))
        self.ended = self.terminated | self.truncated
        names = ("_final_obs", "_final_info", "_episode")
        self.masks = {name: as_numpy(info[name]).astype(bool) for name in names if name in info}
        finals = {int(i): one_env(info["final_obs"], i) for i in np.flatnonzero(self.ended) if "final_obs" in info}
        self.final: dict[int, Tree] = {i: snapshot(one) for i, one in finals.items() if one is not None}
        self.statistics: tuple[np.ndarray, np.ndarray] | None = None
        for home in (info.get("final_info"), info):
            episode = home.get("episode") if isinstance(home, Mapping) else None
            if isinstance(episode, Mapping) and "r" in episode and "l" in episode:
                self.statistics = as_numpy(episode["r"]), as_numpy(episode["l"])
        self.action_kept = action_kept
        self.restarted: Tree | None = None
        self.restarted_envs = np.zeros_like(self.ended)


@dataclass
class Record:
    """A rollout: the first observation and the steps."""

    start: Tree
    steps: list[Step]

    def ends(self) -> list[tuple[int, int]]:
        """(step, env) of every end."""
        return [(t, int(i)) for t, step in enumerate(self.steps) for i in np.flatnonzero(step.ended)]

    def before(self, t: int) -> Tree:
        """The observation that the action of step t answered to."""
        last = self.steps[t - 1]
        return self.start if t == 0 else last.observation if last.restarted is None else last.restarted

    def moves(self) -> bool:
        """Whether any observation differs from the first."""
        return any(not trees_equal(step.observation, self.start) for step in self.steps)

    def no_ends(self) -> str:
        """Why checks of ends were skipped."""
        return f"no episode ended in {len(self.steps)} steps; give more num_steps or a shorter horizon"


class Driver:
    """Drives one environment with seeded actions, in tensors or NumPy as the environment wants them.

    Attributes:
        device: Where its tensors live; None if it takes and gives NumPy. Known after the first reset; before,
            it is the environment's attribute `device`.
        mode: The declared autoreset mode.
        global_rng: Whether the environment says that it draws from torch's own generator.
    """

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.num_envs: int = env.num_envs
        self.mode: AutoresetMode | None = env.metadata.get("autoreset_mode")
        dynamics = getattr(getattr(env.unwrapped, "engine", None), "dynamics", None)
        self.global_rng = getattr(dynamics, "rng", "counter") == "global"
        device = getattr(env, "device", None)
        self.device = device if isinstance(device, torch.device) else None

    def actions(self, num_steps: int, seed: int) -> list[Tree]:
        """Random actions of all envs for some steps, in NumPy."""
        space = copy.deepcopy(self.env.action_space)
        space.seed(seed)
        return [snapshot(space.sample()) for _ in range(num_steps)]

    def hand_in(self, action: Tree) -> Tree:
        """An action as the environment takes it; always a copy."""
        if self.device is None:
            return snapshot(action)
        return tree_map(lambda a: torch.tensor(a.copy(), device=self.device), action)

    def reset(self, seed: Any = None, mask: np.ndarray | None = None) -> tuple[Tree, Any]:
        """Reset all envs, or those of a mask."""
        if self.global_rng and isinstance(seed, int):
            torch.manual_seed(seed)
        observation, info = self.env.reset(seed=seed, options=None if mask is None else {"reset_mask": mask.copy()})
        first = next((leaf for _, leaf in leaves(observation)), None)
        self.device = first.device if isinstance(first, Tensor) else None
        return observation, info

    def second_starts(self, seed: int) -> Tree:
        """The first observations of the second episodes, if episodes are numbered by resets alone."""
        self.reset(seed)
        return snapshot(self.reset()[0])

    def rollout(
        self,
        seed: Any,
        actions: list[Tree],
        watch: Watch = lambda where, returned: None,
        partial: Mapping[int, np.ndarray] | None = None,
    ) -> Record:
        """Reset with a seed and take the actions.

        Envs that ended are reset by mask where the mode leaves it to the caller.

        Args:
            seed: As `reset` takes it.
            actions: One batch a step.
            watch: Sees what the environment returns.
            partial: After which steps to reset which envs ``(B,)`` besides.
        """
        observation, info = self.reset(seed)
        record = Record(snapshot(observation), [])
        watch("reset", {"observation": observation, "info": info})
        for t, action in enumerate(actions):
            handed = self.hand_in(action)
            returned = self.env.step(handed)
            step = Step(returned, trees_equal(snapshot(handed), action))
            record.steps.append(step)
            watch(f"step {t}", {**dict(zip(RETURNED, returned, strict=True)), "action": handed})
            mask = (partial or {}).get(t, np.zeros(self.num_envs, dtype=bool))
            if self.mode is AutoresetMode.DISABLED:
                mask = mask | step.ended
            if mask.any():
                observation, info = self.reset(None, mask)
                step.restarted, step.restarted_envs = snapshot(observation), mask
                watch(f"masked reset after step {t}", {"observation": observation, "info": info})
        return record


@dataclass(frozen=True)
class Case:
    """What checks of rollouts work on.

    Attributes:
        driver: The environment.
        base: A rollout of it.
        actions, seed: Those of that rollout.
        make_env: Makes the environment in another size, or None.
        report: Where failures go.
    """

    driver: Driver
    base: Record
    actions: list[Tree]
    seed: int
    make_env: Callable[[int], VectorEnv] | None
    report: CheckReport


def first_difference(
    a: Record, b: Record, envs_a: Any = slice(None), envs_b: Any = slice(None), tolerance: float = 1e-5
) -> str | None:
    """Where two rollouts part within the length of the shorter one, in words; None if they do not.

    Args:
        a, b: The rollouts.
        envs_a: The envs of `a` to look at.
        envs_b: The envs of `b` that should agree with them, in the same order.
        tolerance: Allowed difference of numbers, see `envs_differ`.
    """
    names, others = (
        np.arange(len(next(leaves(record.start))[1]))[envs].tolist() for record, envs in ((a, envs_a), (b, envs_b))
    )

    def compare(where: str, x: Tree, y: Tree) -> str | None:
        x, y = some_envs(x, envs_a), some_envs(y, envs_b)
        differ = envs_differ(x, y, tolerance)
        if not differ.any():
            return None
        i = int(differ.argmax())
        return f"{where}, env {names[i]}: {_short(one_env(x, i))} against {_short(one_env(y, i))}"

    if found := compare("reset, observation", a.start, b.start):
        return found
    for t, (x, y) in enumerate(zip(a.steps, b.steps, strict=False)):
        for name in ("terminated", "truncated", "reward", "observation"):
            if found := compare(f"step {t}, {name}", getattr(x, name), getattr(y, name)):
                return found
        for i, j in zip(names, others, strict=True):
            if i in x.final and j in y.final:
                one, other = (tree_map(lambda leaf: leaf[None], final) for final in (x.final[i], y.final[j]))
                if envs_differ(one, other, tolerance).any():
                    return f"step {t}, final_obs, env {i}: {_short(one)} against {_short(other)}"
    return None


def _short(tree: Tree) -> str:
    text = " ".join(np.array2string(np.asarray(leaf), precision=6, threshold=8) for _, leaf in leaves(tree))
    return (text or str(tree)).replace("\n", " ")
