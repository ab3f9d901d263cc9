"""THE step: one function for every device, every number of envs, every world."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from wm_kernels import CanvasState, FinishedStep, FusedStep, finish_step
from wm_kernels.dispatch import inside_functorch
from wm_kernels.finish_step.reference import Autoreset
from wm_vec.core.actions import JointAction
from wm_vec.core.capture import Captures
from wm_vec.core.config import EngineConfig
from wm_vec.core.dynamics import Dynamics, Transition
from wm_vec.core.perspective import Perspective
from wm_vec.core.resets import InitialStates, ResetSource
from wm_vec.core.rewards import RewardFunctions
from wm_vec.core.rng import CounterRNG
from wm_vec.core.state import EnvState, StateLayout, StepOutput
from wm_vec.core.trees import Tree, broken_envs, copies, in_chunks, select_envs
from wm_vec.torch_settings import without_autocast

AUTORESET: dict[AutoresetMode, Autoreset] = {
    AutoresetMode.DISABLED: "disabled",
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.SAME_STEP: "same_step",
}
EXACT_ROWS_CHUNK = 32
"""Envs that go through the network together under ``exact_rows``."""


@dataclass(frozen=True)
class World:
    """Everything that a step needs besides the state.

    Attributes:
        dynamics: The batched transition.
        perspectives: Who sees, acts and is paid.
        actions: Their actions, joined.
        rewards: Their rewards and terminations.
        resets: Where episodes start.
        layout: The tensors of a state.
        config: The engine's settings.
        fused: The whole step as one operation, for a world whose rewards and terminations are its own; None where it is
            composed.
        kernels: Whether kernels run.
        capture: Whether an engine captures a step ``"whole"``, or the ``"parts"`` about users' functions; None for not.
    """

    dynamics: Dynamics
    perspectives: tuple[Perspective, ...]
    actions: JointAction
    rewards: RewardFunctions
    resets: ResetSource
    layout: StateLayout
    config: EngineConfig
    fused: FusedStep | None = None
    kernels: bool = False
    capture: Literal["whole", "parts"] | None = None

    @property
    def device(self) -> torch.device:
        """Where states live."""
        return self.actions.device

    def addresses(self) -> Hashable:
        """Where lies what a captured step reads besides its arguments, which is brought up to date."""
        return self.dynamics.addresses(), self.resets.addresses()

    def see(self, observation: Tree) -> dict[str, Tree]:
        """Every perspective's own copy of the dynamics' observation, by name."""
        return {p.name: p.observe(observation) for p in self.perspectives}

    def observe(self, state: EnvState) -> dict[str, Tree]:
        """What the perspectives see of a state ``(B,)``, by name."""
        return self.see(self.dynamics.observe(state.dynamics))


@without_autocast
def step(
    world: World,
    state: EnvState,
    actions: Sequence[Tensor],
    autoreset_mode: AutoresetMode | None = None,
    parts: Captures | None = None,
) -> tuple[EnvState, StepOutput]:
    """One step of B envs. It writes into no tensor, and reads none on the host.

    Args:
        world: What the envs have in common.
        state: Of B envs, any B.
        actions: One checked ``(B, *shape)`` per perspective; see `JointAction.check`.
        autoreset_mode: For this step; None for the world's.
        parts: Replays the first and the last segment as graphs; None runs them.

    Returns:
        The state that the next step starts from, and what happened.
    """
    mode = world.config.mode if autoreset_mode is None else autoreset_mode
    layout = world.layout
    gate = GradientGate() if torch.is_grad_enabled() else None
    if gate is not None:
        actions = [gate.admit(action) for action in actions]
        state = layout.replace_leaves(state, gate.admit)
    if world.fused is not None and gate is None and not inside_functorch():
        return _fused(world, world.fused, state, actions, mode)
    joint, action = world.actions.join(actions)
    before, reward_state = state.dynamics, dict(state.reward_state.items())
    seed, episode, elapsed = state.seed, state.episode, state.elapsed
    ended = state.ended if len(world.perspectives) > 1 else None
    if ended is not None:
        # Who has ended acts no more: nothing is written, and what was given is not looked at.
        idle = ended[:, world.actions.owner]
        joint = joint.masked_fill(idle, 0.0)
        action = world.actions.written(action, idle, world.dynamics.current_action(before))

    # 1. Predict.
    predict = partial(_run, world, _predict)
    transition: Transition = _replayed(world, parts, predict, False, before, action, seed, episode, elapsed)

    # 2. Users' functions; nothing where rewards and terminations are the dynamics' own.
    own = transition.observation, transition.reward, transition.terminated
    reward, terminated, carried = _run(world, _reward, before, *own, list(actions), elapsed, reward_state, ended)
    reward, terminated = _as_flags(reward, terminated)
    truncated = None
    if transition.truncated is not None:
        reward, truncated = _as_flags(reward, transition.truncated)

    # 3. Finish.
    finished: FinishedStep = _replayed(
        world,
        parts,
        partial(_finish, world, mode),
        world.config.copy,
        seed,
        layout.leaves(before, reward_state),
        layout.leaves(transition.state, carried),
        joint if world.actions.may_diverge else None,
        reward,
        terminated,
        truncated,
        elapsed,
        episode,
        state.returns,
        state.pending if mode is AutoresetMode.NEXT_STEP else None,
        ended,
    )
    if gate is not None:
        gate.closed = finished.diverged
    final_observation = world.see(world.dynamics.observe(layout.dynamics_state(finished.final)))
    observation = final_observation
    if mode is not AutoresetMode.DISABLED:
        observation = world.see(world.dynamics.observe(layout.dynamics_state(finished.state)))
    return _outcome(world, state, finished, observation, final_observation, copies(dict(transition.info)))


def _finish(
    world: World,
    mode: AutoresetMode,
    seed: Tensor,
    previous: list[Tensor],
    proposed: list[Tensor],
    action: Tensor | None,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    elapsed: Tensor,
    episode: Tensor,
    *counters: Tensor | None,
) -> FinishedStep:
    starts = InitialStates([], None)
    if mode is not AutoresetMode.DISABLED:
        starts = world.resets.sample(seed, episode)
    done = previous, proposed, starts.leaves, starts.draw, action, reward, terminated, truncated, elapsed, episode
    return finish_step(*done, *counters, world.config.max_episode_steps, AUTORESET[mode], kernel=world.kernels)


def _replayed(world: World, parts: Captures | None, segment: partial[Any], copy: bool, *args: Any) -> Any:
    """A segment of the step, through its graph if there are `parts`."""
    if parts is None:
        return segment(*args)
    what = segment.func, *(arg for arg in segment.args if arg is not world)
    return parts.run(what, world.addresses(), copy, lambda _, *given: ((), segment(*given)), (), *args)[1]


def _fused(
    world: World, fused: FusedStep, state: EnvState, actions: Sequence[Tensor], mode: AutoresetMode
) -> tuple[EnvState, StepOutput]:
    """All three segments as one operation."""
    leaves = world.layout.leaves(state.dynamics, {})
    tick = leaves[0] if len(leaves) > 1 else None
    counters = state.elapsed, state.episode, state.seed, state.returns, state.ended, state.pending
    starts = InitialStates([], None)
    if mode is not AutoresetMode.DISABLED:
        starts = world.resets.sample(state.seed, state.episode)
    output = fused(
        CanvasState(leaves[-1], tick, *counters),
        actions,
        starts.leaves,
        starts.draw,
        world.config.max_episode_steps,
        AUTORESET[mode],
    )
    observation, final_observation = (
        {p.name: p.parts_of(seen) for p, seen in zip(world.perspectives, each, strict=True)}
        for each in (output.observed, output.last_observed)
    )
    if mode is AutoresetMode.DISABLED:
        observation = final_observation
    return _outcome(world, state, output.finished, observation, final_observation, {})


def _outcome(
    world: World,
    before: EnvState,
    finished: FinishedStep,
    observation: dict[str, Tree],
    final_observation: dict[str, Tree],
    info: dict[str, Any],
) -> tuple[EnvState, StepOutput]:
    """The state that the next step starts from, and the step's output."""
    after = world.layout.state(
        finished.state,
        elapsed=finished.elapsed,
        episode=finished.episode,
        seed=before.seed,
        returns=finished.returns,
        pending=before.pending if finished.pending is None else finished.pending,
        ended=before.ended if finished.ended is None else finished.ended,
        world=before.world,
    )
    return after, StepOutput(
        observation=observation,
        final_observation=final_observation,
        reward=finished.reward,
        terminated=finished.terminated,
        truncated=finished.truncated,
        finished=finished.finished,
        was_reset=finished.was_reset,
        diverged=finished.diverged,
        episode_return=finished.final_returns,
        episode_length=finished.final_elapsed,
        state=after.dynamics,
        final_state=world.layout.dynamics_state(finished.final),
        info=info,
    )


class GradientGate:
    """Keeps the gradients of diverged envs from everybody's parameters.

    A select hides a non-finite env on the way forward only: on the way back zero times infinity is NaN, which a shared
    policy would add up. What is admitted passes its gradient on in envs that stayed finite, and zero in the others.

    Attributes:
        closed: ``(B,)`` bool, the envs that diverged; set when the step is finished.
    """

    def __init__(self) -> None:
        self.closed: Tensor | None = None

    def admit(self, tensor: Tensor) -> Tensor:
        """`tensor` ``(B, ...)`` itself; a view of it with the gate behind it if it needs a gradient."""
        if not tensor.requires_grad:
            return tensor
        gated = tensor.view_as(tensor)
        gated.register_hook(self._hold_back)
        return gated

    def _hold_back(self, gradient: Tensor | None) -> Tensor | None:
        if gradient is None or self.closed is None:
            return gradient
        return gradient.masked_fill(self.closed.view(-1, *(1,) * (gradient.dim() - 1)), 0.0)


def _run(world: World, segment: Callable[..., Any], *args: Any) -> Any:
    """A segment of the step; under `exact_rows` in chunks, since by rounding its bits may depend on the batch size."""
    if world.config.exact_rows:
        return in_chunks(partial(segment, world), EXACT_ROWS_CHUNK, *args)
    return segment(world, *args)


