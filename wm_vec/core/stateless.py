"""What an engine does to its envs, as functions of any state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_kernels.finish_step.reference import AutoresetPlan, FinishedStep
from wm_vec.core.perspective import PerMany
from wm_vec.core.proposal import Proposal
from wm_vec.core.rng import CounterRNG, fork_seeds, seed_list
from wm_vec.core.starts import GivenStarts, blank_rows, next_episodes, restart
from wm_vec.core.state import ColumnStep, EnvState, StepResult
from wm_vec.core.transition import StepFunction


class StatelessEngine:
    """An engine's starts, steps and forks for any number of rows; it owns no episodes and writes into no tensor.

    Gradients flow if torch's grad mode is on.

    Args:
        step: One step of all rows.
        reward_dtype: Of the sums of rewards.
        reward_starts: One env's start values of what reward functions carry.
    """

    def __init__(self, step: StepFunction, reward_dtype: torch.dtype, reward_starts: list[Tensor]) -> None:
        self._step, self._layout, self._joint, self._starts = step, step.layout, step.joint, step.starts
        self._reward_dtype, self._reward_starts = reward_dtype, reward_starts

    def start(
        self,
        seed: Any,
        num_envs: int,
        start: Callable[[CounterRNG], TensorDictBase] | None = None,
        start_mask: Tensor | None = None,
    ) -> EnvState:
        """The first episodes of new envs, ``(num_envs,)``.

        Args:
            seed: An int s seeds env i with ``s + i``, a sequence gives one each.
            num_envs: How many.
            start: Makes the states ``(num_envs,)`` that they start from at their counters; None draws them as ever.
            start_mask: ``(num_envs,)`` bool, the envs that `start` is for; None for all.

        Raises:
            TypeError, ValueError: Seeds that do not fit.
        """
        seeds = seed_list(seed, num_envs)
        reseed = getattr(self._step.dynamics, "reseed", None)
        if reseed is not None:
            reseed(seeds[0])
        blank = blank_rows(seeds, self._layout.num_perspectives, self._reward_dtype, self._joint.device)
        with torch.no_grad():
            starts = self._starts
            if start is not None:
                rng = CounterRNG(*next_episodes(blank, None), torch.zeros_like(blank.seed))
                starts = GivenStarts(self.given_leaves(start(rng), num_envs), starts, start_mask)
            return self._layout.to_state(restart(starts, blank))

    def given_leaves(self, start: TensorDictBase, num_envs: int) -> list[Tensor]:
        """The leaves ``(num_envs, ...)`` of given states as copies, reward states included.

        Raises:
            ValueError: The states of another world, of another number of envs or on another device.
        """
        if tuple(start.batch_size) != (num_envs,):
            raise ValueError(f"reset: this engine has {num_envs} envs, start {tuple(start.batch_size)}.")
        device = self._joint.device
        leaves = self._layout.check(start, "reset: start")
        there = {leaf.device for leaf in leaves} - {device}
        if there:
            raise ValueError(f"reset: start is on {there.pop()}, the environment on {device}. Move it with .to().")
        return [leaf.clone() for leaf in leaves] + [s.expand(num_envs, *s.shape) for s in self._reward_starts]

    def restart(self, state: EnvState, mask: Tensor | None = None) -> EnvState:
        """`state` ``(B,)`` with its next episodes in the rows of `mask`, ``(B,)`` bool, or in all."""
        return self._layout.to_state(restart(self._starts, self._layout.to_rows(state), mask=mask))

    def transition(self, state: EnvState, action: PerMany) -> tuple[EnvState, StepResult]:
        """One step of `state` ``(B,)``; `action` is ``(B, *shape)``, with several perspectives a mapping by name."""
        plan = self._step.plan
        after, finished, proposal = self._advance(state, action, plan)
        return after, self._step.result(finished, proposal, plan)

    def transition_columns(self, state: EnvState, action: Tensor) -> tuple[EnvState, ColumnStep]:
        """`transition` with one perspective and without resets, without what a TensorDict has no entry for."""
        after, finished, proposal = self._advance(state, action, "disabled")
        return after, self._step.columns(finished, proposal, "disabled")

    def _advance(
        self, state: EnvState, action: PerMany, plan: AutoresetPlan
    ) -> tuple[EnvState, FinishedStep, Proposal]:
        rows = self._layout.to_rows(state).with_own_objects()
        actions = self._joint.check(action, rows.elapsed.shape[0])
        rng = CounterRNG(rows.seed, rows.episode, rows.elapsed)
        after, finished, proposal = self._step.advance(rows, actions, rng, plan)
        return self._layout.to_state(after), finished, proposal

    def observe(self, state: EnvState) -> PerMany:
        """What the perspectives see of `state` ``(B,)``, ``(B, ...)``."""
        return self._step.observe(self._layout.to_rows(state).leaves)

    def sample_actions(self, state: EnvState, draw: int = 0) -> Tensor:
        """Random actions ``(B, *shape)`` of the first perspective, from the counters of `state` ``(B,)`` alone.

        Args:
            state: Rows of equal counters get equal actions.
            draw: Another number gives other actions.
        """
        return self._joint.sample(CounterRNG(state.seed, state.episode, state.elapsed), draw)

    def fork(self, state: EnvState, fork: int) -> EnvState:
        """`state` ``(B,)`` as it goes on with noise of its own; see `fork_seeds`."""
        rows = self._layout.to_rows(state)
        parents = CounterRNG(rows.seed, rows.episode, rows.elapsed)
        return self._layout.to_state(rows._replace(seed=fork_seeds(parents, fork)))
