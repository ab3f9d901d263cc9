"""Gymnasium's spaces as tensors: what a model's observations must be, and which actions it gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.adapters.errors import ENV_BY_ENV, AdapterError, describe
from wm_vec.compat import tree_leaves, tree_map
from wm_vec.core import ActionSpec
from wm_vec.core.trees import OBSERVATION, Tree
from wm_vec.spaces import Path, box_bounds, dotted, map_leaves

_HOST = torch.device("cpu")
LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def torch_dtype(space: gym.Space) -> torch.dtype:
    """The dtype of a space's tensors."""
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype


def check_spaces(observation_space: Any, action_space: Any, where: str = "CallableDynamics") -> None:
    """Both must be Gymnasium's; `where` is who asks.

    Raises:
        AdapterError: One is something else.
    """
    for role, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, gym.Space):
            old = type(space).__module__.startswith("gym.")
            hint = " It is a space of the old `gym` package: make Gymnasium's of the same name." if old else ""
            raise AdapterError(
                f"{where}: {role} must be a gymnasium.Space, got {describe(space)}.{hint} It takes "
                f"{', '.join(s.__name__ for s in LEAF_SPACES)}, and for observations Dict and Tuple of these."
            )


def check_observations(observation: Tree, space: gym.Space, device: torch.device, where: str) -> None:
    """A dynamics' observation of no env, ``(0, ...)``, must be one of its space; `where` is who asks.

    Raises:
        AdapterError: Another structure, shape, or kind of dtype, complex numbers among them.
    """
    ObservationCodec(space).tensors(observation, (0,), device, f"{where}, observe")


def space_signature(space: gym.Space) -> str:
    """A space in words that are the same in every process, unlike its repr, which NumPy's print options shape."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        return "{" + ", ".join(f"{name!r}: {space_signature(part)}" for name, part in parts) + "}"
    bounds = [getattr(space, name, None) for name in ("low", "high", "start", "n", "nvec")]
    numbers = [None if bound is None else np.asarray(bound).tobytes().hex() for bound in bounds]
    return f"{type(space).__name__} {space.shape} {space.dtype} {numbers}"


@dataclass(frozen=True)
class Leaf:
    """One tensor of an observation.

    Attributes:
        name: ``"observation"``, followed by the keys of Dict and the places of Tuple spaces: ``"observation.image"``.
        shape: Of one env.
        dtype: The space's.
        accepts: The dtypes that are taken: those that the space's can hold without a change of kind.
        array_dtype: The space's dtype in NumPy.
        takes_arrays: `accepts` in NumPy.
        is_scalar: Whether Gymnasium has a NumPy scalar for it, as of Discrete spaces, and no array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    accepts: frozenset[torch.dtype]
    array_dtype: np.dtype
    takes_arrays: frozenset[np.dtype]
    is_scalar: bool


class ObservationCodec:
    """The observations of a space, as flat leaves and as trees.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these, nested at will.

    Attributes:
        leaves: In the order of the space.
        single: The only leaf, where the observation is one tensor.
    """

    def __init__(self, space: gym.Space) -> None:
        self.space = space
        self._structure = map_leaves(_leaf, space)
        self.leaves = tree_leaves(self._structure)
        names = [leaf.name for leaf in self.leaves]
        if len({*names}) < len(names):
            raise AdapterError(f"observation_space: two parts go by one name, {sorted(names)}: keys with dots.")
        self.single = self._structure if isinstance(self._structure, Leaf) else None

    def fits(self, value: Any, lead: tuple[int, ...] = ()) -> bool:
        """Whether a value has the structure and shapes of an observation, with axes `lead` in front."""
        return _fits(self._structure, value, lead)

    def has_keys(self, value: Any) -> bool:
        """Whether a mapping has the keys of this Dict space, and so is an observation, not a form with one inside."""
        structure = self._structure
        return isinstance(structure, dict) and _is_mapping(value) and set(value.keys()) == set(structure)

    def tensors(self, value: Any, lead: tuple[int, ...], device: torch.device, where: str) -> dict[str, Tensor]:
        """The leaves of an observation by name, ``(*lead, *shape)``.

        Args:
            value: Tensors, arrays or numbers in the space's structure.
            lead: The axes in front, ``(B,)`` or none.
            device: Where the tensors go.
            where: The callable, for the error.

        Raises:
            AdapterError: Another structure, shape, or kind of dtype.
        """
        if self.single is not None:
            return {self.single.name: _tensor(self.single, value, lead, device, where)}
        found: dict[str, Tensor] = {}

        def keep(leaf: Leaf, part: Any) -> None:
            found[leaf.name] = _tensor(leaf, part, lead, device, where)

        _read(self._structure, value, keep, where, OBSERVATION)
        return found

    def element(self, value: Any, where: str) -> Any:
        """One env's observation as an element of the space: new arrays in its dtypes, whatever they are made of.

        Raises:
            AdapterError: As `tensors`.
        """
        if self.single is not None:
            return _array(self.single, value, where)
        return _read(self._structure, value, lambda leaf, part: _array(leaf, part, where), where, OBSERVATION)

    def tree(self, flat: Any) -> Tree:
        """The observation in the space's structure; `flat` maps names to tensors."""
        return tree_map(lambda leaf: flat[leaf.name], self._structure)


