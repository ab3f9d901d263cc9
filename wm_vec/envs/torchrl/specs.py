"""Gymnasium's spaces as TorchRL's specs, and what an engine gives as the entries that these describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)

from wm_vec.adapters.spaces import torch_dtype
from wm_vec.core import Engine, EnvState
from wm_vec.core.actions import box_numbers
from wm_vec.core.trees import Tree, as_entry
from wm_vec.spaces import Path, box_bounds, leaves, map_leaves, write_one_hot

DONE_KEYS = ("done", "terminated", "truncated")
OBSERVATION = "observation"
STATE_KEY = "world_state"
"""Where a TensorDict carries the state of the world, an `EnvState`."""
REWARD_STATE = "reward_state"
"""What reward functions carry, in there."""
KEPT_ANYWHERE = ("", "_reset", "_step", "device", "dtype", "shape", "space")
"""Names of observations that TorchRL has no entries for, however deep they lie; those of a spec's own attributes."""
KEPT = ("action", "next", "reward", *DONE_KEYS, "collector", STATE_KEY)
"""Names beside which an observation cannot stand in one TensorDict."""


class EnvSpecs(NamedTuple):
    """The five specs of an environment, of B envs each."""

    observation: Composite
    state: Composite
    action: TensorSpec
    reward: TensorSpec
    done: Composite

    def of_one(self) -> EnvSpecs:
        """The same of one env, without a batch axis."""
        return EnvSpecs(*(spec[0] for spec in self))


class _WideBoxes(type(Bounded)):  # type: ignore[misc]
    """Keeps the class of `WideBox`, where TorchRL's own makes one of its two of every bounded spec."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made.__class__ = cls
        return made


class WideBox(Bounded, metaclass=_WideBoxes):
    """Numbers of which some lack a bound or have huge ones, where TorchRL's own spec draws infinities."""

    def rand(self, shape: torch.Size | None = None) -> Tensor:
        """Numbers ``(*shape, *self.shape)`` that spread as Gymnasium's."""
        size, whole = (*(shape or ()), *self.shape), not self.dtype.is_floating_point
        dtype = torch.float64 if whole else self.dtype
        low, high = self.space.low.to(dtype), self.space.high.to(dtype)
        if whole:  # as `box_bounds` has it
            ends = torch.iinfo(torch.int32 if self.dtype is torch.int32 else torch.int64)
            low = torch.where(low <= float(ends.min), -torch.inf, low)
            high = torch.where(high >= float(ends.max), torch.inf, high)
        uniform = torch.rand(size, device=self.device, dtype=torch.promote_types(dtype, torch.float32))
        return box_numbers(low, high, uniform, torch.randn(size, device=self.device, dtype=dtype), whole).to(self.dtype)

    def to(self, dest: torch.dtype | torch.device | str | int) -> TensorSpec:
        """As TorchRL's own, but of this class."""
        moved = super().to(dest)
        return WideBox(*moved.space, shape=moved.shape, device=moved.device, dtype=moved.dtype)


def env_specs(
    engine: Engine, observation_space: gym.Space, action_space: gym.Space, num_envs: int, *, one_hot: bool, state: bool
) -> EnvSpecs:
    """The specs of B envs of an engine's world.

    Args:
        engine: Its rewards, its device, and what a state holds.
        observation_space: One env's observations.
        action_space: One env's actions.
        num_envs: B.
        one_hot: Discrete actions and observations as one-hot vectors in place of class indices.
        state: Whether TensorDicts carry the state of the world, as an observation does.

    Raises:
        ValueError: Spaces that TorchRL has no specs for.
    """
    device, batch = engine.device, (num_envs,)
    observation = observation_specs(observation_space, num_envs, device, one_hot)
    carried = Composite({}, shape=batch, device=device)
    if state:
        example = carried_state(engine.world.layout.example())
        observation[STATE_KEY], carried[STATE_KEY] = (_like(example, num_envs, device) for _ in range(2))
    flags = {key: Categorical(2, shape=(num_envs, 1), device=device, dtype=torch.bool) for key in DONE_KEYS}
    return EnvSpecs(
        observation,
        carried,
        action_spec(action_space, num_envs, device, one_hot),
        Unbounded((num_envs, 1), device=device, dtype=engine.reward_dtype),
        Composite(flags, shape=batch, device=device),
    )


