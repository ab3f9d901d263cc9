"""One env's part of batches, as Gymnasium knows it, and the other way round."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from wm_vec.adapters.calls import UserCall
from wm_vec.core import ActionSpec, Engine, Perspective
from wm_vec.core.trees import Tree
from wm_vec.render.frames import FramePainter
from wm_vec.spaces import Path, map_leaves

RENDER_ARGUMENTS = ("model", "state", "observation")


def element_of(batch: Tree, space: gym.Space) -> Any:
    """The only env's part of a batch ``(1, ...)`` as an element of `space`; shares memory if it can."""

    def element(_: Path, leaf: gym.Space, part: Tensor) -> Any:
        return np.int64(part.item()) if isinstance(leaf, Discrete) else on_host(part).astype(leaf.dtype, copy=False)

    return map_leaves(element, space, batch)


def on_host(batch: Tensor) -> np.ndarray:
    """The only env's part of a tensor ``(1, ...)`` on the host; shares memory with it where it is there already."""
    host = batch if batch.is_cpu else batch.cpu()
    return (host.float() if host.dtype is torch.bfloat16 else host).numpy()[0]


def only_env(value: Any) -> Any:
    """The only env's part of what a dynamics reports: a copy of what a tensor ``(1, ...)`` holds, or all of it."""
    return on_host(value.detach()).copy() if isinstance(value, Tensor) and value.dim() else value


def named_parts(observation: Any, path: str = "") -> dict[str, np.ndarray]:
    """The arrays of one env's observation by path, keys and places joined by dots; of one array ``observation``."""
    if not isinstance(observation, (dict, tuple)):
        return {path or "observation": observation}
    parts = observation.items() if isinstance(observation, dict) else enumerate(observation)
    named: dict[str, np.ndarray] = {}
    for key, part in parts:
        named.update(named_parts(part, f"{path}.{key}" if path else str(key)))
    return named


class ActionReader:
    """Reads what a caller hands to ``step`` as an element of a space.

    Args:
        space: Box, Discrete, MultiDiscrete or MultiBinary.
        where: What errors start with.
    """

    def __init__(self, space: gym.Space, where: str = "step") -> None:
        self._where, self._space, self._shape, self._dtype = where, space, space.shape or (), np.dtype(space.dtype)
        self._whole = np.issubdtype(self._dtype, np.integer)
        self._classes = range(int(space.start), int(space.start + space.n)) if isinstance(space, Discrete) else None

    def __call__(self, action: Any) -> Any:
        """The action in the space's dtype, as a copy: a NumPy scalar of a Discrete space, an array of others.

        Raises:
            ValueError: Another shape or kind of numbers, a class that does not exist, a number that is not finite.
                Numbers out of a Box of floats are as they are.
        """
        if self._classes is not None:
            try:
                number = operator.index(action)
            except TypeError:
                number = self._classes.stop
            if number not in self._classes:
                raise ValueError(
                    f"{self._where}: the action must be one whole number of {self._space}, got {action!r}."
                )
            return self._dtype.type(number)
        try:
            array = np.asarray(action)
        except (TypeError, ValueError, RuntimeError):  # nothing that an array can be made of
            array = np.empty(0, object)
        if array.shape != self._shape or array.dtype.kind not in ("iu" if self._whole else "fiu"):
            raise ValueError(
                f"{self._where}: the action must be {'whole ' if self._whole else ''}numbers of shape {self._shape}, "
                f"got shape {array.shape}, {array.dtype}."
            )
        taken = np.array(array, self._dtype)
        if self._whole:
            if taken not in self._space or (taken != array).any():
                raise ValueError(f"{self._where}: the action must be one of {self._space}, got {action!r}.")
        elif not np.isfinite(taken).all():
            raise ValueError(f"{self._where}: the action must be finite, got {action!r}.")
        return taken


class ActionTensor:
    """Makes what a caller hands to ``step`` the action of an engine of one env.

    Args:
        space: One env's actions.
        spec: The perspective's.
        engine: The engine.
        where: What errors start with.
    """

    def __init__(self, space: gym.Space, spec: ActionSpec, engine: Engine, where: str = "step") -> None:
        self._read, self._device = ActionReader(space, where), engine.device
        self._dtype = torch.int64 if spec.kind == "discrete" else engine.dtype
        bounds = spec.low, spec.high
        self._bounds = [np.reshape(bound, spec.shape) for bound in bounds] if spec.kind == "box" else None

    def __call__(self, action: Any) -> Tensor:
        """``(1, ...)``, within the bounds.

        Raises:
            ValueError: As `ActionReader`.
        """
        taken = np.asarray(self._read(action))[None]
        if self._bounds is not None:
            taken = taken.clip(*self._bounds)  # users' functions see what the world does
        return torch.as_tensor(taken).to(self._device, self._dtype)


def read_actions(actions: np.ndarray, spec: ActionSpec, num_envs: int, where: str = "step") -> Tensor:
    """Actions ``(B, ...)`` of an array, in host memory, checked, values too; errors start with `where`.

    Raises:
        TypeError: No numbers, or of a dtype that the action cannot have.
        ValueError: Another shape, or values that are no actions.
    """
    if actions.dtype.kind not in "biuf":
        raise TypeError(f"{where}: the actions must be numbers, got an array of {actions.dtype}.")
    taken = torch.from_numpy(actions.copy())
    spec.check(taken, num_envs, torch.device("cpu"), where)
    spec.check_values(taken, where)
    return taken


class RenderCall(UserCall):
    """A user's renderer; exceptions in it say so."""

    def __call__(self, *values: Any) -> Any:
        """A frame of ``(model, state, observation)``."""
        try:
            return super().__call__(*values)
        except Exception as error:
            error.add_note(f"Raised in {self.name}, called with ({', '.join(self.takes)}).")
            raise


def render_call(render_fn: Callable[..., Any]) -> UserCall:
    """A user's ``(model, state, observation)`` or fewer -> frame, as a call of these three.

    Raises:
        AdapterError: No callable, or one that wants more.
    """
    return RenderCall(render_fn, "render_fn", RENDER_ARGUMENTS, [RENDER_ARGUMENTS[:n] for n in (3, 2, 1, 0)])


def value_names(perspective: Perspective, observation_space: gym.Space) -> list[str] | None:
    """Names of the values that an agent sees in a Box; None where its fields say no more than their places."""
    names: list[str] = []
    for path, where in perspective.obs_fields.items():
        size = where.stop - where.start
        names += [path] if size == 1 else [f"{path}[{i}]" for i in range(size)]
    fits = isinstance(observation_space, Box) and len(names) == int(np.prod(observation_space.shape))
    return names if fits and (len(perspective.obs_fields) > 1 or len(names) == 1) else None


def painter_of(perspective: Perspective, observation_space: gym.Space, series: bool = False) -> FramePainter:
    """What draws an agent's observations; values of named fields go by their names, with `series` over time too."""
    names = value_names(perspective, observation_space)
    return FramePainter(observation_space, names, series and names is not None)
