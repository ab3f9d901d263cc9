"""Rewards and terminations of all perspectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wm_vec.compat import tree_map
from wm_vec.core.functions import BatchedFunction
from wm_vec.core.perspective import Perspective
from wm_vec.core.probe import why_not_captured
from wm_vec.core.trees import Tree, select_envs
from wm_vec.plain import check_callable


class RewardFunctions:
    """Rewards and terminations of all perspectives over one batch.

    Args:
        perspectives: In the order of the columns.
        dtype: Floating dtype of rewards.

    Attributes:
        has_functions: Whether any perspective has a function of its own; if not, the dynamics' are everybody's.
    """

    def __init__(self, perspectives: Sequence[Perspective], dtype: torch.dtype) -> None:
        self.perspectives, self.dtype = tuple(perspectives), dtype
        several = len(self.perspectives) > 1
        self._rewards = [_function(p, "reward_fn", dtype, several) for p in self.perspectives]
        self._terminations = [_function(p, "terminated_fn", torch.bool, several) for p in self.perspectives]
        self.has_functions = any(f is not None for f in (*self._rewards, *self._terminations))

    def probe(self, observation: Tree, actions: Sequence[Tensor], elapsed: Tensor, states: Mapping[str, Any]) -> None:
        """Let every function decide how it runs, on a few envs of plausible values; arguments as in `__call__`."""
        for i, perspective in enumerate(self.perspectives):
            inputs = (perspective.observe(observation), actions[i], observation, elapsed)
            reward, terminated = self._rewards[i], self._terminations[i]
            if reward is not None:
                reward.probe(*inputs, *([states[perspective.name]] if perspective.name in states else []))
            if terminated is not None:
                terminated.probe(*inputs)

    def why_not_captured(self, examples: Sequence[Sequence[Any]], device: torch.device) -> str | None:
        """Why a function cannot be captured; None where all can. `examples` are two lists of arguments of `probe`."""
        for i, perspective in enumerate(self.perspectives):
            for function in (self._rewards[i], self._terminations[i]):
                if function is None:
                    continue
                if function.path == "loop":
                    return f"{function.name} runs env by env in Python"
                inputs = []
                for observation, actions, elapsed, states in examples:
                    stateful = function is self._rewards[i] and perspective.name in states
                    state = [states[perspective.name]] if stateful else []
                    inputs.append((perspective.observe(observation), actions[i], observation, elapsed, *state))
                reason = why_not_captured(function, inputs, device)
                if reason is not None:
                    return f"{function.name} cannot be captured: {reason}"
        return None

    def __call__(
        self,
        observation: Tree,
        actions: Sequence[Tensor],
        elapsed: Tensor,
        states: Mapping[str, Any],
        reward: Tensor | None,
        terminated: Tensor | None,
        ended: Tensor | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Rewards and terminations of a step.

        Args:
            observation: ``(B, ...)``, the dynamics' observation after the step.
            actions: One ``(B, *shape)`` per perspective.
            elapsed: ``(B,)`` int64, steps of the episode before this one.
            states: The states of stateful reward functions, by perspective.
            reward: ``(B,)`` float, the dynamics' own; None counts as 0.
            terminated: ``(B,)``, the dynamics' own flags; None counts as False.
            ended: ``(B, P)`` bool, perspectives that ended before: no gradient comes from their functions, and the
                states of their rewards stay as they are. None for none.

        Returns:
            Rewards ``(B, P)``, terminations ``(B, P)``, bool or the numbers that they came as, new reward states.
        """
        own_reward = torch.zeros_like(elapsed, dtype=self.dtype) if reward is None else reward.to(self.dtype)
        own_end = torch.zeros_like(elapsed, dtype=torch.bool) if terminated is None else terminated
        if not self.has_functions:
            shape = (elapsed.shape[0], len(self.perspectives))
            return own_reward[:, None].expand(shape), own_end[:, None].expand(shape), {}
        rewards: list[Tensor] = []
        terminations: list[Tensor] = []
        new_states: dict[str, Tensor] = {}
        for perspective, reward_fn, terminated_fn in zip(
            self.perspectives, self._rewards, self._terminations, strict=True
        ):
            place, name = len(rewards), perspective.name
            idle = None if ended is None else ended[:, place]
            paid, end = own_reward, own_end
            if reward_fn is not None or terminated_fn is not None:
                carried = states.get(name)
                if reward_fn is not None:
                    inputs = _inputs(perspective, observation, actions[place], elapsed, idle, carried)
                    paid, *after = reward_fn(*inputs, step=inputs[3])
                    if after:
                        new_states[name] = after[0] if idle is None else select_envs(idle, carried, after[0])
                if terminated_fn is not None:
                    inputs = _inputs(perspective, observation, actions[place], elapsed, idle)
                    (end,) = terminated_fn(*inputs, step=inputs[3])
            rewards.append(paid)
            terminations.append(end)
        if len(rewards) == 1:
            return rewards[0][:, None], terminations[0][:, None], new_states
        return torch.stack(rewards, 1), torch.stack(terminations, 1), new_states


def _inputs(
    perspective: Perspective,
    observation: Tree,
    action: Tensor,
    elapsed: Tensor,
    idle: Tensor | None,
    carried: Tensor | None = None,
) -> tuple[Any, ...]:
    """What a function is called with: its own, but for the dynamics' whole observation, which is copied when read."""
    inputs: tuple[Any, ...] = (perspective.observe(observation), action.clone(), observation, elapsed + 1)
    inputs = inputs if carried is None else (*inputs, carried.clone())
    if idle is None or not torch.is_grad_enabled():
        return inputs
    # A reward that does not count hides its NaN on the way forward only.
    return select_envs(idle, tree_map(Tensor.detach, inputs), inputs)


def _function(perspective: Perspective, name: str, dtype: torch.dtype, several: bool) -> BatchedFunction | None:
    """A perspective's function of that name, ready to run over a batch; None if it has none."""
    fn = getattr(perspective, name)
    said = f"{name} of {perspective.name!r}" if several else name
    check_callable(fn, said)
    stateful = name == "reward_fn" and perspective.reward_state is not None
    # A partial of a module's function, since environments are pickled, and a closure cannot be.
    return None if fn is None else BatchedFunction(fn, said, dtype, partial(_call, perspective, name), stateful, False)


def _call(
    perspective: Perspective,
    name: str,
    fn: Any,
    seen: Tree,
    action: Tensor,
    whole: Tensor,
    elapsed: Tensor,
    *state: Tensor,
) -> Any:
    """Call a user's function with what it reads by field name."""
    obs = perspective.named(seen)
    info = {"step": elapsed, "obs_dict": obs, "predictions": perspective.everything(whole)}
    return fn(obs, action, info, *state) if name == "reward_fn" else fn(obs, elapsed, info)