def observation_specs(space: gym.Space, num_envs: int, device: torch.device, one_hot: bool = False) -> Composite:
    """The observations of B envs: under ``"observation"``, or under the keys of a Dict space.

    Args:
        space: One env's observations; Dict and Tuple spaces may nest, and the parts of a Tuple go by their places.
        num_envs: B.
        device: Where they live.
        one_hot: Discrete ones as one-hot vectors, see `one_hot_parts`.

    Raises:
        ValueError: A space that TorchRL has no spec for, or a part by a name that TorchRL keeps for itself.
    """
    _check_names(space)
    hot = one_hot_parts(space) if one_hot else map_leaves(lambda path, leaf: None, space)
    tree = map_leaves(lambda path, leaf, part: _leaf(leaf, num_envs, device, part), space, hot)

    def composite(entries: Any) -> Any:
        if isinstance(entries, TensorSpec):
            return entries
        parts = entries.items() if isinstance(entries, dict) else enumerate(entries)
        return Composite({str(k): composite(part) for k, part in parts}, shape=(num_envs,), device=device)

    return composite(tree if isinstance(tree, dict) else {OBSERVATION: tree})


def observation_entries(observation: Tree) -> dict[str, Any]:
    """An observation as the entries of a TensorDict, as `observation_specs` names them."""
    return as_entry(observation if isinstance(observation, Mapping) else {OBSERVATION: observation})


def carried_state(state: EnvState) -> TensorDict:
    """A state as the entries under ``"world_state"``: copies.

    Without reward states their nest is left out, since TorchRL loses nests without a leaf on the way: its transforms
    select by leaves, and its batches of envs refuse empty specs.
    """
    entries = state.to_tensordict()
    return entries.exclude(REWARD_STATE) if entries.get(REWARD_STATE).is_empty() else entries


def state_of(entries: TensorDictBase) -> EnvState:
    """The inverse, not of copies."""
    if entries.get(REWARD_STATE, None) is None:
        empty = TensorDict({}, batch_size=entries.batch_size, device=entries.device)
        entries = entries.copy().set(REWARD_STATE, empty)
    return EnvState.from_tensordict(entries)


def action_spec(space: gym.Space, num_envs: int, device: torch.device, one_hot: bool) -> TensorSpec:
    """The actions of B envs.

    Args:
        space: One env's actions.
        num_envs: B.
        device: Where they live.
        one_hot: Discrete actions as one-hot vectors in place of class indices.

    Raises:
        ValueError: Class indices that do not start at 0, or a space that TorchRL has no spec for.
    """
    if isinstance(space, spaces.Discrete):
        _require_zero(space, np.asarray(space.start))
        if one_hot:
            return OneHot(int(space.n), shape=(num_envs, int(space.n)), device=device, dtype=torch.bool)
        return Categorical(int(space.n), shape=(num_envs,), device=device, dtype=torch.int64)
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        _require_zero(space, np.asarray(space.start))
        sizes = [int(n) for n in space.nvec]
        if one_hot:
            return MultiOneHot(sizes, shape=(num_envs, sum(sizes)), device=device, dtype=torch.bool)
        return MultiCategorical(sizes, shape=(num_envs, len(sizes)), device=device, dtype=torch.int64)
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Binary(int(space.shape[0]), shape=(num_envs, int(space.shape[0])), device=device, dtype=torch.int64)
    if isinstance(space, spaces.Box) and space.dtype.kind in "fiu":
        return _box(space, num_envs, device)
    raise ValueError(f"TorchRLEnv: there is no spec for actions of {space}.")


def one_hot_actions(action: Tensor, space: gym.Space) -> Tensor:
    """The inverse of `class_indices`, bool."""
    return write_one_hot(action.reshape(action.shape[0], -1), _sizes(space)).bool()


class OneHotPart(NamedTuple):
    """Classes as int64 one-hot vectors, of the shape that TorchRL's GymEnv gives them.

    Attributes:
        first: The first class of each of k elements.
        counts: Their numbers of classes.
        shape: ``(k, n)`` where there are several, all of n classes; else ``(n,)``, side by side.
    """

    first: list[int]
    counts: list[int]
    shape: tuple[int, ...]

    def of(self, classes: Tensor) -> Tensor:
        """``(B, *shape)`` of class indices ``(B, ...)``."""
        columns = classes.to(torch.int64).reshape(classes.shape[0], -1).unbind(1)
        index = torch.stack([column - first for column, first in zip(columns, self.first, strict=True)], 1)
        return write_one_hot(index, self.counts).reshape(-1, *self.shape)


