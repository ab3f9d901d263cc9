"""Driving an environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from wm_vec.envs.checks.record import Record, Step, take_down
from wm_vec.envs.checks.values import Tree, leaves, map_leaves, snapshot, trees_equal

Watch = Callable[[str, dict[str, Any]], None]
"""Called with a place in words and what the environment returned there, by name, before all else."""
RETURNED = ("observation", "reward", "terminated", "truncated", "info")


class Tally:
    """Our own episode returns and lengths.

    Args:
        num_envs: B.
        mode: The autoreset mode.
    """

    def __init__(self, num_envs: int, mode: AutoresetMode | None) -> None:
        self._mode = mode
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._counts = np.ones(num_envs, dtype=bool)

    def add(self, step: Step) -> None:
        """Count a step, and note returns and lengths in it."""
        self._returns = self._returns + np.where(self._counts, step.reward, 0.0)
        self._lengths = self._lengths + self._counts
        step.own_return, step.own_length = self._returns, self._lengths

    def start_anew(self, ended: np.ndarray, masked: np.ndarray) -> None:
        """Episodes that ended, and those that a masked reset began."""
        fresh = ended | masked
        self._returns, self._lengths = np.where(fresh, 0.0, self._returns), np.where(fresh, 0, self._lengths)
        # In NEXT_STEP mode the step after an end is spent on the reset and belongs to no episode.
        skips = ended & ~masked & (self._mode is AutoresetMode.NEXT_STEP)
        self._counts = ~skips


class Driver:
    """Drives one environment with seeded actions, in tensors or NumPy as the environment wants them.

    Args:
        env: The environment.

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
        return map_leaves(lambda a: torch.tensor(a.copy(), device=self.device), action)

    def reset(self, seed: Any = None, mask: np.ndarray | None = None) -> tuple[Tree, Any]:
        """Reset all envs, or those of a mask."""
        if self.global_rng and isinstance(seed, int):
            torch.manual_seed(seed)
        observation, info = self.env.reset(seed=seed, options=None if mask is None else {"reset_mask": mask.copy()})
        first = next((leaf for _, leaf in leaves(observation, "")), None)
        self.device = first.device if isinstance(first, Tensor) else None
        return observation, info

    def rollout(
        self,
        seed: Any,
        actions: list[Tree],
        watch: Watch | None = None,
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
        if watch:
            watch("reset", {"observation": observation, "info": info})
        tally = Tally(self.num_envs, self.mode)
        for t, action in enumerate(actions):
            handed = self.hand_in(action)
            returned = self.env.step(handed)
            step = take_down(returned)
            step.action_kept = trees_equal(snapshot(handed), action)
            tally.add(step)
            if watch:
                watch(f"step {t}", {**dict(zip(RETURNED, returned, strict=True)), "action": handed})
            mask = (partial or {}).get(t, np.zeros(self.num_envs, dtype=bool))
            if self.mode is AutoresetMode.DISABLED:
                mask = mask | step.ended
            if mask.any():
                observation, info = self.reset(None, mask)
                step.restarted, step.restarted_rows = snapshot(observation), mask
                if watch:
                    watch(f"masked reset after step {t}", {"observation": observation, "info": info})
            tally.start_anew(step.ended, mask)
            record.steps.append(step)
        return record
