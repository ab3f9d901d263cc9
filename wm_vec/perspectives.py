"""Perspectives over a canvas, with their spaces: from field paths, or from an environment's signature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from wm_vec.canvas import BoundField, BoundSchema, EnvSignature, SchemaError
from wm_vec.canvas.schema import check_paths
from wm_vec.core import ActionSpec, Perspective
from wm_vec.core.perspective import ObservedPart
from wm_vec.plain import real_number
from wm_vec.settings import ActBound, CanvasConfig
from wm_vec.spaces import Path, box_bounds, classes_of, map_leaves, space_of_parts


class View(NamedTuple):
    """A perspective with its spaces.

    Attributes:
        perspective: What the agent sees, controls and is paid for.
        observation_space: One env's observations.
        action_space: One env's actions.
    """

    perspective: Perspective
    observation_space: gym.Space
    action_space: gym.Space


@torch.inference_mode(False)
def view_of(
    bound: BoundSchema,
    signature: EnvSignature | None,
    canvas: CanvasConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    name: str = "agent",
) -> View:
    """The view that a config describes: the environment's own, or one of named fields; its agent goes by `name`.

    The environment's own has its spaces, whatever the network's `dtype`; only a float64 network makes a float32 Box a
    float64 one. Observed fields are a flat float32 Box (float64 of a float64 network) in the declared order, act
    fields a flat Box, or Discrete for one categorical position and MultiDiscrete for several.

    Raises:
        UnknownFieldError: A path that the schema does not have.
        SchemaError: No fields, fields named twice, bounds that leave no room, categorical act fields beside others, or
            something left to an environment that there is not.
    """
    seen, acted = canvas.obs_fields, canvas.act_fields
    if signature is None and (seen is None or acted is None):
        raise SchemaError(
            "This world comes from a schema, not from an environment, so there is no env of it without both "
            "obs_fields and act_fields: give them."
        )
    if signature is None and canvas.reward_fn is None:
        raise SchemaError("This world has no learned reward: give reward_fn(obs, action, info) -> float.")
    own = signature is not None and seen is None and acted is None
    if signature is not None:
        seen = list(signature.observation_fields) if seen is None else seen
        acted = list(signature.action_fields) if acted is None else acted
    assert seen is not None
    assert acted is not None
    check_paths("obs_fields", seen)
    check_paths("act_fields", acted)
    fields = [bound[path] for path in seen]
    if own:
        assert signature is not None
        space, action_space = signature.observation_space, signature.action_space
        action = _space_action(action_space)
    else:
        space = box_of(fields)
        _check_bound("act_low", canvas.act_low, bound, acted)
        _check_bound("act_high", canvas.act_high, bound, acted)
        action, action_space = _field_action([bound[path] for path in acted], canvas.act_low, canvas.act_high)
    space = _in_precision(space, dtype)
    ends = accumulate(field.num_positions for field in fields)
    perspective = Perspective(
        action=action,
        name=name,
        obs_index=torch.tensor(bound.indices(seen), device=device),
        obs_parts=_observed_parts(space, device),
        obs_fields={f.path: slice(end - f.num_positions, end) for f, end in zip(fields, ends, strict=True)},
        all_fields={f.path: slice(f.start, f.start + f.num_positions) for f in bound.bound_fields()},
        units={f.path: f.spec.unit for f in bound.bound_fields() if f.spec.unit},
        reward_fn=canvas.reward_fn,
        terminated_fn=canvas.terminated_fn,
        reward_state=canvas.reward_state,
    )
    return View(perspective, space, action_space)


def box_of(fields: Sequence[BoundField]) -> Box:
    """The float32 Box of all values that fields can have, in order."""
    low, high = ([b for field in fields for b in field.spec.span()[end]] for end in (0, 1))
    return Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)


def _check_bound(name: str, given: Any, bound: BoundSchema, acted: Sequence[str]) -> None:
    """Refuse a mapping that names other fields than `acted`."""
    if not isinstance(given, Mapping):
        return
    paths = [*given.keys()]
    others = [path for path in paths if bound[path].path not in acted]
    if others or not paths:
        raise SchemaError(f"{name} takes a number, or numbers for some of {[*acted]} by path; got {others or given}.")


def _field_action(fields: Sequence[BoundField], act_low: ActBound, act_high: ActBound) -> tuple[ActionSpec, gym.Space]:
    counts = [f.spec.num_classes for f in fields for _ in f.indices()]
    classes = [n for n in counts if n is not None]
    if classes:
        if len(classes) < len(counts):
            names = ", ".join(f.path for f in fields)
            raise SchemaError(
                f"act_fields {names}: a categorical field can be acted on alone or with others of its kind, as a "
                "Discrete or MultiDiscrete action. Give the others to another perspective."
            )
        space: gym.Space = MultiDiscrete(classes) if len(classes) > 1 else Discrete(classes[0])
        return _space_action(space), space
    low = [x for f in fields for x in _bounds(f, "act_low", act_low, f.spec.bounds("low"), -1.0)]
    high = [x for f in fields for x in _bounds(f, "act_high", act_high, f.spec.bounds("high"), 1.0)]
    least, most = ([x for f in fields for x in f.spec.bounds(end)] for end in ("low", "high"))
    taken = [np.clip(bound, least, most).tolist() for bound in (low, high)]  # who asks for more gets what fields can be
    if not all(a < b for a, b in zip(*taken, strict=True)):
        raise SchemaError(
            f"act_low must be below act_high within the fields' bounds, got {low} and {high} for {least} to {most}."
        )
    space = Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)
    return ActionSpec("box", (len(low),), tuple(taken[0]), tuple(taken[1])), space


def _bounds(field: BoundField, name: str, given: ActBound, own: Sequence[float], default: float) -> list[float]:
    """A bound of each of a field's positions."""
    value: Any = given
    if isinstance(given, Mapping):
        name, value = f"{name}[{field.path!r}]", given.get(field.path)
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != field.num_positions:
                raise SchemaError(f"{name} must be one number, or {field.num_positions} of them, got {value!r}.")
            return [real_number(x, name) for x in value]
    if value is None:
        return [x if math.isfinite(x) else default for x in own]
    return [real_number(value, name)] * field.num_positions


