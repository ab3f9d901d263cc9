"""A model's own state, whatever its structure, as named tensors and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.adapters.errors import ENV_BY_ENV, AdapterError, describe

STATE = "state"


class StateCodec:
    """The structure of a state made of tensors: one, or TensorDicts, dicts, tuples and lists of them; None is empty.

    Arrays count as tensors, and the model gets them back as tensors.

    Args:
        example: A state.
        where: The callable that it came from, for errors.
        batching: How the model is run, for errors.
    """

    def __init__(self, example: Any, where: str, batching: str) -> None:
        self._batching = batching
        self._structure = self._of(example, STATE, where)
        self.names = list(_names(self._structure))
        if len({*self.names}) < len(self.names):
            raise AdapterError(f"{where}: two parts of the state go by one name, {sorted(self.names)}: keys with dots.")
        self._single = self._structure if isinstance(self._structure, str) else None

    def flatten(self, state: Any, where: str) -> dict[str, Tensor]:
        """The tensors by name.

        Raises:
            AdapterError: Another structure than the example's.
        """
        if self._single is not None and isinstance(state, Tensor):
            return {self._single: state}
        found: dict[str, Tensor] = {}
        self._collect(self._structure, state, STATE, where, found)
        return found

    def rebuild(self, flat: Any, batch_size: tuple[int, ...]) -> Any:
        """The state in its own structure; TensorDicts in it get `batch_size`."""
        return flat[self._single] if self._single is not None else _rebuild(self._structure, flat, batch_size)

    def _of(self, value: Any, name: str, where: str) -> Any:
        if value is None:
            return None
        if isinstance(value, (Tensor, np.ndarray)):
            return name
        if isinstance(value, TensorDictBase):
            parts = {key: self._of(value.get(key), f"{name}.{key}", where) for key in value.keys()}  # noqa: SIM118
            return ("tensordict", parts)
        if isinstance(value, Mapping):
            return ("dict", {key: self._of(part, f"{name}.{key}", where) for key, part in value.items()})
        if isinstance(value, (tuple, list)):
            return (type(value), [self._of(part, f"{name}.{i}", where) for i, part in enumerate(value)])
        raise AdapterError(
            f"{where}: under batching={self._batching!r} a state is a tensor, a TensorDict, or dicts and tuples of "
            f"tensors, but {name} is {describe(value)}. Make it a tensor, or take {ENV_BY_ENV}."
        )

    def _collect(self, structure: Any, value: Any, name: str, where: str, found: dict[str, Tensor]) -> None:
        if isinstance(structure, str) and isinstance(value, (Tensor, np.ndarray)):
            # An array is its owner's, who may write into it again.
            found[structure] = torch.tensor(value) if isinstance(value, np.ndarray) else value
            return
        if structure is None and value is None:
            return
        if isinstance(structure, tuple):
            _, parts = structure
            if (
                isinstance(parts, dict)
                and isinstance(value, (Mapping, TensorDictBase))
                and set(value.keys()) == {*parts}
            ):
                for key, part in parts.items():
                    self._collect(part, value[key], f"{name}.{key}", where, found)
                return
            if isinstance(parts, list) and isinstance(value, (tuple, list)) and len(value) == len(parts):
                for i, part in enumerate(parts):
                    self._collect(part, value[i], f"{name}.{i}", where, found)
                return
        raise AdapterError(
            f"{where}: {name} changed its structure: it began as {_told(structure)}, now it is {describe(value)}. "
            f"Under batching={self._batching!r} every state has the structure of the first. Other models run in "
            f"{ENV_BY_ENV}."
        )


def _told(structure: Any) -> str:
    if structure is None:
        return "None"
    if isinstance(structure, str):
        return "a tensor"
    kind, parts = structure
    if isinstance(parts, dict):
        return f"a {'TensorDict' if kind == 'tensordict' else 'mapping'} of {sorted(map(str, parts))}"
    return f"{kind.__name__} of {len(parts)}"


def _names(structure: Any) -> Iterator[str]:
    if isinstance(structure, str):
        yield structure
    elif structure is not None:
        parts = structure[1]
        for part in parts.values() if isinstance(parts, dict) else parts:
            yield from _names(part)


def _rebuild(structure: Any, flat: Any, batch_size: tuple[int, ...]) -> Any:
    if structure is None:
        return None
    if isinstance(structure, str):
        return flat[structure]
    kind, parts = structure
    if kind == "tensordict":
        return TensorDict({k: _rebuild(part, flat, batch_size) for k, part in parts.items()}, batch_size=batch_size)
    if kind == "dict":
        return {key: _rebuild(part, flat, batch_size) for key, part in parts.items()}
    values = [_rebuild(part, flat, batch_size) for part in parts]
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


def duplicate(value: Any) -> Any:
    """A deep copy of a state of any kind; tensors in it that hang on a graph, which deepcopy refuses, lose it."""
    try:
        try:
            return copy.deepcopy(value)
        except RuntimeError:
            # Found in the memo, they are not copied again.
            memo: dict[int, Any] = {}
            _detach_into(memo, value, set())
            if not memo:
                raise
            return copy.deepcopy(value, memo)
    except Exception as error:
        error.add_note(
            f"A state of the kind {describe(value)} cannot be copied, but every reset starts with a copy of what is "
            "given, so that episodes start alike. Give reset_fn, which makes a state."
        )
        raise


def _detach_into(memo: dict[int, Any], value: Any, seen: set[int]) -> None:
    """Collect copies of the tensors with a graph in a value, its containers and its attributes, by their ids."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        return
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in (*parts, *getattr(value, "__dict__", {}).values()):
        _detach_into(memo, part, seen)
