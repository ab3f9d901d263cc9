"""An environment's spaces as fields of a canvas."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from wm_vec.canvas.field import MAX_CLASSES, MAX_POSITIONS, Field
from wm_vec.canvas.schema import BoundSchema, SchemaError
from wm_vec.plain import LARGEST_WHOLE, check_type, whole_number
from wm_vec.spaces import classes_of, dotted, leaves

OBSERVATION, ACTION, REWARD, TERMINATED = "observation", "action", "reward", "terminated"
MAX_DEPTH = 8
"""Dict and Tuple spaces inside one another."""
TERMINATED_WEIGHT = 2.0
"""Loss weight of the termination's cross-entropy; more of it costs the numbers precision."""
MAX_REWARDS = 16
"""Rewards of no more distinct values than these are classes."""


RealEnv = str | gym.Env | Callable[..., gym.Env]
"""A real environment: a registered id, an env, or what makes one."""


class UnsupportedSpaceError(SchemaError):
    """A space that cannot be laid on a canvas."""


@dataclass(frozen=True)
class EnvSignature:
    """The spaces and horizon of the environment that a world is learned from.

    Attributes:
        observation_space: One env's observations: Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of
            these.
        action_space: One env's actions: the same without Dict and Tuple.
        max_episode_steps: The environment's horizon; None for no limit.
        env_id: Gymnasium id that makes it; None for an env without one, or in wrappers besides.
    """

    observation_space: gym.Space
    action_space: gym.Space
    max_episode_steps: int | None = None
    env_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("observation_space", "action_space"):
            check_type(getattr(self, name), gym.Space, f"EnvSignature: `{name}`")
        if self.max_episode_steps is not None:
            steps = whole_number(self.max_episode_steps, "EnvSignature: `max_episode_steps`")
            object.__setattr__(self, "max_episode_steps", steps)
        if self.env_id is not None and not (isinstance(self.env_id, str) and self.env_id.isprintable()):
            raise ValueError(f"EnvSignature: `env_id` must be printable text or None, got {self.env_id!r}.")

    @classmethod
    def of_env(cls, env: RealEnv, env_kwargs: Mapping[str, Any] | None = None) -> EnvSignature:
        """Read the signature off a real environment.

        Args:
            env: A registered id, an env, which is left as it is, or a callable that makes one.
            env_kwargs: Keyword arguments of the id or the callable.

        Raises:
            gymnasium.error.Error: There is no such environment.
            TypeError: No environment.
        """
        made = env if isinstance(env, gym.Env) else env_maker(env, env_kwargs)()
        try:
            spec = made.spec
            horizon = None if spec is None else spec.max_episode_steps
            if spec is None and made.has_wrapper_attr("_max_episode_steps"):  # Gymnasium's TimeLimit
                horizon = made.get_wrapper_attr("_max_episode_steps")
            env_id = env if isinstance(env, str) else spec.id if spec and not spec.additional_wrappers else None
            return cls(made.observation_space, made.action_space, horizon, env_id)
        finally:
            if made is not env:
                made.close()

    @property
    def observation_fields(self) -> dict[str, Field]:
        """The observation's fields by path; see `space_fields`."""
        return space_fields(self.observation_space, OBSERVATION)

    @property
    def action_fields(self) -> dict[str, Field]:
        """The action's fields by path.

        Raises:
            UnsupportedSpaceError: Actions of several parts, or classes that count from different numbers.
        """
        space, classes = self.action_space, classes_of(self.action_space)
        if isinstance(space, (Dict, Tuple)) or (classes is not None and len({*classes[1].ravel().tolist()}) > 1):
            raise UnsupportedSpaceError(
                f"The action space is {space}; a canvas takes Box, Discrete, MultiDiscrete that counts all of its "
                "classes from one number, and MultiBinary. Wrap the environment in one that takes such actions."
            )
        return space_fields(space, ACTION, is_output=False)

    def schema(self, d_model: int) -> BoundSchema:
        """The fields of observation and action, and reward and termination.

        Raises:
            UnsupportedSpaceError: Spaces that cannot be laid on a canvas.
        """
        spaces = self.observation_space, self.action_space
        needed = 2 + sum(math.prod(leaf.shape or ()) for space in spaces for _, leaf in leaves(space))
        if needed > MAX_POSITIONS:
            raise UnsupportedSpaceError(
                f"{self.env_id or 'This environment'} needs {needed} positions, one per number of its spaces; the "
                f"canvas takes at most {MAX_POSITIONS}. Observe features instead of raw images."
            )
        fields = {
            **self.observation_fields,
            **self.action_fields,
            REWARD: Field(is_input=False, max_values=MAX_REWARDS),
            TERMINATED: Field(is_input=False, num_classes=2, loss_weight=TERMINATED_WEIGHT, leads=True),
        }
        return BoundSchema(fields, d_model=d_model)

    def check_fits(self, bound: BoundSchema) -> None:
        """Refuse spaces that are not those of the fields.

        Raises:
            SchemaError: Other fields, sizes or numbers of classes.
        """
        own, fields = ({b.path: b.spec for b in schema.bound_fields()} for schema in (self.schema(32), bound))
        for path in own.keys() | fields.keys():
            mine, given = ((f.h, f.w, f.num_classes) if (f := of.get(path)) else None for of in (own, fields))
            if mine != given:
                words = f"(h, w, num_classes) {mine} by the spaces and {given} by the schema"
                raise SchemaError(f"The spaces do not fit the schema: {path!r} has {words}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "observation_space": space_to_dict(self.observation_space),
            "action_space": space_to_dict(self.action_space),
            "max_episode_steps": self.max_episode_steps,
            "env_id": self.env_id,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EnvSignature:
        """Inverse of `to_dict`."""
        return cls(
            space_from_dict(data["observation_space"]),
            space_from_dict(data["action_space"]),
            data["max_episode_steps"],
            data["env_id"],
        )


def env_maker(env: RealEnv, env_kwargs: Mapping[str, Any] | None = None) -> Callable[[], gym.Env]:
    """What makes one more real environment: of an env, copies of it as it is now.

    Raises:
        TypeError: No environment, or one that is made already with `env_kwargs`.
    """
    check_type(env_kwargs := {} if env_kwargs is None else env_kwargs, Mapping, "env_kwargs")
    env_kwargs = dict(env_kwargs)
    if isinstance(env, str):
        return partial(gym.make, env, **env_kwargs)
    if isinstance(env, gym.Env):
        if env_kwargs:
            raise TypeError(f"env_kwargs go with an id or a callable; {env} is made already. Leave them out.")
        return partial(_copy_of, env)
    if not callable(env):
        raise TypeError(
            "A real environment is a registered Gymnasium id, a gymnasium.Env, or a callable that makes one; got "
            f"{type(env).__name__}."
        )
    return partial(_made_by, env, **env_kwargs)


def _copy_of(env: gym.Env) -> gym.Env:
    try:
        return copy.deepcopy(env)
    except Exception as error:  # whatever holds a window, a file or another library's memory
        raise TypeError(
            f"{env} cannot be copied ({error}). Give a callable that makes one instead: it is called for each env."
        ) from error


def _made_by(make: Callable[..., gym.Env], **env_kwargs: Any) -> gym.Env:
    env = make(**env_kwargs)
    if not isinstance(env, gym.Env):
        raise TypeError(f"{make} must make a gymnasium.Env, got {type(env).__name__}.")
    return env


def space_fields(space: gym.Space, role: str, is_output: bool = True) -> dict[str, Field]:
    """A space as fields, in the order of its leaves.

    A Box has one position per number, a Discrete one categorical position, MultiDiscrete and MultiBinary one per
    element.

    Args:
        space: The space.
        role: The field's name; parts of Dict and Tuple spaces add their keys and places to it, as do the elements of a
            MultiDiscrete with different numbers of classes, which are fields of their own: ``"observation.dealer.0"``.
        is_output: Whether the model predicts it.

    Raises:
        UnsupportedSpaceError: Another space, one without elements, or parts that go by one name.
    """
    fields: dict[str, Field] = {}
    for path, leaf in leaves(space):
        name = dotted(role, *path)
        if len(path) > MAX_DEPTH or not all(isinstance(key, (str, int)) for key in path):
            raise UnsupportedSpaceError(
                f"The {role} space's {name!r}: keys of Dict spaces must be strings, nested at most {MAX_DEPTH} deep."
            )
        for found, field in _leaf_fields(leaf, name, is_output).items():
            if found in fields:
                raise UnsupportedSpaceError(f"Two parts of the {role} space go by the name {found!r}: rename one.")
            fields[found] = field
    if not fields:
        raise UnsupportedSpaceError(f"The {role} space {space} has no elements.")
    return fields


def _leaf_fields(leaf: gym.Space, name: str, is_output: bool) -> dict[str, Field]:
    classes = classes_of(leaf)
    if not isinstance(leaf, (Box, Discrete, MultiDiscrete, MultiBinary)):
        raise UnsupportedSpaceError(
            f"The {name} space is {leaf}; a canvas takes Box, Discrete, MultiDiscrete and MultiBinary, and for "
            "observations Dict and Tuple of these. Observe numbers or classes of a fixed size instead."
        )
    shape = leaf.shape or ()
    if math.prod(shape) < 1:
        raise UnsupportedSpaceError(f"The {name} space {leaf} has no elements.")
    width = shape[-1] if shape else 1
    place: dict[str, Any] = {"h": math.prod(shape) // width, "w": width, "is_output": is_output}
    if classes is not None:
        counts = classes[0].ravel().tolist()
        if max(counts) > MAX_CLASSES:
            raise UnsupportedSpaceError(
                f"The {name} space {leaf} has {max(counts)} classes; a position takes at most {MAX_CLASSES}. Wrap the "
                "environment in one that has several smaller parts (the digits of the index, for example)."
            )
        if len({*counts}) == 1:
            return {name: Field(num_classes=counts[0], **place)}
        return {dotted(name, i): Field(num_classes=n, is_output=is_output) for i, n in enumerate(counts)}
    assert isinstance(leaf, Box)
    low, high = _within_float32(_finite_or_inf(leaf.low), _finite_or_inf(leaf.high))
    # Of a constant that float32 cannot hold, the number below it; bounds beyond 1e30 are none.
    low, high = np.where(np.isposinf(low), -np.inf, np.minimum(low, high)), np.where(np.isneginf(high), np.inf, high)
    bounds = tuple(low.ravel().tolist()), tuple(high.ravel().tolist())
    return {name: Field(low=bounds[0], high=bounds[1], max_values=2 if is_output else 0, **place)}


def position_names(fields: Mapping[str, Field]) -> list[str]:
    """A name for every position: that of a class or part with one position, ``"observation[2]"`` of others."""
    parts = len(fields) > 1
    return [
        path if field.num_positions == 1 and (parts or field.num_classes) else f"{path}[{i}]"
        for path, field in fields.items()
        for i in range(field.num_positions)
    ]


def space_to_dict(space: gym.Space) -> dict[str, Any]:
    """A space of a canvas as plain data."""
    if isinstance(space, Dict):
        return {"kind": "dict", "spaces": [[key, space_to_dict(part)] for key, part in space.spaces.items()]}
    if isinstance(space, Tuple):
        return {"kind": "tuple", "spaces": [space_to_dict(part) for part in space.spaces]}
    if isinstance(space, Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiBinary):
        return {"kind": "multi_binary", "shape": list(space.shape)}
    if isinstance(space, MultiDiscrete):
        numbers = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"kind": "multi_discrete", "dtype": str(space.dtype), **numbers}
    assert isinstance(space, Box)
    return {
        "kind": "box",
        "shape": list(space.shape),
        "dtype": str(space.dtype),
        "low": [str(x) for x in space.low.ravel()],
        "high": [str(x) for x in space.high.ravel()],
    }


def space_from_dict(data: Mapping[str, Any], depth: int = 0) -> gym.Space:
    """Inverse of `space_to_dict`.

    Raises:
        SchemaError: Spaces nested deeper than `MAX_DEPTH`, more elements than `MAX_POSITIONS`, or another kind.
        Exception: No such data.
    """
    kind = data["kind"]
    if depth > MAX_DEPTH:
        raise SchemaError(f"A saved space is nested deeper than {MAX_DEPTH}.")
    if kind == "dict":
        return Dict([(str(key), space_from_dict(part, depth + 1)) for key, part in data["spaces"]])
    if kind == "tuple":
        return Tuple([space_from_dict(part, depth + 1) for part in data["spaces"]])
    if kind == "discrete":
        return Discrete(whole_number(data["n"], "n"), start=whole_number(data["start"], "start", -LARGEST_WHOLE))
    if kind == "multi_discrete":
        nvec, start = np.array(data["nvec"]), np.array(data["start"])
        if not nvec.dtype.kind == start.dtype.kind == "i":
            raise SchemaError("A saved MultiDiscrete space has numbers of classes that are not whole.")
        return MultiDiscrete(nvec, dtype=_dtype_from(data["dtype"]).type, start=start)
    if kind not in ("box", "multi_binary"):
        raise SchemaError(f"A saved space is of the kind {kind!r}, which this wm_vec does not know.")
    shape = tuple(whole_number(size, "A saved space's size") for size in data["shape"])
    if math.prod(shape) > MAX_POSITIONS:
        raise SchemaError(f"A saved space has the shape {data['shape']}; at most {MAX_POSITIONS} numbers are taken.")
    if kind == "multi_binary":
        return MultiBinary(shape if len(shape) != 1 else shape[0])
    dtype = _dtype_from(data["dtype"])
    parse: Any = {"b": "True".__eq__, "f": float}.get(dtype.kind, int)
    low, high = (np.array([parse(x) for x in data[k]], dtype).reshape(shape) for k in ("low", "high"))
    if not (low <= high).all():
        raise SchemaError("A saved space has a lower bound that is above the upper one, or is no number.")
    return Box(low, high, shape=shape, dtype=dtype.type)


def _dtype_from(name: str) -> np.dtype:
    """A dtype of numbers by its name, and no other, which could be of any size."""
    if not re.fullmatch(r"bool|u?int\d+|float\d+", name):
        raise SchemaError(f"A saved space has the dtype {name!r}; expected one of numbers.")
    return np.dtype(name)


def _finite_or_inf(bound: np.ndarray) -> np.ndarray:
    """Bounds near the end of float32's range mean that there is none."""
    wide = bound.astype(np.float64)
    return np.where(wide > 1e30, math.inf, np.where(wide < -1e30, -math.inf, wide))


def _within_float32(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The widest bounds that float32 can hold inside the given ones, so that clamped values stay in the space."""
    low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(math.inf)), low32)
    high32 = np.where(high32 > high, np.nextafter(high32, np.float32(-math.inf)), high32)
    return low32, high32