def _predict(world: World, state: Any, action: Tensor, seed: Tensor, episode: Tensor, elapsed: Tensor) -> Transition:
    return world.dynamics.step(state, action, CounterRNG(seed, episode, elapsed))


def _as_flags(reward: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
    """The reward ``(B, P)``, and flags ``(B,)`` or ``(B, P)`` as bools: numbers above one half are true.

    NaN is no flag: the env's reward is NaN then, too, so that the env counts as diverged.
    """
    if flags.dtype is torch.bool:
        return reward, flags
    unknown = flags.isnan() if flags.dim() > 1 else flags.isnan()[:, None]
    return reward.masked_fill(unknown, torch.nan), flags > 0.5


def _reward(
    world: World,
    before: Any,
    observation: Tree,
    reward: Tensor | None,
    terminated: Tensor | None,
    actions: list[Tensor],
    elapsed: Tensor,
    reward_state: dict[str, Tensor],
    ended: Tensor | None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Every perspective's reward and termination ``(B, P)``, and new reward states."""
    if world.rewards.has_functions:
        # Users' functions never see a diverged env: they get its last finite observation.
        observation = select_envs(broken_envs(observation), world.dynamics.observe(before), observation)
    return world.rewards(observation, actions, elapsed, reward_state, reward, terminated, ended)
