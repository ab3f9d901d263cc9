"""What one agent sees, controls and is paid for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from wm_vec.compat import tree_map
from wm_vec.core.trees import Tree
from wm_vec.plain import check_type

WHOLE_DTYPES = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


@dataclass(frozen=True)
class ActionSpec:
    """Which actions a perspective takes.

    Attributes:
        kind: ``"box"`` for numbers, ``"discrete"`` for whole numbers: class indices, or those of a Box of integers.
        shape: Shape of one env's action; ``()`` for a class index.
        low: Lower bound of each element in row-major order; actions are clipped to it.
        high: Upper bound, likewise.
        offset: Added to what the dynamics counts: the first class index, where that counts from 0 all the same.
    """

    kind: Literal["box", "discrete"]
    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("box", "discrete"):
            raise ValueError(f"ActionSpec: kind must be 'box' or 'discrete', got {self.kind!r}.")
        for name in ("shape", "low", "high"):
            check_type(getattr(self, name), tuple, f"ActionSpec: {name}")
        if not len(self.low) == len(self.high) == self.size:
            raise ValueError(f"ActionSpec: {self.size} elements need as many bounds, got {self.low}, {self.high}.")

    @property
    def size(self) -> int:
        """Elements of one env's action."""
        return math.prod(self.shape)

    def check(self, action: Any, num_envs: int, device: torch.device, where: str) -> None:
        """Check shape, dtype and device, on the host.

        Raises:
            TypeError: Not a tensor, or of a dtype that this action cannot have.
            ValueError: Another shape or device.
        """
        if not isinstance(action, Tensor):
            raise TypeError(
                f"{where}: the action must be a torch tensor on {device}, got {type(action).__name__}. "
                "Convert it with torch.as_tensor(action, device=...)."
            )
        expected = (num_envs, *self.shape)
        if tuple(action.shape) != expected:
            raise ValueError(f"{where}: the action must have shape {expected}, got {tuple(action.shape)}.")
        if self.kind == "discrete" and action.dtype not in WHOLE_DTYPES:
            raise TypeError(f"{where}: a discrete action must be integers (torch.int64), got {action.dtype}.")
        if self.kind == "box" and not action.dtype.is_floating_point:
            raise TypeError(f"{where}: a continuous action must be floating point, got {action.dtype}.")
        if action.device != device:
            raise ValueError(
                f"{where}: the action is on {action.device}, the environment on {device}. Move it with .to(...)."
            )

    def check_values(self, action: Tensor, where: str) -> None:
        """Check the values; reads them on the host.

        Raises:
            ValueError: Not finite, or a class index that does not exist. Numbers out of bounds are clipped, not
                refused.
        """
        if self.kind == "discrete":
            given = action.double()  # narrow whole numbers cannot hold all bounds
            low, high = (given.new_tensor(bound).view(self.shape) + self.offset for bound in (self.low, self.high))
            bad = (given < low) | (given > high)
            first, last = ([f"{x + self.offset:.0f}" for x in bound] for bound in (self.low, self.high))
            what = f"a class index from {first[0]} to {last[0]}"
            if self.shape:
                what = f"whole numbers from [{', '.join(first)}] to [{', '.join(last)}]"
        else:
            bad, what = ~torch.isfinite(action), "finite numbers"
        if bool(bad.any()):
            env = int(bad.reshape(bad.shape[0], -1).any(-1).nonzero()[0])
            raise ValueError(f"{where}: actions must be {what}; env {env} got {action[env].tolist()}.")


@dataclass(frozen=True)
class ObservedPart:
    """One tensor of an observation, out of a flat one.

    Attributes:
        columns: Its columns of the flat observation.
        shape: Shape of one env's.
        dtype: Its dtype; whole numbers are rounded.
        bounds: Lower and upper bounds ``shape`` float64 of the whole numbers of a Box, which are clipped to them.
        offset: Added to it: ``shape`` int64, the first class indices of a space that does not count from 0; None for 0.
    """

    columns: slice
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: Tensor | None = None
    bounds: tuple[Tensor, Tensor] | None = None

    def of(self, flat: Tensor) -> Tensor:
        """The part ``(B, *shape)`` of flat observations ``(B, n)``."""
        seen = flat[:, self.columns].reshape(flat.shape[0], *self.shape)
        if seen.dtype != self.dtype:
            seen = seen if self.dtype.is_floating_point else seen.round()
            seen = (seen if self.bounds is None else seen.clamp(*self.bounds)).to(self.dtype)
        return seen if self.offset is None else seen + self.offset

    def to_flat(self, seen: Any, like: Tensor, name: str) -> Tensor:
        """The inverse, ``(M, n)`` in the dtype and on the device of `like`.

        Raises:
            TypeError, ValueError: No tensor, or one of another shape.
        """
        if not isinstance(seen, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(seen).__name__}.")
        if seen.dim() == 0 or tuple(seen.shape[1:]) != self.shape:
            raise ValueError(f"{name} must have shape {('M', *self.shape)}, got {tuple(seen.shape)}.")
        if self.offset is not None:  # NaN, what was not observed, stays; of narrow whole numbers it would wrap
            seen = seen.to(self.offset.device, None if seen.is_floating_point() else torch.int64) - self.offset
        return seen.to(like).reshape(seen.shape[0], -1)

    def named(self, seen: Tensor, fields: Mapping[str, slice]) -> dict[str, Tensor]:
        """The fields that lie within this part, ``(..., n)`` each, of the part ``(..., *shape)``."""
        first, axes = self.columns.start, len(self.shape)
        flat = seen.unsqueeze(-1) if axes == 0 else seen.flatten(-axes)
        return {
            path: flat[..., where.start - first : where.stop - first]
            for path, where in fields.items()
            if first <= where.start < self.columns.stop
        }


