"""What a function of tensors does, and whether a graph of it may stand in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wm_vec.compat import StorageWeakRef, tree_leaves

SMALL = 64
"""Elements up to which a constant is compared by value."""


class Outside(TorchDispatchMode):
    """Collects the tensors that are read inside and were not made there.

    Args:
        inputs: Tensors that do not count.

    Attributes:
        tensors: One of each storage.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self._known = {_storage(tensor) for tensor in inputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and self._is_new(leaf):
                self.tensors.append(leaf)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._is_new(leaf)
        return result

    def _is_new(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        new = storage not in self._known
        self._known.add(storage)
        return new


class Recorder(TorchDispatchMode):
    """Writes down the operations inside, with all that a graph would freeze of them.

    Args:
        inputs: The tensors that change from call to call; what is none is passed over.
        device: Where the work is.
        draws: Whether random draws are allowed.
        writes: Whether tensors from outside may be written into.

    Attributes:
        operations: What was run.
        problem: The first thing that cannot be captured; None for nothing.
    """

    def __init__(
        self, inputs: Iterable[Any], device: torch.device, *, draws: bool = False, writes: bool = False
    ) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.problem: str | None = None
        self._device, self._draws, self._writes = device, draws, writes
        # Storages that follow from the inputs; those, and what was made inside; and all others.
        self._fed = {_storage(tensor) for tensor in inputs if isinstance(tensor, Tensor)}
        self._inside, self._outside = {*self._fed}, set[StorageWeakRef]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        outside = [tensor for tensor in tensors if _storage(tensor) not in self._inside]
        self._outside.update(map(_storage, outside))
        tags, name = func.tags, str(func)
        # The shape of an indexing depends on values where an index is a mask; of that, writing says nothing.
        shaped = torch.Tag.dynamic_output_shape in tags and not name.startswith("aten.index.")
        masked = name.startswith(("aten.index.", "aten.index_put", "aten._index_put")) and _has_mask(args[1])
        if torch.Tag.data_dependent_output in tags or shaped or masked:
            self._refuse(f"it reads values on the host ({name})")
        if torch.Tag.nondeterministic_seeded in tags and not self._draws:
            self._refuse(f"it draws random numbers ({name})")
        # Arithmetic takes a number in host memory as it is; all else copies it to the device, which waits.
        takes = all(map(self._is_number, tensors)) or (torch.Tag.pointwise in tags and "where" not in name)
        for tensor in tensors:
            if tensor.device.type != self._device.type and not (takes and self._is_number(tensor)):
                self._refuse(f"it works on {tensor.device}, not on {self._device} ({name})")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write and not self._writes
            if written and any(leaf is tensor for leaf in tree_leaves(value) for tensor in outside):
                self._refuse(f"it writes into a tensor that it keeps ({name})")
        constants = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        self.operations.append((name, repr(constants), [self._value(tensor) for tensor in outside]))
        fed = any(_storage(tensor) in self._fed for tensor in tensors)
        result = func(*args, **(kwargs or {}))
        made = {_storage(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)} - self._outside
        self._inside |= made
        if fed or torch.Tag.nondeterministic_seeded in tags:
            self._fed |= made
        return result

    def _refuse(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _is_number(self, tensor: Tensor) -> bool:
        """Whether it is a constant in host memory, such as the 2.0 of ``2.0 * x`` under vmap."""
        return not tensor.dim() and tensor.is_cpu and _storage(tensor) not in self._fed

    def _value(self, tensor: Tensor) -> Any:
        """What a graph freezes of a tensor that does not follow from the inputs: its address; a small one's value."""
        if tensor.device.type == "cpu" and tensor.numel() <= SMALL:
            return tensor.tolist()  # inside `__torch_dispatch__` the mode is off
        return tensor.data_ptr() if tensor.device.type != "meta" else tuple(tensor.shape)


def _storage(tensor: Tensor) -> StorageWeakRef:
    """A storage's identity; while the reference is kept, no other storage is given it."""
    return StorageWeakRef(tensor.untyped_storage())


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def why_not_captured(
    fn: Callable[..., Any], examples: Sequence[Sequence[Any]], device: torch.device, draws: bool = False
) -> str | None:
    """Why a function cannot be captured; None where it can, as far as a trial shows.

    It is run on two different examples. What differs between the two in operations and constants would be frozen, and
    so would what reads the host. A Python number that changes later cannot be seen: keep it in a tensor, and write
    into it.

    Args:
        fn: The function.
        examples: Two lists of arguments, trees of tensors.
        device: Where it runs.
        draws: Whether random draws are allowed.
    """
    recorded = []
    for arguments in examples:
        recorder = Recorder(tree_leaves(list(arguments)), device, draws=draws)
        try:
            with recorder:
                fn(*arguments)
        except Exception as error:  # what it raises when it runs is another matter; it shows there
            return f"it raises {type(error).__name__} when it is tried"
        if recorder.problem is not None:
            return recorder.problem
        recorded.append(recorder.operations)
    if recorded[0] != recorded[1]:
        return "it does something else at each call"
    return None
