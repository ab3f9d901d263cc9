"""Reading what a model's callables return, whether of one env or of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_vec.adapters.calls import ModelCalls, UserCall
from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.adapters.forms import MISSING, ResetParts, StepParts, near_misses, read_transition
from wm_vec.adapters.spaces import ObservationCodec


class TransitionReader:
    """Reads transitions, completes them by the user's functions, and warns of what was probably meant otherwise.

    Args:
        calls: The model's callables.
        observations: The observation space.
        where: The adapter and the transition, for errors.

    Attributes:
        own_state: Whether episodes start with a state of the model's own, not with an observation for one.
        begun: Whether any episode has started.
    """

    def __init__(self, calls: ModelCalls, observations: ObservationCodec, where: str) -> None:
        self.calls, self.observations, self.where = calls, observations, where
        self.own_state = self.begun = self._looked = False

    def begin(self, starts: Sequence[ResetParts]) -> None:
        """Remember that episodes have started, and whether with states of their own."""
        self.begun = True
        self.own_state = self.own_state or any(start.has_state for start in starts)

    def read(self, result: Any, lead: tuple[int, ...]) -> StepParts:
        """The parts of a transition; `lead` are the axes in front.

        Raises:
            AdapterError: Another form than `read_transition` takes, or no state, although episodes start with one:
                the observation would be taken for it.
        """
        parts = read_transition(result, self.observations, lead, self.where)
        if not parts.has_state and self.own_state and "state" in self.calls.transition.takes:
            raise AdapterError(
                f"{self.where} returned no state, but episodes start with a state of its own. Return it, as 'state' in "
                "a mapping or first in a tuple of 3 or 6."
            )
        if not self._looked:
            self._looked = True
            calls = self.calls
            no_reward = parts.reward is MISSING and calls.reward is None
            for miss in near_misses(parts, no_reward, parts.terminated is MISSING and calls.terminal is None):
                warnings.warn(f"{self.where}: {miss}.", stacklevel=2)
        return parts

    def reward_and_end(
        self, parts: StepParts, action: Any, call: Callable[[UserCall, tuple[Any, ...]], Any]
    ) -> tuple[Any, Any]:
        """Reward and termination: the transition's, else those of the functions, else 0.0 and False.

        Args:
            parts: The transition.
            action: The action that the model took.
            call: Calls one of the user's functions with its values.
        """
        calls, reward, terminated = self.calls, parts.reward, parts.terminated
        if reward is MISSING or terminated is MISSING:
            values = (calls.model, parts.state, parts.observation, action)
            if reward is MISSING:
                reward = 0.0 if calls.reward is None else call(calls.reward, values)
            if terminated is MISSING:
                terminated = False if calls.terminal is None else call(calls.terminal, values)
        return reward, terminated


def given_start(
    state: Any, observation: Any, calls: ModelCalls, observations: ObservationCodec, batched: bool = False
) -> ResetParts:
    """What `initial_state` and `initial_observation` say, one of which is not None.

    Args:
        state, observation: They.
        calls: Whose decoder makes an observation of a state that is none.
        observations: The observation space.
        batched: Whether a state may have an axis ``(M,)`` in front.

    Raises:
        AdapterError: Nothing says what the state looks like.
    """
    own = state is not None
    if observation is None:
        many = batched and isinstance(state, Tensor) and state.dim() > 0
        fits = observations.fits(state) or (many and observations.fits(state, tuple(state.shape[:1])))
        observation = state if fits else calls.decoded(state)
    return ResetParts(state if own else observation, observation, {}, own and state is not observation)


def one_number(value: Any, what: str, where: str) -> float | bool:
    """A number of one env as Python's.

    Raises:
        AdapterError: Several numbers, or none, or a flag for a reward.
    """
    if isinstance(value, (float, int)) and not (what == "reward" and isinstance(value, bool)):
        return value
    array = numbers(value, what, where)
    refuse_odd_numbers(array, what, where)
    if (array.numel() if isinstance(array, Tensor) else array.size) != 1:
        raise AdapterError(f"{where}: {what} must be one number of one env, got {describe(value)}.")
    return array.item()


def numbers(value: Any, what: str, where: str) -> Tensor | np.ndarray:
    """A tensor as it is, anything else as an array of numbers.

    Raises:
        AdapterError: It is no number and no numbers.
    """
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # a ragged sequence
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise AdapterError(f"{where}: {what} must be one number per env, got {describe(value)}.")
    return array


def refuse_odd_numbers(value: Tensor | np.ndarray, what: str, where: str) -> None:
    """Complex numbers are neither rewards nor flags; a reward that is a flag is something else at a reward's place.

    Raises:
        AdapterError: It is such a tensor or array.
    """
    if isinstance(value, Tensor) and value.is_complex():
        raise AdapterError(f"{where}: {what} must be one real number per env, got {describe(value)}.")
    flag = value.dtype is torch.bool if isinstance(value, Tensor) else value.dtype.kind == "b"
    if what == "reward" and flag:
        raise AdapterError(
            f"{where}: the reward is a flag, {describe(value)}; a reward is a number. Convert it if it is."
        )


def as_flag(value: float | bool, what: str, where: str) -> bool:
    """A flag or a probability as a flag: above one half is true.

    Raises:
        AdapterError: A number that is neither.
    """
    if isinstance(value, bool):
        return value
    if not 0 <= value <= 1:
        raise AdapterError(f"{where}: {what} must be a flag or a probability, got {float(value)}.")
    return value > 0.5
