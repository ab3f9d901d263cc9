"""Perspectives over a canvas: from field paths, or from an environment's signature, with their spaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from wm_vec.canvas import BoundField, BoundSchema, EnvSignature, SchemaError
from wm_vec.canvas.signature import OBSERVATION
from wm_vec.core import ActionSpec, Perspective


def signature_perspective(
    bound: BoundSchema,
    signature: EnvSignature,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    reward_fn: Callable[..., Any] | None = None,
    terminated_fn: Callable[..., Any] | None = None,
    reward_state: Tensor | None = None,
) -> tuple[Perspective, gym.Space]:
    """The environment's own perspective, its reward and termination, with its observation space.

    Observations have the space's dtype, whatever the network's `dtype`; only a float64 network makes a float32 Box a
    float64 one.
    """
    space, actions = _in_precision(signature.observation_space, dtype), signature.action_space
    field = bound[OBSERVATION]
    perspective = Perspective(
        action=_space_action(actions),
        obs_index=torch.tensor(field.indices(), device=device),
        obs_shape=tuple(space.shape or ()),
        obs_dtype=_torch_dtype(space),
        obs_offset=int(space.start) if isinstance(space, Discrete) else 0,
        obs_fields={OBSERVATION: slice(0, field.num_positions)},
        all_fields=all_fields(bound),
        reward_fn=reward_fn,
        terminated_fn=terminated_fn,
        reward_state=reward_state,
    )
    return perspective, space


def field_perspective(
    bound: BoundSchema,
    obs_fields: Sequence[str],
    act_fields: Sequence[str],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    act_low: float | None = None,
    act_high: float | None = None,
    reward_fn: Callable[..., Any] | None = None,
    terminated_fn: Callable[..., Any] | None = None,
    reward_state: Tensor | None = None,
    name: str = "agent",
) -> tuple[Perspective, gym.Space, gym.Space]:
    """A perspective over named fields, with its observation and action spaces.

    Observations are a flat float32 Box (float64 of a float64 network) in the declared order. Actions are a flat Box
    between `act_low` and `act_high` (None for the fields' own bounds where finite, else -1 and 1), or Discrete for one
    categorical position.

    Raises:
        UnknownFieldError: A path that the schema does not have.
        SchemaError: No fields, fields named twice, bounds that leave no room, or categorical fields beside others.
    """
    check_paths("obs_fields", obs_fields)
    check_paths("act_fields", act_fields)
    seen = [bound[path] for path in obs_fields]
    acted = [bound[path] for path in act_fields]
    slices, start = {}, 0
    for field in seen:
        slices[field.path] = slice(start, start + field.num_positions)
        start += field.num_positions
    low, high = _observed_bounds(seen)
    observation_space = _in_precision(Box(low, high, dtype=np.float32), dtype)
    action, action_space = _field_action(acted, act_low, act_high)
    perspective = Perspective(
        action=action,
        name=name,
        obs_index=torch.tensor(bound.indices(obs_fields), device=device),
        obs_shape=(start,),
        obs_dtype=_torch_dtype(observation_space),
        obs_fields=slices,
        all_fields=all_fields(bound),
        reward_fn=reward_fn,
        terminated_fn=terminated_fn,
        reward_state=reward_state,
    )
    return perspective, observation_space, action_space


def check_paths(role: str, paths: Sequence[str]) -> None:
    """Check what is given as a list of field paths; `role` names it.

    Raises:
        SchemaError: No list, an empty one, or a path that stands more than once.
    """
    if isinstance(paths, str) or not paths:
        raise SchemaError(f"{role} must be a non-empty list of field paths, got {paths!r}.")
    twice = sorted({path for path in paths if list(paths).count(path) > 1})
    if twice:
        raise SchemaError(f"{role} overlap: {', '.join(twice)} stands more than once. Name each field once.")


def all_fields(bound: BoundSchema) -> Mapping[str, slice]:
    """Every field's place on the canvas."""
    return {f.path: slice(f.start, f.start + f.num_positions) for f in bound.bound_fields()}


def _observed_bounds(fields: Sequence[BoundField]) -> tuple[np.ndarray, np.ndarray]:
    low, high = [], []
    for field in fields:
        classes = field.spec.num_classes
        low += [0.0] * field.num_positions if classes else list(field.spec.bounds("low"))
        high += [classes - 1.0] * field.num_positions if classes else list(field.spec.bounds("high"))
    return np.array(low, np.float32), np.array(high, np.float32)


def _field_action(
    fields: Sequence[BoundField], act_low: float | None, act_high: float | None
) -> tuple[ActionSpec, gym.Space]:
    if any(f.spec.num_classes for f in fields):
        classes = fields[0].spec.num_classes
        if len(fields) > 1 or fields[0].num_positions > 1 or classes is None:
            names = ", ".join(f.path for f in fields)
            raise SchemaError(
                f"act_fields {names}: a categorical field can be acted on alone and with one position, "
                "as a Discrete action. Give the others to another perspective."
            )
        return ActionSpec("discrete", (), (0.0,), (classes - 1.0,)), Discrete(classes)
    lows = [x for f in fields for x in f.spec.bounds("low")]
    highs = [x for f in fields for x in f.spec.bounds("high")]
    low = [(x if math.isfinite(x) else -1.0) if act_low is None else float(act_low) for x in lows]
    high = [(x if math.isfinite(x) else 1.0) if act_high is None else float(act_high) for x in highs]
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise SchemaError(f"act_low must be below act_high, got {low} and {high}.")
    space = Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)
    return ActionSpec("box", (len(low),), tuple(low), tuple(high)), space


def _space_action(space: gym.Space) -> ActionSpec:
    if isinstance(space, Discrete):
        return ActionSpec("discrete", (), (0.0,), (float(space.n - 1),), int(space.start))
    low, high = (bound.astype(np.float64).ravel().tolist() for bound in (space.low, space.high))  # type: ignore[attr-defined]
    return ActionSpec("box", tuple(space.shape or ()), tuple(low), tuple(high))


def _in_precision(space: gym.Space, dtype: torch.dtype) -> gym.Space:
    """The space in which a network of `dtype` can hand out what it computes."""
    if isinstance(space, Box) and space.dtype == np.float32 and dtype == torch.float64:
        return Box(space.low.astype(np.float64), space.high.astype(np.float64), dtype=np.float64)
    return space


def _torch_dtype(space: gym.Space) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype
