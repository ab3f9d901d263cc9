"""What the perspectives say of a step: rewards and terminations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wm_vec.core.functions import BatchedFunction
from wm_vec.core.perspective import Perspective
from wm_vec.core.trees import Tree


class Judge:
    """Rewards and terminations of all perspectives over one batch.

    Args:
        perspectives: In the order of the columns.
        dtype: Floating dtype of rewards.
    """

    def __init__(self, perspectives: Sequence[Perspective], dtype: torch.dtype) -> None:
        self.perspectives = tuple(perspectives)
        self.dtype = dtype
        self._rewards = [_reward_function(p, dtype) for p in self.perspectives]
        self._terminations = [_terminated_function(p) for p in self.perspectives]
        self.has_functions = any(f is not None for f in (*self._rewards, *self._terminations))
        self.stateful = [p.name for p in self.perspectives if p.reward_state is not None]

    def initial_reward_state(self) -> dict[str, Tensor]:
        """One env's start values by perspective."""
        return {p.name: p.reward_state for p in self.perspectives if p.reward_state is not None}

    def probe(self, observation: Tensor, actions: Sequence[Tensor], elapsed: Tensor, states: dict[str, Tensor]) -> None:
        """Let every function decide how it runs, on a few rows of plausible values."""
        for i, perspective in enumerate(self.perspectives):
            inputs = (perspective.observe(observation), actions[i], observation, elapsed)
            reward, terminated = self._rewards[i], self._terminations[i]
            if reward is not None:
                extra = (states[perspective.name],) if perspective.name in states else ()
                reward.probe(*inputs, *extra)
            if terminated is not None:
                terminated.probe(*inputs)

    def __call__(
        self,
        observation: Tree,
        actions: Sequence[Tensor],
        elapsed: Tensor,
        states: dict[str, Tensor],
        reward: Tensor | None,
        terminated: Tensor | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Judge a step.

        Args:
            observation: ``(B, ...)``, the dynamics' observation after the step.
            actions: One ``(B, *shape)`` per perspective.
            elapsed: ``(B,)`` int64, steps of the episode before this one.
            states: What stateful reward functions carry.
            reward: ``(B,)`` float, the dynamics' own; None counts as 0.
            terminated: ``(B,)`` bool, the dynamics' own; None counts as False.

        Returns:
            Rewards ``(B, P)``, terminations ``(B, P)`` bool, new reward states.
        """
        if not self.has_functions and len(self.perspectives) == 1 and reward is not None and terminated is not None:
            return reward.to(self.dtype).unsqueeze(1), terminated.unsqueeze(1), states
        elapsed = elapsed + 1
        rewards, terminations, new_states = [], [], dict(states)
        for i, perspective in enumerate(self.perspectives):
            reward_fn, terminated_fn = self._rewards[i], self._terminations[i]
            inputs: tuple[Tensor, ...] = ()
            if reward_fn is not None or terminated_fn is not None:
                inputs = (perspective.observe(observation), actions[i], observation, elapsed)
            if reward_fn is None:
                rewards.append(torch.zeros_like(elapsed, dtype=self.dtype) if reward is None else reward.to(self.dtype))
            elif perspective.name in states:
                value, new_states[perspective.name] = reward_fn(*inputs, states[perspective.name])
                rewards.append(value)
            else:
                rewards.append(reward_fn(*inputs)[0])
            if terminated_fn is None:
                terminations.append(torch.zeros_like(elapsed, dtype=torch.bool) if terminated is None else terminated)
            else:
                terminations.append(terminated_fn(*inputs)[0])
        if len(rewards) == 1:
            return rewards[0].unsqueeze(1), terminations[0].unsqueeze(1), new_states
        return torch.stack(rewards, 1), torch.stack(terminations, 1), new_states


def _named(perspective: Perspective, seen: Tensor, whole: Tensor, elapsed: Tensor) -> tuple[dict, dict[str, Any]]:
    """The observation by field name, and the info dict, as users' functions read them."""
    obs = perspective.named(seen)
    info = {"step": elapsed, "obs_dict": obs, "predictions": perspective.everything(whole)}
    return obs, info


def _reward_function(perspective: Perspective, dtype: torch.dtype) -> BatchedFunction | None:
    if perspective.reward_fn is None:
        return None
    # A partial of a module's function, since environments are pickled, and a closure cannot be.
    call, stateful = partial(_call_reward, perspective), perspective.reward_state is not None
    return BatchedFunction(perspective.reward_fn, "reward_fn", dtype, call, stateful)


def _call_reward(
    perspective: Perspective, fn: Any, seen: Tensor, action: Tensor, whole: Tensor, elapsed: Tensor, *state: Tensor
) -> Any:
    obs, info = _named(perspective, seen, whole, elapsed)
    return fn(obs, action, info, *state)


def _terminated_function(perspective: Perspective) -> BatchedFunction | None:
    if perspective.terminated_fn is None:
        return None
    return BatchedFunction(
        perspective.terminated_fn, "terminated_fn", torch.bool, partial(_call_terminated, perspective)
    )


def _call_terminated(
    perspective: Perspective, fn: Any, seen: Tensor, action: Tensor, whole: Tensor, elapsed: Tensor
) -> Any:
    obs, info = _named(perspective, seen, whole, elapsed)
    return fn(obs, elapsed, info)