class ActionCodec:
    """The actions of a space, between the engine's columns and the model.

    Args:
        space: Box, Discrete, MultiDiscrete or MultiBinary.

    Attributes:
        spec: Which actions the engine takes.
        dtype: Of the engine's columns: float64 where the space's is.
        model_dtype: Of the tensors that a model gets: int64 for whole numbers, the space's otherwise.
    """

    def __init__(self, space: gym.Space) -> None:
        if not isinstance(space, LEAF_SPACES):
            raise AdapterError(
                f"action_space must be one of {', '.join(s.__name__ for s in LEAF_SPACES)}, got {space}. Offer one of "
                "these and turn its actions into the model's with action_transform_fn."
            )
        self.space = space
        low, high = _bounds(space)
        whole = np.issubdtype(space.dtype, np.integer)
        shape = tuple(space.shape or ())
        self.spec = ActionSpec("discrete" if whole else "box", shape, tuple(low.tolist()), tuple(high.tolist()))
        self.dtype = torch.float64 if space.dtype == np.float64 else torch.float32
        if whole and max(np.abs(low).max(), np.abs(high).max()) >= 2**24:
            self.dtype = torch.float64
        self.model_dtype = torch.int64 if whole else torch_dtype(space)

    def unpack(self, columns: Tensor) -> Tensor:
        """``(B, *shape)`` as a model takes it: int64 for whole numbers, the space's dtype otherwise."""
        actions = columns if columns.dtype is self.model_dtype else columns.to(self.model_dtype)
        return actions if len(self.spec.shape) == 1 else actions.view(-1, *self.spec.shape)


def _bounds(space: gym.Space) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(space, spaces.Box):
        low, high = box_bounds(space)
        return low.ravel(), high.ravel()
    if isinstance(space, spaces.Discrete):
        return np.array([float(space.start)]), np.array([float(space.start + space.n - 1)])
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(getattr(space, "start", 0), np.float64)
        low = np.broadcast_to(start, space.nvec.shape).ravel()
        return low, low + space.nvec.ravel() - 1.0
    size = int(np.prod(space.shape or ()))
    return np.zeros(size), np.ones(size)


def _leaf(path: Path, space: gym.Space) -> Leaf:
    if not isinstance(space, LEAF_SPACES):
        raise AdapterError(
            f"observation_space: {space} cannot be laid out as tensors. Take Box, Discrete, MultiDiscrete, MultiBinary "
            "or Dict and Tuple of these."
        )
    wanted = np.dtype(space.dtype)
    arrays = [np.dtype(d) for d in _NUMPY_DTYPES if np.can_cast(d, wanted, "same_kind")]
    accepted = {torch.from_numpy(np.zeros(0, d)).dtype for d in arrays}
    if wanted.kind == "f":
        accepted.add(torch.bfloat16)
    return Leaf(
        dotted(OBSERVATION, *path),
        tuple(space.shape or ()),
        torch_dtype(space),
        frozenset(accepted),
        wanted,
        frozenset(arrays),
        isinstance(space, spaces.Discrete),
    )


_NUMPY_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


def _is_mapping(value: Any) -> bool:
    return isinstance(value, (Mapping, TensorDictBase))