@dataclass(frozen=True)
class Perspective:
    """One agent's view of a dynamics.

    Attributes:
        action: The actions it takes.
        name: Its name among several.
        obs_index: Elements of the dynamics' flat observation ``(B, n)`` that it sees, in order; None for all of it
            as it is, of however many parts.
        obs_parts: What these elements are handed out as: an `ObservedPart`, or dicts and tuples of them; None for
            flat, as they are.
        obs_fields: Field name -> slice of the flat observation, for named observations.
        all_fields: Field name -> indices into the dynamics' observation, for ``info["predictions"]``.
        units: Field name -> unit of its values, for people; fields without one may be missing.
        reward_fn: ``(obs, action, info) -> float`` of one env, or marked batched; None for the dynamics' reward.
        terminated_fn: ``(obs, step, info) -> bool``; None for the dynamics' termination.
        reward_state: Start value of what a stateful reward function carries. It then takes a fourth argument and
            returns ``(reward, reward_state)``.
    """

    action: ActionSpec
    name: str = "agent"
    obs_index: Tensor | None = None
    obs_parts: Tree = None
    obs_fields: Mapping[str, slice] = field(default_factory=dict)
    all_fields: Mapping[str, slice | list[int]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    reward_fn: Callable[..., Any] | None = None
    terminated_fn: Callable[..., Any] | None = None
    reward_state: Tensor | None = None

    def __post_init__(self) -> None:
        check_type(self.action, ActionSpec, "Perspective: action")
        check_type(self.name, str, "Perspective: name")

    def observe(self, observation: Tree) -> Tree:
        """This perspective's own copy of the dynamics' observation, ``(B, ...)``."""
        if not isinstance(observation, Tensor):
            return tree_map(Tensor.clone, observation)
        return self.parts_of(
            observation.clone() if self.obs_index is None else observation.index_select(1, self.obs_index)
        )

    def parts_of(self, seen: Tensor) -> Tree:
        """The parts of what it sees, flat ``(B, n)``: views, where they have its dtype."""
        return seen if self.obs_parts is None else tree_map(lambda part: part.of(seen), self.obs_parts)

    def whole(self, seen: Tree, like: Tree) -> Tree:
        """The dynamics' observation of which `observe` gives `seen`.

        Args:
            seen: ``(M, ...)``, as this perspective sees it.
            like: The dynamics' observation of no env, ``(0, n)``.

        Returns:
            ``(M, n)`` in the dtype and on the device of `like`, NaN where this perspective does not look; of a
            perspective that sees the dynamics' observation as it is, `seen` itself.

        Raises:
            TypeError, ValueError: Other parts, no tensors, or some of another shape.
        """
        if not isinstance(like, Tensor) or (self.obs_index is None and self.obs_parts is None):
            return seen
        size = like.shape[1] if self.obs_index is None else self.obs_index.shape[0]
        parts = ObservedPart(slice(0, size), (size,), like.dtype) if self.obs_parts is None else self.obs_parts
        columns = [
            part.to_flat(value, like, f"{self.name}: observations{path}") for path, part, value in _pairs(parts, seen)
        ]
        flat = columns[0] if len(columns) == 1 else torch.cat(columns, 1)
        if self.obs_index is None:
            return flat
        return like.new_full((flat.shape[0], like.shape[1]), math.nan).index_copy(1, self.obs_index, flat)

    def named(self, observation: Tree) -> dict[str, Tensor]:
        """What `observe` gave by field name, ``(..., n)`` each."""
        if self.obs_parts is None and not isinstance(observation, Tensor):
            return dict(_parts(observation))
        if not self.obs_fields:
            return {"observation": observation}
        if self.obs_parts is None:
            return {path: observation[..., where] for path, where in self.obs_fields.items()}
        found: dict[str, Tensor] = {}
        for _, part, value in _pairs(self.obs_parts, observation):
            found.update(part.named(value, self.obs_fields))
        return found

    def everything(self, observation: Tree) -> Mapping[str, Tensor]:
        """The dynamics' whole observation by field name, copied when read."""
        if self.all_fields:
            return Fields(observation, self.all_fields)
        return self.named(tree_map(Tensor.clone, observation))


class Fields(Mapping[str, Tensor]):
    """Copies of named slices of one flat tensor, made when they are read."""

    def __init__(self, flat: Tensor, where: Mapping[str, Any]) -> None:
        self._flat, self._where = flat, where

    def __getitem__(self, path: str) -> Tensor:
        return self._flat[..., self._where[path]].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _parts(tree: Tree, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree by path, the names of nested parts joined by dots."""
    if isinstance(tree, Tensor):
        yield path, tree
        return
    for name, part in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        yield from _parts(part, f"{path}.{name}" if path else str(name))


def _pairs(parts: Tree, values: Tree, path: str = "") -> Iterator[tuple[str, ObservedPart, Any]]:
    """The parts of an observation with the values that stand for them, and where they lie, ``"['camera'][0]"``.

    Raises:
        ValueError: Values in another structure.
    """
    if isinstance(parts, ObservedPart):
        yield path, parts, values
        return
    named = isinstance(parts, Mapping)
    wanted = dict(parts.items() if named else enumerate(parts))
    fits = isinstance(values, Mapping if named else tuple)
    given = dict(values.items() if named else enumerate(values)) if fits else {}
    if given.keys() != wanted.keys():
        kind = "mapping with the keys" if named else "tuple with the places"
        raise ValueError(f"observations{path} must be a {kind} {list(wanted)}, got a {type(values).__name__}.")
    for key, part in wanted.items():
        yield from _pairs(part, given[key], f"{path}[{key!r}]")
