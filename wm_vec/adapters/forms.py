"""What resets and transitions may return, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from tensordict import TensorDictBase

from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.adapters.spaces import ObservationCodec

RESET_FORMS = (
    "obs",
    "(obs, info)",
    "(state, obs)",
    "(state, obs, info)",
    "a mapping with state, observation/obs/image, and optional info",
)
TRANSITION_FORMS = (
    "(obs, reward, terminated, truncated, info)",
    "(obs, reward, done, info)",
    "(state, obs, reward)",
    "(state, obs, reward, done)",
    "(state, obs, reward, terminated, truncated, info)",
    "a mapping with state/next_state, observation/obs/image, reward, terminated/done, truncated, and optional info",
)
OBSERVATION_KEYS = ("next_observation", "next_obs", "observation", "obs", "image", "pixels")
STATE_KEYS = ("next_state", "state", "next_latent", "latent")
"""Where a mapping has both, as a model's that hands on its input, ``next_`` is the one after the step."""
TERMINATED_KEYS = ("terminated", "done")


TUPLE_READ = {
    5: " (a tuple of 5 is read as (obs, reward, terminated, truncated, info))",
    4: " (a tuple of 4 is read as (obs, reward, done, info), or (state, obs, reward, done) where obs is second)",
    3: " (a tuple of 3 is read as (state, obs, reward))",
    6: " (a tuple of 6 is read as (state, obs, reward, terminated, truncated, info))",
}
"""What errors about a tuple's parts add: which form it was taken for."""
REWARD_NAMES = ("reward", "rewards", "rew")
END_NAMES = ("terminated", "terminal", "done", "dones", "is_terminal", "continue", "cont", "discount", "not_done")


class Missing:
    """What a form left out."""


MISSING = Missing()


class ResetParts(NamedTuple):
    """A reset's result: `state` is the observation itself where none was given, and `has_state` False."""

    state: Any
    observation: Any
    info: Mapping[str, Any]
    has_state: bool = True


class StepParts(NamedTuple):
    """A transition's result; `reward` and `terminated` may be `MISSING`, `truncated` None; `has_state` as above."""

    state: Any
    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: Mapping[str, Any]
    has_state: bool = True


def read_reset(result: Any, observations: ObservationCodec, lead: tuple[int, ...], where: str) -> ResetParts:
    """Read what a reset returned.

    What is an observation by its structure and shapes is one. A pair is ``(obs, info)`` if its second part is None or
    a mapping without the keys of the Dict space, and ``(state, obs)`` otherwise; a mapping alone is an observation if
    it has those keys, and a form otherwise.

    Args:
        result: What came back.
        observations: The space.
        lead: Axes in front of observations, ``(B,)`` or none.
        where: The callable, for the error.

    Raises:
        AdapterError: None of `RESET_FORMS`.
    """
    if result is None:
        raise _refuse(where, result, RESET_FORMS)
    if observations.fits(result, lead):
        return ResetParts(result, result, {}, False)
    if _is_form(result, observations):
        found = dict(result.items())
        state = _take(found, STATE_KEYS)
        observation = _take(found, OBSERVATION_KEYS)
        info = found.pop("info", None)
        if observation is MISSING:
            raise _refuse(where, result, RESET_FORMS, "It has no observation.")
        own = state is not MISSING
        return ResetParts(state if own else observation, observation, _as_info(info, where, found), own)
    if isinstance(result, tuple):
        if len(result) == 3:
            state, observation, info = result
            return ResetParts(state, observation, _as_info(info, where))
        if len(result) == 2:
            first, second = result
            if second is None or (isinstance(second, Mapping) and not observations.has_keys(second)):
                return ResetParts(first, first, _as_info(second, where), False)
            return ResetParts(first, second, {})
        raise _refuse(where, result, RESET_FORMS)
    # An observation of the wrong shape or dtype: what takes its tensors says what is wrong with it.
    return ResetParts(result, result, {}, False)


