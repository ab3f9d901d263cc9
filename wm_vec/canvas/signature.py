"""An environment's spaces as fields of a canvas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from wm_vec.canvas.field import Field
from wm_vec.canvas.schema import BoundSchema, SchemaError

OBSERVATION, ACTION, REWARD, TERMINATED = "observation", "action", "reward", "terminated"
MAX_POSITIONS = 4096
TERMINATED_WEIGHT = 2.0
"""Loss weight of the termination's cross-entropy; more of it costs the numbers precision."""
MAX_REWARDS = 16
"""Rewards of no more distinct values than these are classes."""


class UnsupportedSpaceError(SchemaError):
    """A space that cannot be laid on a canvas."""


@dataclass(frozen=True)
class EnvSignature:
    """The spaces and horizon of the environment that a world is learned from.

    Attributes:
        observation_space: One env's observations: Box or Discrete.
        action_space: One env's actions: Box or Discrete.
        max_episode_steps: The environment's horizon; None for no limit.
        env_id: Gymnasium id it came from, if any.
    """

    observation_space: gym.Space
    action_space: gym.Space
    max_episode_steps: int | None = None
    env_id: str | None = None

    @classmethod
    def of_env(cls, env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> EnvSignature:
        """Read the signature off a registered environment.

        Raises:
            gymnasium.error.Error: There is no such environment.
            UnsupportedSpaceError: Its spaces cannot be laid on a canvas.
        """
        env = gym.make(env_id, **(env_kwargs or {}))
        try:
            horizon = env.spec.max_episode_steps if env.spec is not None else None
            return cls(env.observation_space, env.action_space, horizon, env_id)
        finally:
            env.close()

    def schema(self, d_model: int) -> BoundSchema:
        """Four fields: observation, action, reward and termination."""
        fields = {
            OBSERVATION: space_field(self.observation_space, OBSERVATION),
            ACTION: space_field(self.action_space, ACTION, is_output=False),
            REWARD: Field(is_input=False, max_values=MAX_REWARDS),
            TERMINATED: Field(is_input=False, num_classes=2, loss_weight=TERMINATED_WEIGHT, leads=True),
        }
        bound = BoundSchema(fields, d_model=d_model)
        if bound.layout.num_positions > MAX_POSITIONS:
            raise UnsupportedSpaceError(
                f"{self.env_id or 'This environment'} needs {bound.layout.num_positions} positions, one per number of "
                f"its spaces; the canvas takes at most {MAX_POSITIONS}. Observe features instead of raw images."
            )
        return bound

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


def space_field(space: gym.Space, role: str, is_output: bool = True) -> Field:
    """A space as a field: a Box one position per number, a Discrete one categorical position.

    Raises:
        UnsupportedSpaceError: Any other space.
    """
    if isinstance(space, Discrete):
        return Field(num_classes=max(2, int(space.n)), is_output=is_output)
    if isinstance(space, Box):
        if math.prod(space.shape) < 1:
            raise UnsupportedSpaceError(f"The {role} space {space} has no elements.")
        width = space.shape[-1] if space.shape else 1
        low, high = _within_float32(_finite_or_inf(space.low), _finite_or_inf(space.high))
        # A constant element has no room between its bounds; it needs none.
        room = low < high
        low, high = np.where(room, low, -math.inf), np.where(room, high, math.inf)
        return Field(
            h=math.prod(space.shape) // width,
            w=width,
            is_output=is_output,
            max_values=2 if is_output else 0,
            low=tuple(low.ravel().tolist()),
            high=tuple(high.ravel().tolist()),
        )
    raise UnsupportedSpaceError(
        f"The {role} space is {space}; a canvas takes Box and Discrete. Flatten others first, for example with "
        "gymnasium.wrappers.FlattenObservation, or wrap a model of your own instead."
    )


def space_size(space: gym.Space) -> int:
    """Canvas positions of a space."""
    return 1 if isinstance(space, Discrete) else math.prod(space.shape or ())


def space_to_dict(space: gym.Space) -> dict[str, Any]:
    """A Box or Discrete as plain data."""
    if isinstance(space, Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    assert isinstance(space, Box)
    return {
        "kind": "box",
        "shape": list(space.shape),
        "dtype": str(space.dtype),
        "low": [str(x) for x in space.low.ravel()],
        "high": [str(x) for x in space.high.ravel()],
    }


def space_from_dict(data: Mapping[str, Any]) -> gym.Space:
    """Inverse of `space_to_dict`."""
    if data["kind"] == "discrete":
        return Discrete(data["n"], start=data["start"])
    dtype = np.dtype(data["dtype"])
    parse = int if np.issubdtype(dtype, np.integer) else float
    low, high = (np.array([parse(x) for x in data[k]], dtype).reshape(data["shape"]) for k in ("low", "high"))
    return Box(low, high, shape=tuple(data["shape"]), dtype=dtype.type)


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
