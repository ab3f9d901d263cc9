"""Python objects as a column of an engine's state."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_vec.adapters.errors import describe

_SELECT: set[Callable[..., Any]] = {
    torch.where,
    torch.cat,
    torch.stack,
    Tensor.__getitem__,
    Tensor.clone,
    Tensor.expand,
    Tensor.reshape,
    Tensor.view,
    Tensor.unsqueeze,
    Tensor.index_copy,
    Tensor.index_select,
    Tensor.to,
    Tensor.detach,
}
"""Operations whose result is made of elements of their arguments."""
_handles = itertools.count(1)


class _Copy:
    """An object to be copied when it is first asked for."""

    def __init__(self, original: Any) -> None:
        self.original = original


class ObjectTensor(Tensor):
    """An int64 tensor each element of which stands for a Python object, and which keeps those objects alive.

    With it the engine resets, restores and forks states that are no tensors. Indexing and cloning give elements that
    stand for copies (`copy.deepcopy`; made when first read after indexing, at once by ``clone``), so that episodes
    drawn from the same place of a bank never share an object; `torch.where` and the like pass the objects on.
    """

    table: dict[int, Any]

    @classmethod
    def of(cls, objects: Sequence[Any]) -> ObjectTensor:
        """``(B,)``, one element per object; no copies."""
        handles = [next(_handles) for _ in objects]
        return cls._standing_for(torch.tensor(handles, dtype=torch.int64), dict(zip(handles, objects, strict=True)))

    @classmethod
    def _standing_for(cls, handles: Tensor, table: dict[int, Any]) -> ObjectTensor:
        result = handles.as_subclass(cls)
        result.table = table
        return result

    def objects(self) -> list[Any]:
        """The objects themselves, in row-major order."""
        with torch._C.DisableTorchFunctionSubclass():
            handles = self.tolist() if self.dim() == 1 else self.reshape(-1).tolist()
        return [self.find(handle) for handle in handles]

    def find(self, handle: int) -> Any:
        """The object that a handle stands for."""
        found = self.table[handle]
        if isinstance(found, _Copy):
            found = self.table[handle] = duplicate(found.original)
        return found

    def later(self, handle: int) -> Any:
        """A copy of the object that a handle stands for, to be made when it is asked for."""
        found = self.table[handle]
        return found if isinstance(found, _Copy) else _Copy(found)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Plain results, except from what selects among elements."""
        if func is Tensor.__setitem__:
            raise TypeError("Objects are not written in place; pick them with torch.where, or save and restore states.")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if func not in _SELECT or not isinstance(result, Tensor) or result.dtype is not torch.int64:
                return result
            handles = result.reshape(-1).tolist()
            if func in (Tensor.__getitem__, Tensor.clone):
                source, eager = args[0], func is Tensor.clone
                objects = [duplicate(source.find(h)) if eager else source.later(h) for h in handles]
                fresh = [next(_handles) for _ in objects]
                table = dict(zip(fresh, objects, strict=True))
                return cls._standing_for(torch.tensor(fresh, dtype=torch.int64).reshape(result.shape), table)
            table = {}
            for source in _sources([*args, *(kwargs or {}).values()]):
                table.update((handle, source.table[handle]) for handle in handles if handle in source.table)
            return cls._standing_for(result.as_subclass(Tensor), table)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.objects(), tuple(self.shape))

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectTensor:
        return _rebuild(copy.deepcopy(self.objects(), memo), tuple(self.shape))


def duplicate(value: Any) -> Any:
    """A deep copy; tensors in it that hang on a graph, which deepcopy refuses, are copied without it."""
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
            f"A state of the kind {describe(value)} cannot be copied, but states are copied when episodes start from a "
            "bank, and when they are forked or restored. The scalar WorldModelEnv with a reset does without."
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


def _rebuild(objects: list[Any], shape: tuple[int, ...]) -> ObjectTensor:
    column = ObjectTensor.of(objects)
    with torch._C.DisableTorchFunctionSubclass():
        handles = column.reshape(shape).as_subclass(Tensor)
    return ObjectTensor._standing_for(handles, column.table)


def _sources(args: Sequence[Any]) -> list[ObjectTensor]:
    """The object tensors among arguments, in lists too."""
    found: list[ObjectTensor] = []
    for arg in args:
        if isinstance(arg, ObjectTensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found += _sources(arg)
    return found
