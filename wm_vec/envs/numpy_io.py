"""One env's part of batches, as Gymnasium knows it, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from torch import Tensor

from wm_vec.adapters.calls import UserCall
from wm_vec.core import Perspective
from wm_vec.core.trees import Tree
from wm_vec.render.frames import FramePainter

RENDER_ARGUMENTS = ("model", "state", "observation")


def element_of(batch: Tree, space: gym.Space) -> Any:
    """Row 0 of a batch ``(1, ...)`` as an element of `space`; shares memory with the batch where it can."""
    if isinstance(space, Dict):
        return {key: element_of(batch[key], part) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(element_of(one, part) for one, part in zip(batch, space.spaces, strict=True))
    if isinstance(space, Discrete):
        return np.int64(batch.item())
    row = only_row(batch)
    return row if row.dtype == space.dtype else row.astype(space.dtype)


def only_row(batch: Tensor) -> np.ndarray:
    """Row 0 of a ``(1, ...)`` tensor on the host; shares memory with it where it is there already."""
    host = batch if batch.is_cpu else batch.cpu()
    return (host.float() if host.dtype is torch.bfloat16 else host).numpy()[0]


def only_env(value: Any) -> Any:
    """The only env's part of what a dynamics reports: of a tensor ``(1, ...)``, of a list of one, or all of it."""
    if isinstance(value, Tensor) and value.dim():
        return only_row(value.detach())
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def collected(info: Mapping[str, Any], num_envs: int, device: torch.device) -> dict[str, Any]:
    """What a dynamics reports, for all envs.

    Lists of every env's own become tensors ``(B, ...)`` where all have numbers of one shape, and arrays of objects
    otherwise, None where an env reported nothing; ``_key`` is then the mask of those that did, as in Gymnasium.
    """
    found: dict[str, Any] = {}
    for key, value in info.items():
        if not isinstance(value, list) or len(value) != num_envs:
            found[key] = value
            continue
        stacked = _stacked(value, device)
        if stacked is not None:
            found[key] = stacked
            continue
        found[key] = objects = np.empty(num_envs, dtype=object)
        for i, one in enumerate(value):
            objects[i] = one
        found[f"_{key}"] = torch.tensor([one is not None for one in value], device=device)
    return found


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


def painter_of(perspective: Perspective, observation_space: gym.Space) -> FramePainter:
    """What draws an agent's observations; values of named fields go by their names."""
    names: list[str] = []
    for path, where in perspective.obs_fields.items():
        size = where.stop - where.start
        names += [path] if size == 1 else [f"{path}[{i}]" for i in range(size)]
    fits = isinstance(observation_space, Box) and len(names) == int(np.prod(observation_space.shape))
    return FramePainter(observation_space, names if fits and len(perspective.obs_fields) > 1 else None)


def _stacked(values: list[Any], device: torch.device) -> Tensor | None:
    """Numbers of one shape as a tensor ``(B, ...)``; None for anything else."""
    if any(value is None for value in values):
        return None
    if all(isinstance(value, Tensor) for value in values):
        alike = len({(value.shape, value.dtype) for value in values}) == 1
        return torch.stack(values).to(device) if alike else None
    try:
        array = np.asarray(values)
    except ValueError:  # of different shapes
        return None
    return torch.as_tensor(array, device=device) if array.dtype.kind in "biuf" else None
