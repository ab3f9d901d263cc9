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


@dataclass(frozen=True)
class ActionSpec:
    """Which actions a perspective takes.

    Attributes:
        kind: ``"box"`` for numbers, ``"discrete"`` for whole numbers: a class index, or several.
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
        if self.kind == "discrete" and (action.dtype.is_floating_point or action.dtype == torch.bool):
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
            first, last = [int(x) + self.offset for x in self.low], [int(x) + self.offset for x in self.high]
            low, high = (action.new_tensor(bound).view(self.shape) for bound in (first, last))
            bad = (action < low) | (action > high)
            what = f"a class index from {first[0]} to {last[0]}"
            if self.shape:
                what = f"class indices from {first} to {last}"
        else:
            bad, what = ~torch.isfinite(action), "finite numbers"
        if bool(bad.any()):
            env = int(bad.reshape(bad.shape[0], -1).any(-1).nonzero()[0])
            raise ValueError(f"{where}: actions must be {what}; env {env} got {action[env].tolist()}.")


@dataclass(frozen=True)
class Perspective:
    """One agent's view of a dynamics.

    Attributes:
        action: The actions it takes.
        name: Its name among several.
        obs_index: Elements of the dynamics' flat observation ``(B, n)`` that it sees, in order; None for all of it
            as it is, of however many parts.
        obs_shape: Shape in which one env's observation is handed out; None for flat.
        obs_dtype: Dtype of the observation; None for the dynamics'.
        obs_offset: Added to observations: the first class index of a Discrete space that does not start at 0.
        obs_fields: Field name -> slice of the flat observation, for named observations.
        all_fields: Field name -> indices into the dynamics' observation, for ``info["predictions"]``.
        reward_fn: ``(obs, action, info) -> float`` of one env, or marked batched; None for the dynamics' reward.
        terminated_fn: ``(obs, step, info) -> bool``; None for the dynamics' termination.
        reward_state: Start value of what a stateful reward function carries. It then takes a fourth argument and
            returns ``(reward, reward_state)``.
    """

    action: ActionSpec
    name: str = "agent"
    obs_index: Tensor | None = None
    obs_shape: tuple[int, ...] | None = None
    obs_dtype: torch.dtype | None = None
    obs_offset: int = 0
    obs_fields: Mapping[str, slice] = field(default_factory=dict)
    all_fields: Mapping[str, slice | list[int]] = field(default_factory=dict)
    reward_fn: Callable[..., Any] | None = None
    terminated_fn: Callable[..., Any] | None = None
    reward_state: Tensor | None = None

    def observe(self, observation: Tree) -> Tree:
        """This perspective's own copy of the dynamics' observation, ``(B, *obs_shape)``."""
        if not isinstance(observation, Tensor):
            return tree_map(Tensor.clone, observation)
        seen = observation.clone() if self.obs_index is None else observation.index_select(1, self.obs_index)
        if self.obs_shape is not None and tuple(seen.shape[1:]) != self.obs_shape:
            seen = seen.reshape(seen.shape[0], *self.obs_shape)
        if self.obs_offset:
            seen = seen + self.obs_offset
        if self.obs_dtype is None or self.obs_dtype == seen.dtype:
            return seen
        return (seen if self.obs_dtype.is_floating_point else seen.round()).to(self.obs_dtype)

    def whole(self, seen: Tree, like: Tree) -> Tree:
        """The dynamics' observation of which `observe` gives `seen`.

        Args:
            seen: ``(M, *obs_shape)``, as this perspective sees it.
            like: The dynamics' observation of no env, ``(0, n)``.

        Returns:
            ``(M, n)`` in the dtype and on the device of `like`, NaN where this perspective does not look; of a
            perspective that sees the dynamics' observation as it is, `seen` itself.

        Raises:
            TypeError, ValueError: No tensor, or one of another shape.
        """
        if not isinstance(like, Tensor) or (self.obs_index is None and self.obs_shape is None and not self.obs_offset):
            return seen
        size = like.shape[1] if self.obs_index is None else self.obs_index.shape[0]
        shape = (size,) if self.obs_shape is None else self.obs_shape
        if not isinstance(seen, Tensor):
            raise TypeError(f"{self.name}: observations must be a torch tensor, got {type(seen).__name__}.")
        if seen.dim() == 0 or tuple(seen.shape[1:]) != shape:
            raise ValueError(f"{self.name}: observations must have shape {('M', *shape)}, got {tuple(seen.shape)}.")
        flat = seen.to(like).reshape(seen.shape[0], size) - self.obs_offset
        if self.obs_index is None:
            return flat
        return like.new_full((seen.shape[0], like.shape[1]), math.nan).index_copy(1, self.obs_index, flat)

    def named(self, observation: Tree) -> dict[str, Tensor]:
        """What `observe` gave, ``(..., *obs_shape)``, by field name, ``(..., n)`` each."""
        if not isinstance(observation, Tensor):
            return dict(_parts(observation))
        axes = 1 if self.obs_shape is None else len(self.obs_shape)
        if not self.obs_fields:
            return {"observation": observation}
        flat = observation.unsqueeze(-1) if axes == 0 else observation.flatten(-axes)
        return {path: flat[..., where] for path, where in self.obs_fields.items()}

    def everything(self, observation: Tree) -> Mapping[str, Tensor]:
        """The dynamics' whole observation by field name, made when read; not copies."""
        return Fields(observation, self.all_fields) if self.all_fields else self.named(observation)


class Fields(Mapping[str, Tensor]):
    """Named slices of one flat tensor, made when they are read."""

    def __init__(self, flat: Tensor, where: Mapping[str, Any]) -> None:
        self._flat, self._where = flat, where

    def __getitem__(self, path: str) -> Tensor:
        return self._flat[..., self._where[path]]

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