def _fits(structure: Any, value: Any, lead: tuple[int, ...]) -> bool:
    if isinstance(structure, dict):
        if not _is_mapping(value) or set(value.keys()) != set(structure):
            return False
        return all(_fits(part, value[key], lead) for key, part in structure.items())
    if isinstance(structure, tuple):
        if not isinstance(value, tuple) or len(value) != len(structure):
            return False
        return all(_fits(part, one, lead) for part, one in zip(structure, value, strict=True))
    if value is None or isinstance(value, str) or _is_mapping(value):
        return False
    if isinstance(value, Tensor):
        return tuple(value.shape) == (*lead, *structure.shape)
    if isinstance(value, (tuple, list)) and (
        [len(value)] != [*lead, *structure.shape][:1] or any(isinstance(part, Tensor) for part in value)
    ):
        return False
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged sequence
        return False
    return array.dtype.kind in "biuf" and array.shape == (*lead, *structure.shape)


def _read(structure: Any, value: Any, read: Callable[[Leaf, Any], Any], where: str, name: str) -> Any:
    """`read` of every leaf and its part of a value, in the space's structure.

    Raises:
        AdapterError: The value has not the parts of a Dict or Tuple space.
    """
    if isinstance(structure, Leaf):
        return read(structure, value)
    if isinstance(structure, dict):
        if not _is_mapping(value) or set(value.keys()) != set(structure):
            raise AdapterError(
                f"{where}: {name} must be a mapping with the keys {sorted(structure)} of its Dict space, "
                f"got {describe(value)}."
            )
        return {key: _read(part, value[key], read, where, f"{name}.{key}") for key, part in structure.items()}
    if not isinstance(value, tuple) or len(value) != len(structure):
        raise AdapterError(f"{where}: {name} must be a tuple of {len(structure)}, got {describe(value)}.")
    return tuple(_read(part, value[i], read, where, f"{name}.{i}") for i, part in enumerate(structure))


def _array(leaf: Leaf, value: Any, where: str) -> Any:
    """One leaf of one env's observation, checked, as a new array of the space's dtype."""
    if type(value) is np.ndarray and value.shape == leaf.shape and value.dtype in leaf.takes_arrays:
        array = value.astype(leaf.array_dtype)
    else:
        array = _tensor(leaf, value, (), _HOST, where).detach().numpy().copy()
    return array[()] if leaf.is_scalar else array


def _tensor(leaf: Leaf, value: Any, lead: tuple[int, ...], device: torch.device, where: str) -> Tensor:
    """One leaf of an observation, checked."""
    if isinstance(value, Tensor):
        tensor = value
    else:
        try:
            tensor = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise AdapterError(f"{where}: {leaf.name} must be numbers, got {describe(value)}.") from error
    if tensor.shape != (*lead, *leaf.shape):
        raise _wrong_shape(leaf, tensor, lead, where)
    if tensor.dtype is not leaf.dtype:
        if tensor.dtype not in leaf.accepts:
            raise AdapterError(
                f"{where}: {leaf.name} has dtype {tensor.dtype}, its space {leaf.dtype}. Convert it, with its scale, "
                "to the space's dtype, or declare another space."
            )
        tensor = tensor.to(leaf.dtype)
    if tensor.device != device:
        tensor = tensor.to(device)
    if tensor.requires_grad and not torch.is_grad_enabled():
        tensor = tensor.detach()
    return tensor


def _wrong_shape(leaf: Leaf, tensor: Tensor, lead: tuple[int, ...], where: str) -> AdapterError:
    expected, got = (*lead, *leaf.shape), tuple(tensor.shape)
    if lead and got[1:] == leaf.shape:
        return AdapterError(
            f"{where}: {leaf.name} came back for {got[0]} envs, {lead[0]} went in. The model must keep the leading "
            "batch axis."
        )
    hint = ""
    if not lead and got == (1, *leaf.shape):
        hint = " Does the model take a leading batch axis? Then give batching='batched'."
    if lead and got == leaf.shape:
        hint = (
            " Is it one env's? A model without a leading batch axis takes batching='vmap', or runs in "
            + ENV_BY_ENV
            + "."
        )
    return AdapterError(f"{where}: {leaf.name} must have shape {expected}, got {got}.{hint}")