def one_hot_parts(space: gym.Space) -> Tree:
    """An `OneHotPart` of every leaf of a space that has one in TorchRL, None of the others, in its structure."""

    def part(_: Path, leaf: gym.Space) -> OneHotPart | None:
        one, several = isinstance(leaf, spaces.Discrete), isinstance(leaf, spaces.MultiDiscrete)
        if not one and not (several and len(leaf.shape or ()) == 1):
            return None
        counts, first = _sizes(leaf), np.asarray(leaf.start).reshape(-1).tolist()  # type: ignore[attr-defined]
        alike = len(counts) > 1 and len({*counts}) == 1
        return OneHotPart(first, counts, (len(counts), counts[0]) if alike else (sum(counts),))

    return map_leaves(part, space)


def as_specified(action: Tensor, spec: TensorSpec) -> Tensor:
    """Actions that a world made in its own precision, in the spec's: rounding may have put them beyond its bounds."""
    action = action.to(spec.dtype)
    return action.clamp(spec.space.low, spec.space.high) if isinstance(spec, Bounded) else action


def _like(example: TensorDictBase, num_envs: int, device: torch.device) -> Composite:
    """The specs of TensorDicts like `example`, any batch ``(M,)``, for B envs."""
    entries = {
        key: _like(value, num_envs, device)
        if isinstance(value, TensorDictBase)
        else Unbounded((num_envs, *value.shape[1:]), device=device, dtype=value.dtype)
        for key, value in example.items()
    }
    return Composite(entries, shape=(num_envs,), device=device)


def _sizes(space: gym.Space) -> list[int]:
    return [int(n) for n in space.nvec] if isinstance(space, spaces.MultiDiscrete) else [int(space.n)]  # type: ignore[attr-defined]


def _check_names(space: gym.Space) -> None:
    for path, _ in leaves(space):
        kept = [name for name in path if name in KEPT_ANYWHERE or (name is path[0] and name in KEPT)]
        if kept:
            raise ValueError(
                f"TorchRLEnv: the observation space has a part {kept[0]!r}, a name that TorchRL keeps for itself. "
                "Rename it, for example by gymnasium.wrappers.TransformObservation."
            )


def _leaf(space: gym.Space, num_envs: int, device: torch.device, hot: OneHotPart | None) -> TensorSpec:
    if isinstance(space, spaces.Box):
        return _box(space, num_envs, device)
    if hot is not None:
        options: dict[str, Any] = {"shape": (num_envs, *hot.shape), "device": device, "dtype": torch.int64}
        return OneHot(hot.counts[0], **options) if len({*hot.counts}) == 1 else MultiOneHot(hot.counts, **options)
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise ValueError(f"TorchRLEnv: there is no spec for observations of {space}.")
    shape, dtype = (num_envs, *(space.shape or ())), torch_dtype(space)
    if isinstance(space, spaces.Discrete) and int(space.start) == 0:
        return Categorical(int(space.n), shape=shape, device=device, dtype=dtype)
    if isinstance(space, spaces.MultiDiscrete) and len(shape) == 2 and not space.start.any():
        return MultiCategorical(space.nvec.tolist(), shape=shape, device=device, dtype=dtype)
    if isinstance(space, spaces.MultiBinary) and len(shape) == 2:
        return Binary(shape[1], shape=shape, device=device, dtype=dtype)
    return Unbounded(shape, device=device, dtype=dtype)


def _box(space: spaces.Box, num_envs: int, device: torch.device) -> TensorSpec:
    shape, dtype = (num_envs, *space.shape), torch_dtype(space)
    # Bounded specs read their bounds, which the meta device has none of.
    if device.type == "meta" or (np.isinf(space.low).all() and np.isinf(space.high).all()):
        return Unbounded(shape, device=device, dtype=dtype)
    low, high = (torch.as_tensor(bound, dtype=dtype, device=device).expand(shape) for bound in (space.low, space.high))
    lowest, highest = box_bounds(space)
    with np.errstate(over="ignore"):
        width = (highest - lowest).astype(space.dtype if dtype.is_floating_point else np.float64)
    kind = Bounded if np.isfinite(width).all() else WideBox
    return kind(low, high, shape=shape, device=device, dtype=dtype)


def _require_zero(space: gym.Space, start: np.ndarray) -> None:
    if start.any():
        raise ValueError(f"TorchRLEnv: TorchRL counts classes from 0, the action space is {space}.")
