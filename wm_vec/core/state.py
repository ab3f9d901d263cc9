"""What the engine carries from step to step, and what a step returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gymnasium.vector import AutoresetMode
from tensordict import TensorClass, TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.core.perspective import PerMany
from wm_vec.core.trees import Tree


class EnvState(TensorClass):
    """The state of B envs; indexing gives the state of some of them.

    Attributes:
        dynamics: The dynamics' own state.
        reward_state: What stateful reward functions carry, by perspective.
        elapsed: ``(B,)`` int64, steps of the current episode.
        episode: ``(B,)`` int64, episodes since the row was seeded.
        seed: ``(B,)`` int64.
        returns: ``(B, P)`` float, sums of the episode's rewards, a column per perspective.
        pending: ``(B,)`` bool, episodes that ended in the last step and reset in the next (NEXT_STEP alone).
        world: ``(B,)`` int64, a digest of what the world is about, so that other worlds refuse the state; they look at
            it in host memory. 0 in rows of padding.
    """

    dynamics: TensorDict
    reward_state: TensorDict
    elapsed: Tensor
    episode: Tensor
    seed: Tensor
    returns: Tensor
    pending: Tensor
    world: Tensor


class StepResult(NamedTuple):
    """What a step of the engine gives, for B envs.

    With one perspective `observation`, `final_observation`, `reward` and `terminated` are tensors (observations of
    several parts dicts or tuples of them), with several they are mappings from the perspective's name.

    Attributes:
        observation: ``(B, ...)``, what the next action answers to; a fresh episode's where the env was reset.
        reward: ``(B,)`` float.
        terminated: ``(B,)`` bool.
        truncated: ``(B,)`` bool.
        final_observation: ``(B, ...)``, where the step ended, before any reset.
        finished: ``(B,)`` bool: the episode ended in this step.
        was_reset: ``(B,)`` bool: `observation` starts an episode.
        diverged: ``(B,)`` bool: the row turned non-finite and was ended at its last finite state.
        episode_return: ``(B,)`` float (``(B, P)`` with several perspectives): the episode's rewards up to this step.
        episode_length: ``(B,)`` int64: the episode's steps up to this one.
        model_state: The dynamics' state after the step, before any reset; not a copy.
        predictions: ``(B, ...)`` or a tree of such, the dynamics' whole observation of `model_state`; not a copy.
        info: What the dynamics reports besides.
    """

    observation: PerMany
    reward: PerMany
    terminated: PerMany
    truncated: Tensor
    final_observation: PerMany
    finished: Tensor
    was_reset: Tensor
    diverged: Tensor
    episode_return: Tensor
    episode_length: Tensor
    model_state: TensorDictBase
    predictions: Tree
    info: dict[str, Any]


class ColumnStep(NamedTuple):
    """What a step of an engine of one perspective gives, flags and rewards as columns.

    Attributes:
        observation, final_observation: As in `StepResult`.
        reward: ``(B, 1)`` float.
        terminated, truncated, finished: ``(B, 1)`` bool.
        running: Three new ``(B, 1)`` bool, all False: the flags that go with `observation`; None where nobody had them
            at hand.
    """

    observation: Tree
    final_observation: Tree
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    finished: Tensor
    running: Sequence[Tensor] | None = None


def as_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Gymnasium's enum from itself, its name or its value, whatever the case."""
    if isinstance(mode, AutoresetMode):
        return mode
    if isinstance(mode, str):
        wanted = mode.replace("_", "").replace("-", "").lower()
        for candidate in AutoresetMode:
            if candidate.value.lower() == wanted:
                return candidate
    names = ", ".join(repr(m.name.lower()) for m in AutoresetMode)
    raise ValueError(f"autoreset_mode must be one of {names} or gymnasium's AutoresetMode, got {mode!r}.")
