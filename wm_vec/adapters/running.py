"""What the ways to run a model over B envs have in common."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.adapters.calls import ModelCalls, UserCall
from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.adapters.forms import MISSING, ResetParts, StepParts, near_misses
from wm_vec.adapters.randomness import GlobalGenerator, warn_of_draws
from wm_vec.adapters.spaces import ActionCodec, ObservationCodec
from wm_vec.core import CounterRNG, Transition


class Setting(NamedTuple):
    """What every way of running needs.

    Attributes:
        adapter: Name of the adapter's class, for errors.
        calls: The model's callables.
        observations: The observation space.
        actions: The action space.
        device: Where tensors live.
        torch_actions: Whether a model gets tensors under ``"loop"``.
        generator: The global generators where the model draws from them.
    """

    adapter: str
    calls: ModelCalls
    observations: ObservationCodec
    actions: ActionCodec
    device: torch.device
    torch_actions: bool
    generator: GlobalGenerator | None


class Runner:
    """One way of running; `pack` and `step` make states whose leaves an engine can select by rows."""

    batching: str

    def __init__(self, setting: Setting) -> None:
        self._adapter = setting.adapter
        self.calls, self.observations, self.actions = setting.calls, setting.observations, setting.actions
        self.device, self.torch_actions, self.generator = setting.device, setting.torch_actions, setting.generator
        self._watched = self._looked = self._own_state = self.begun = False
        self._transition_name = self.where(setting.calls.transition)

    def where(self, call: UserCall | str) -> str:
        """How messages name a callable."""
        name = call if isinstance(call, str) else call.name
        return f"{self._adapter}(batching={self.batching!r}), {name}"

    def pack(self, starts: Sequence[ResetParts], lead: tuple[int, ...]) -> TensorDict:
        """The states ``(M,)`` of started episodes: one per env without `lead`, else batches with that axis in front."""
        raise NotImplementedError

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """One step of all rows; `action` is ``(B, A)``."""
        raise NotImplementedError

    def encode(self, observation: dict[str, Tensor], rng: CounterRNG) -> TensorDict:
        """States ``(M,)`` of real observations, leaves ``(M, ...)`` by name, by ``calls.encode``.

        Without it an observation is taken for the state, where episodes start with that.
        """
        raise NotImplementedError

    @property
    def starts_as_observed(self) -> bool:
        """Whether the episodes packed so far start with an observation for a state."""
        return not self._own_state

    def model_state(self, state: TensorDictBase, row: int | None) -> Any:
        """The model's own state in its own structure; of one row, or of all."""
        raise NotImplementedError

    def _watch(self, call: UserCall) -> Any:
        """The first time, look whether an undeclared model draws from a global generator."""
        if self._watched or self.generator is not None or torch.compiler.is_compiling():
            return nullcontext()
        self._watched = True
        return warn_of_draws(call.name)

    def _begin(self, starts: Sequence[ResetParts]) -> None:
        """Remember whether episodes start with a state of the model's own, and that some have started."""
        self.begun = True
        self._own_state = self._own_state or any(start.has_state for start in starts)

    def _look(self, parts: StepParts) -> None:
        """Look at what a transition left out.

        Raises:
            AdapterError: The state, although episodes start with one: the observation would be taken for it.
        """
        calls, name = self.calls, self._transition_name
        if self._own_state and not parts.has_state and "state" in calls.transition.takes:
            raise AdapterError(
                f"{name} returned no state, but episodes start with a state of its own. Return it, as 'state' in a "
                "mapping or first in a tuple of 3 or 6."
            )
        if not self._looked:
            self._looked = True
            no_reward = parts.reward is MISSING and calls.reward is None
            for miss in near_misses(parts, no_reward, parts.terminated is MISSING and calls.terminal is None):
                warnings.warn(f"{name}: {miss}.", stacklevel=2)

    def _judge(self, parts: StepParts, action: Any, rng: CounterRNG, row: int | None) -> tuple[Any, Any]:
        """Reward and termination: the transition's, else those of the functions, else 0.0 and False."""
        calls, reward, terminated = self.calls, parts.reward, parts.terminated
        if reward is MISSING or terminated is MISSING:
            values = (calls.model, parts.state, parts.observation, action)
            if reward is MISSING:
                reward = 0.0 if calls.reward is None else self._call(calls.reward, values, rng, row)
            if terminated is MISSING:
                terminated = False if calls.terminal is None else self._call(calls.terminal, values, rng, row)
        return reward, terminated

    def _call(self, call: UserCall, values: tuple[Any, ...], rng: CounterRNG, row: int | None) -> Any:
        """Call a user's callable for one env, or with None for all at once."""
        try:
            return call(*values)
        except Exception as error:
            add_place(error, call, rng, row)
            raise

    def _finish(self, state: Mapping[str, Tensor], observation: dict[str, Tensor], num_envs: int) -> TensorDict:
        return TensorDict._new_unsafe({**state, **observation}, batch_size=torch.Size([num_envs]))


def add_place(error: Exception, call: UserCall, rng: CounterRNG, row: int | None) -> None:
    """Note in an exception where in the rollout it was raised; its type and traceback stay as they are."""
    what = f"Raised in {call.name}, called with ({', '.join(call.takes)})"
    envs = rng.seed.shape[0]
    try:
        step, episode, seed = (int(counter[row or 0]) for counter in (rng.step, rng.episode, rng.seed))
    except Exception:  # no values to read, as on the meta device
        error.add_note(f"{what}.")
        return
    where = f"in step {step + 1} of episode {episode}"
    if row is not None:
        error.add_note(f"{what}, {where} of env {row} of {envs} (seed {seed}).")
    else:
        error.add_note(f"{what} for all {envs} envs at once, {where} of the first (seed {seed}).")


def one_number(value: Any, what: str, where: str) -> Any:
    """A number of one env: a Python number, or a tensor of shape ``()``.

    Raises:
        AdapterError: Several numbers, or none.
    """
    if isinstance(value, (float, int)) and not (what == "reward" and isinstance(value, bool)):
        return value
    tensor = value if isinstance(value, Tensor) else numbers(value, what, where)
    refuse_flag_as_reward(tensor, what, where)
    if tensor.numel() != 1:
        raise AdapterError(f"{where}: {what} must be one number of one env, got {describe(value)}.")
    return tensor.reshape(()) if tensor.requires_grad and torch.is_grad_enabled() else tensor.item()


def numbers(value: Any, what: str, where: str) -> Tensor:
    """What is no tensor yet as one.

    Raises:
        AdapterError: It is no number and no numbers.
    """
    try:
        return torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{where}: {what} must be one number per env, got {describe(value)}.") from error


def refuse_flag_as_reward(value: Tensor, what: str, where: str) -> None:
    """A reward that is a flag is something else at a reward's place.

    Raises:
        AdapterError: It is.
    """
    if what == "reward" and value.dtype is torch.bool:
        raise AdapterError(
            f"{where}: the reward is a flag, {describe(value)}; a reward is a number. Convert it if it is."
        )


def as_flag(value: Any, what: str, where: str) -> bool:
    """A flag or a probability as a flag: above one half is true.

    Raises:
        AdapterError: A number that is neither.
    """
    if isinstance(value, bool):
        return value
    if not 0 <= value <= 1:
        raise AdapterError(f"{where}: {what} must be a flag or a probability, got {float(value)}.")
    return bool(value > 0.5)


def as_flags(value: Tensor) -> Tensor:
    """`as_flag` of every element."""
    return value if value.dtype is torch.bool else value > 0.5
