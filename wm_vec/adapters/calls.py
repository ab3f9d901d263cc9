"""A model and what users hand in with it: called with the declared arguments, errors told apart from ours."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.compat import NOISY_IN_TRAINING
from wm_vec.plain import as_device

NAMES = {
    "model": ("model", "world_model", "wm", "m"),
    "state": ("state", "latent", "next_state", "next_latent", "s"),
    "observation": ("observation", "obs", "next_observation", "next_obs", "o"),
    "action": ("action", "act", "a"),
    "seed": ("seed", "seeds"),
    "options": ("options",),
    "rng": ("rng",),
}
"""Argument -> the parameter names by which callables may ask for it."""
OTHERS = ("batch_size", "num_envs", "n_envs", "size", "shape", "device", "dtype")
"""Names of parameters that mean something which no callable is given."""
_MEANING = {name: argument for argument, names in NAMES.items() for name in names}


class UserCall:
    """A user's callable, called with the arguments that it declares.

    If all its parameters have names that `NAMES` knows, it gets what they say. Otherwise their number decides, by
    the first of `forms` of that length, unless a name of more than one letter says another thing.

    Args:
        fn: The callable.
        name: What to call it in messages: ``"transition_fn"``, ``"world_model.step"``.
        known: The arguments there are, in the order in which `__call__` takes them.
        forms: Arguments by position, the fullest first.

    Attributes:
        takes: The arguments that it gets.

    Raises:
        AdapterError: No callable, or one that wants more than there is.
    """

    def __init__(self, fn: Any, name: str, known: Sequence[str], forms: Sequence[Sequence[str]]) -> None:
        if not callable(fn):
            raise AdapterError(f"{name} must be callable, got {describe(fn)}.")
        self.fn, self.name = fn, name
        positional, keywords = _arguments(fn, name, known, forms)
        self.takes = (*positional, *keywords.values())
        self._pick = [list(known).index(argument) for argument in positional]
        self._keywords = {parameter: list(known).index(argument) for parameter, argument in keywords.items()}

    def __call__(self, *values: Any) -> Any:
        """Call it; `values` are all known arguments in their order."""
        if self._keywords:
            return self.fn(*[values[i] for i in self._pick], **{name: values[i] for name, i in self._keywords.items()})
        return self.fn(*[values[i] for i in self._pick])


def _arguments(
    fn: Any, name: str, known: Sequence[str], forms: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Which arguments `fn` takes by position, in its own order, and which by keyword alone."""
    # A module's signature is its forward's; __call__ itself takes anything.
    declared = fn.forward if isinstance(fn, nn.Module) else fn
    try:
        parameters = list(inspect.signature(declared).parameters.values())
    except (TypeError, ValueError):  # a builtin has no signature
        return tuple(forms[0]), {}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = _keywords(fn, name, known, parameters)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return tuple(forms[0]), keywords
    while positional and positional[-1].default is not inspect.Parameter.empty:
        if _MEANING.get(positional[-1].name) in known and len(positional) <= len(known):
            break
        positional.pop()
    names = [p.name for p in positional]
    meanings = [_MEANING.get(parameter) for parameter in names]
    if positional and all(meaning in known for meaning in meanings) and len({*meanings}) == len(meanings):
        return tuple(str(meaning) for meaning in meanings), keywords
    if not names and keywords:
        return (), keywords
    form = next((tuple(form) for form in forms if len(form) == len(names)), None)
    if any(parameter in OTHERS for parameter in names):
        form = None
    # A clear name at another argument's place: the number alone would hand over the wrong thing in silence.
    if form is not None and not any(
        len(parameter) > 1 and meaning in known and meaning != argument
        for parameter, meaning, argument in zip(names, meanings, form, strict=True)
    ):
        return form, keywords
    takes = " or ".join(f"({', '.join(form)})" for form in forms)
    raise AdapterError(
        f"{name} takes ({', '.join(names)}); it is called with {takes}, by the names {', '.join(known)} in any order. "
        "Give it one of these signatures."
    )


def _keywords(fn: Any, name: str, known: Sequence[str], parameters: Sequence[inspect.Parameter]) -> dict[str, str]:
    """Keyword-only parameter -> the argument that it asks for; what a partial has bound stays as it is."""
    bound = fn.keywords if isinstance(fn, functools.partial) else {}
    found = {}
    for parameter in parameters:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in bound:
            continue
        argument = _MEANING.get(parameter.name)
        if argument is not None and argument in known:
            found[parameter.name] = argument
        elif parameter.default is inspect.Parameter.empty:
            raise AdapterError(
                f"{name} wants {parameter.name} by keyword; it can be given {', '.join(known)}. Bind the rest with "
                "functools.partial."
            )
    return found


def known_methods(model: Any, names: Sequence[str]) -> tuple[str, Callable[..., Any]] | None:
    """The first of a model's methods of these names, with its name; ``__call__`` counts if it is implemented."""
    for name in names:
        if name == "__call__":
            # Every module can be called, but not every one has a forward.
            forward = getattr(model, "forward", None) if isinstance(model, nn.Module) else model
            if callable(forward) and getattr(forward, "__name__", "") != "_forward_unimplemented":
                return name, model
            continue
        method = getattr(model, name, None)
        if callable(method):
            return name, method
    return None


TRANSITION_METHODS = ("env_step", "step", "predict_step", "predict", "imagine_step", "transition", "__call__")
RESET_METHODS = ("reset_env", "reset_state", "reset")
OBSERVATION_METHODS = ("decode_observation", "decode", "observe")


class ModelCalls:
    """A model's callables: those handed in, else its own methods.

    Args:
        model: The world model; methods are looked up in the order of `TRANSITION_METHODS` and `RESET_METHODS`.
        reset_fn: ``(model, seed, options)`` or fewer.
        transition_fn: ``(model, state, action)``, ``(state, action)`` or ``(action)``.
        reward_fn: ``(model, state, observation, action)`` or fewer; state and observation are those after the step.
        terminal_fn: As `reward_fn`.
        action_transform_fn: ``(model, action)`` or ``(action)``.
        encode: ``(model, observation)`` or ``(observation)``, also with a `CounterRNG` by the name ``rng``.
        resets: Whether the model's own reset counts where there is no `reset_fn`.
        adapter: Whose callables they are, for errors.

    Attributes:
        transition, reset, reward, terminal, action_transform, decode, encode: The calls; None where there is none.
            Their values are those of ``TRANSITION``, ``RESET``, ``FUNCTION`` (both), ``TRANSFORM``, ``DECODE`` and
            ``ENCODE``, in that order.
    """

    RESET = ("model", "seed", "options")
    TRANSITION = ("model", "state", "action", "rng")
    FUNCTION = ("model", "state", "observation", "action")
    TRANSFORM = ("model", "action")
    DECODE = ("state",)
    ENCODE = ("model", "observation", "rng")

    def __init__(
        self,
        model: Any,
        *,
        reset_fn: Callable[..., Any] | None = None,
        transition_fn: Callable[..., Any] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminal_fn: Callable[..., Any] | None = None,
        action_transform_fn: Callable[..., Any] | None = None,
        encode: Callable[..., Any] | None = None,
        resets: bool = True,
        adapter: str = "CallableDynamics",
    ) -> None:
        self.model, self.adapter = model, adapter
        self.transition = self._find_transition(transition_fn)
        self.reset = self._find_reset(reset_fn, resets)
        self.reward = self._function(reward_fn, "reward_fn")
        self.terminal = self._function(terminal_fn, "terminal_fn")
        self.action_transform = None
        if action_transform_fn is not None:
            forms = [self.TRANSFORM, ("action",)]
            self.action_transform = UserCall(action_transform_fn, "action_transform_fn", self.TRANSFORM, forms)
        self.encode = None
        if encode is not None:
            self.encode = UserCall(encode, "encode", self.ENCODE, [self.ENCODE[:2], ("observation",)])
        found = known_methods(model, OBSERVATION_METHODS)
        self.decode = UserCall(found[1], f"world_model.{found[0]}", self.DECODE, [self.DECODE]) if found else None

    def _find_transition(self, transition_fn: Any) -> UserCall:
        if transition_fn is not None:
            forms = [self.TRANSITION[:3], ("state", "action"), ("action",)]
            return UserCall(transition_fn, "transition_fn", self.TRANSITION, forms)
        if hasattr(self.model, "to_vector_env"):
            raise AdapterError(
                f"{self.adapter}: a {type(self.model).__name__} makes its own environments; call its to_env() or "
                "to_vector_env()."
            )
        found = known_methods(self.model, TRANSITION_METHODS)
        if found is None:
            raise AdapterError(
                f"{self.adapter}: world_model ({type(self.model).__name__}) has none of the methods "
                f"{', '.join(TRANSITION_METHODS)}. Give transition_fn(model, state, action)."
            )
        return UserCall(found[1], f"world_model.{found[0]}", self.TRANSITION, [("state", "action"), ("action",)])

    def _find_reset(self, reset_fn: Any, resets: bool) -> UserCall | None:
        if reset_fn is not None:
            forms = [self.RESET, self.RESET[:2], self.RESET[:1], ()]
            return UserCall(reset_fn, "reset_fn", self.RESET, forms)
        found = known_methods(self.model, RESET_METHODS) if resets else None
        if found is None:
            return None
        return UserCall(found[1], f"world_model.{found[0]}", self.RESET, [self.RESET[1:], ("seed",), ()])

    def takes_no_state(self) -> AdapterError:
        """The error for a transition that takes no state, where episodes start from one."""
        return AdapterError(
            f"{self.adapter}: {self.transition.name} takes ({', '.join(self.transition.takes)}), no state. A "
            "model of concatenated input takes transition_fn=lambda model, state, action: model(torch.cat([state, "
            "action], -1)). One that keeps its state in itself is one env: the scalar WorldModelEnv resets it by "
            "reset_fn or the model's own reset; for many, put several into gym.vector.SyncVectorEnv."
        )

    def decoded(self, state: Any) -> Any:
        """What the model's own decoder makes of a given initial state.

        Raises:
            AdapterError: It has none.
        """
        if self.decode is None:
            raise AdapterError(
                f"{self.adapter}: initial_state is no observation of the observation space. Give initial_observation "
                "too, or reset_fn, or a model with decode_observation, decode or observe."
            )
        try:
            with torch.no_grad():
                return self.decode(state)
        except Exception as error:
            error.add_note(f"Raised in {self.decode.name}, called with initial_state.")
            raise

    def _function(self, fn: Any, name: str) -> UserCall | None:
        if fn is None:
            return None
        return UserCall(
            fn, name, self.FUNCTION, [self.FUNCTION, self.FUNCTION[:3], self.FUNCTION[:2], self.FUNCTION[:1], ()]
        )


def warn_of_training_mode(model: Any) -> None:
    """Dropout and batch normalisation in a model that is still in training mode change what it says."""
    if not isinstance(model, nn.Module):
        return
    found = {type(part).__name__ for part in model.modules() if part.training and isinstance(part, NOISY_IN_TRAINING)}
    if found:
        warnings.warn(
            f"The world model is in training mode and has {', '.join(sorted(found))}: every step would be noisy, or "
            "change the model. Call model.eval() first.",
            stacklevel=4,
        )


def device_of(model: Any, device: torch.device | str | None) -> torch.device:
    """Where the model is.

    Raises:
        AdapterError: It is somewhere else than it was said to be.
    """
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if device is None:
        return torch.device("cpu") if first is None else first.device
    wanted = as_device(device)
    if first is not None and first.device != wanted:
        raise AdapterError(
            f"The model is on {first.device}, device is {wanted}. Move it with model.to({str(wanted)!r})."
        )
    return wanted