def _space_action(space: gym.Space) -> ActionSpec:
    shape, classes = tuple(space.shape or ()), classes_of(space)
    if classes is None:
        assert isinstance(space, Box)
        low, high = (tuple(bound.ravel().tolist()) for bound in box_bounds(space))
        return ActionSpec("box" if space.dtype.kind == "f" else "discrete", shape, low, high)
    counts, first = (array.ravel().tolist() for array in classes)
    return ActionSpec("discrete", shape, (0.0,) * len(counts), tuple(n - 1.0 for n in counts), first[0])


def _observed_parts(space: gym.Space, device: torch.device) -> Any:
    """An observation of a space, out of its leaves' elements side by side."""
    end = 0

    def part(_: Path, leaf: gym.Space) -> ObservedPart:
        nonlocal end
        start, shape, classes = end, tuple(leaf.shape or ()), classes_of(leaf)
        end = start + math.prod(shape)
        shifted = classes is not None and classes[1].any()
        offset = torch.as_tensor(classes[1], device=device) if classes is not None and shifted else None
        bounds = None
        if isinstance(leaf, Box) and leaf.dtype.kind != "f":
            # What int64 holds: the next float64 is beyond it.
            ends = (np.clip(bound.astype(np.float64), -(2.0**63), 2.0**63 - 1024) for bound in (leaf.low, leaf.high))
            low, high = (torch.as_tensor(end, device=device) for end in ends)
            bounds = low, high
        return ObservedPart(slice(start, end), shape, torch.from_numpy(np.zeros(0, leaf.dtype)).dtype, offset, bounds)

    return map_leaves(part, space)


def _in_precision(space: gym.Space, dtype: torch.dtype) -> gym.Space:
    """The space in which a network of `dtype` can hand out what it computes."""

    def widened(_: Path, leaf: gym.Space) -> gym.Space:
        if not isinstance(leaf, Box) or leaf.dtype != np.float32:
            return leaf
        return Box(leaf.low.astype(np.float64), leaf.high.astype(np.float64), dtype=np.float64)

    return space_of_parts(map_leaves(widened, space)) if dtype == torch.float64 else space