def read_transition(result: Any, observations: ObservationCodec, lead: tuple[int, ...], where: str) -> StepParts:
    """Read what a transition returned; arguments and errors as `read_reset`.

    The number of a tuple's parts says which form it is; of 4, whether the last is an info or the second an observation.
    Where no state is given it is ``info["model_state"]``, or else
    the observation. A bare observation leaves out everything else.

    Raises:
        AdapterError: None of `TRANSITION_FORMS`.
    """
    if observations.fits(result, lead):
        return StepParts(result, result, MISSING, MISSING, None, {}, False)
    if isinstance(result, tuple):
        if len(result) == 5:
            observation, reward, terminated, truncated, info = result
        elif len(result) == 4 and not _is_info(result[3]) and observations.fits(result[1], lead):
            state, observation, reward, terminated = result
            return StepParts(state, observation, reward, terminated, None, {})
        elif len(result) == 4:
            (observation, reward, terminated, info), truncated = result, None
        elif len(result) == 3:
            state, observation, reward = result
            return StepParts(state, observation, reward, MISSING, None, {})
        elif len(result) == 6:
            state, observation, reward, terminated, truncated, info = result
            return StepParts(state, observation, reward, terminated, truncated, _as_info(info, where))
        else:
            raise _refuse(where, result, TRANSITION_FORMS)
        info = _as_info(info, where + TUPLE_READ[len(result)])
        own = "model_state" in info
        state = info.pop("model_state", observation)
        return StepParts(state, observation, reward, terminated, truncated, info, own)
    if not _is_form(result, observations):
        raise _refuse(where, result, TRANSITION_FORMS)
    found = dict(result.items())
    state, observation = _take(found, STATE_KEYS), _take(found, OBSERVATION_KEYS)
    if observation is MISSING:
        raise _refuse(where, result, TRANSITION_FORMS, "It has no observation.")
    reward, terminated = _take(found, ("reward",)), _take(found, TERMINATED_KEYS)
    truncated, given = found.pop("truncated", None), found.pop("info", None)
    info = _as_info(given, where, found)
    own = state is not MISSING or "model_state" in info
    if state is MISSING:
        state = info.pop("model_state", observation)
    return StepParts(state, observation, reward, terminated, truncated, info, own)


def near_misses(parts: StepParts, no_reward: bool, no_end: bool) -> list[str]:
    """What may be wrong with a transition that left out its reward or its end, but reports something like it."""
    found = []
    for missing, names, what in ((no_reward, REWARD_NAMES, "reward"), (no_end, END_NAMES, "terminated")):
        likely = [str(key) for key in parts.info if get_close_matches(str(key).lower(), names, cutoff=0.8)]
        if missing and likely:
            found.append(f"{likely[0]!r} went into info, since a {what} goes by the key {what!r}")
    return found


def tuple_read(result: Any) -> str:
    """How a tuple was read, for errors about its parts; nothing for other forms."""
    return TUPLE_READ.get(len(result), "") if isinstance(result, tuple) else ""


def _is_form(result: Any, observations: ObservationCodec) -> bool:
    """Whether a mapping is one of our forms, not a Dict space's observation of the wrong shape.

    One with the space's keys is a form if it has an observation of that space inside.
    """
    if not isinstance(result, (Mapping, TensorDictBase)):
        return False
    if not observations.has_keys(result):
        return True
    return observations.has_keys(next((result[key] for key in OBSERVATION_KEYS if key in result), None))


def _take(found: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """The entry under the first of these keys that stands there, taken out; None counts as left out."""
    value = None
    for key in keys:
        if key in found:
            value = found.pop(key)
            break
    if keys is STATE_KEYS:  # what else goes by these names is the state before the step, no info
        for other in keys:
            found.pop(other, None)
    return MISSING if value is None else value


def _is_info(value: Any) -> bool:
    return value is None or isinstance(value, (Mapping, TensorDictBase))


def _as_info(info: Any, where: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An info dict; what a mapping holds besides its form's keys goes in too."""
    if not _is_info(info):
        raise AdapterError(f"{where}: info must be a mapping, got {describe(info)}.")
    return {**(extra or {}), **({} if info is None else dict(info.items()))}


def _refuse(where: str, result: Any, forms: tuple[str, ...], why: str = "") -> AdapterError:
    listed = "\n".join(f"  - {form}" for form in forms)
    return AdapterError(f"{where} returned {describe(result)}. {why}{' ' if why else ''}It may return:\n{listed}")
