"""Functions of tensors captured as CUDA graphs over static buffers, and what may be captured at all."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wm_vec.compat import tree_flatten, tree_leaves, tree_unflatten

ALIGNMENT = 16
"""Bytes that every output in an arena is aligned to."""
WARMUPS = 2
SMALL = 64
"""Elements up to which a constant is compared by value."""


class Graph(Protocol):
    """A run of device work that can be repeated."""

    def replay(self) -> None:
        """Do the work again, over the same buffers."""


def _without_draws(device: torch.device) -> AbstractContextManager[None]:
    """Random numbers that are drawn inside are drawn again afterwards."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class CudaGraph:
    """A CUDA graph of `run`, which is called a few times before: kernels are loaded and caches filled then."""

    def __init__(self, run: Callable[[], None]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), _without_draws(torch.device("cuda", torch.cuda.current_device())):
            for _ in range(WARMUPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            run()

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()


GRAPHS: dict[str, Callable[[Callable[[], None]], Graph]] = {"cuda": CudaGraph}
"""By type of device, what captures."""


class Slot(NamedTuple):
    """Where an output lies in the arena: its first byte, dtype and shape."""

    start: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, arena: Tensor) -> Tensor:
        """The output as a view of an arena."""
        size = self.shape.numel() * self.dtype.itemsize
        return arena[self.start : self.start + size].view(self.dtype).view(self.shape)


class Template:
    """A tree without its tensors.

    Args:
        tree: Trees of tensors; whatever else is in it is part of the template.

    Attributes:
        tensors: The tree's, in order.
    """

    def __init__(self, tree: Any) -> None:
        leaves, self._structure = tree_flatten(tree)
        self.tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._others = [_HERE if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def filled(self, tensors: Iterable[Tensor]) -> Any:
        """The tree with these tensors."""
        given = iter(tensors)
        return tree_unflatten([next(given) if leaf is _HERE else leaf for leaf in self._others], self._structure)

    @property
    def key(self) -> Hashable:
        """Equal for trees that one graph serves."""
        return tuple(self._others), tuple((tensor.shape, tensor.dtype) for tensor in self.tensors)


_HERE = object()


class Captured:
    """A pure function of trees of tensors as one graph.

    Its outputs lie in one byte tensor, the arena, which a caller gets a clone of, or views. Its first argument is a
    state that is carried on, which comes back as the first part of its result: the buffers of that argument are the
    arena's own, so that replays follow each other without a copy.

    Args:
        fn: ``(state, *others) -> (state, output)``; it reads nothing on the host, and of other tensors what stays where
            it is.
        arguments: As it will be called with; copied.
    """

    def __init__(self, fn: Callable[..., Any], *arguments: Any) -> None:
        given = Template(arguments)
        self._fn, self._arguments = fn, given
        self._num_carried = len(Template(arguments[0]).tensors)
        with _without_draws(given.tensors[0].device):
            returned = Template(fn(*arguments))
        self._slots, size, self._block = _layout(returned.tensors, given.tensors)
        self._arena = torch.empty(size, dtype=torch.uint8, device=given.tensors[0].device)
        views = [slot.of(self._arena) for slot in self._slots]
        self._buffers = views[: self._num_carried] + [leaf.clone() for leaf in given.tensors[self._num_carried :]]
        self._latest: Any = None
        self._load(given.tensors)
        self._graph = GRAPHS[self._arena.device.type](self._run)
        self._returned, self._views = returned, returned.filled(views)
        given.tensors = returned.tensors = []

    def __call__(self, copy: bool, *arguments: Any) -> Any:
        """The function's result.

        Args:
            copy: Whether to clone the arena, once; otherwise the result is overwritten by the next call.
            arguments: As at the start; the state is not read where it is the one that came back last.
        """
        tensors = Template(arguments).tensors
        known = self._latest is not None and arguments[0] is self._latest
        self._load(tensors, self._num_carried if known else 0)
        self._graph.replay()
        result = self._views
        if copy:
            arena = self._arena.clone()
            views = {slot: slot.of(arena) for slot in dict.fromkeys(self._slots)}
            result = self._returned.filled(views[slot] for slot in self._slots)
        self._latest = result[0]
        return result

    def _load(self, tensors: Sequence[Tensor], first: int = 0) -> None:
        if tensors[first:]:
            torch._foreach_copy_(self._buffers[first:], list(tensors[first:]))

    def _run(self) -> None:
        """The function over the buffers, and its outputs into the arena."""
        outputs = Template(self._fn(*self._arguments.filled(self._buffers))).tensors
        into, source = [], []
        block = None if self._block is None else outputs[self._block].untyped_storage()
        if block is not None:
            whole = torch.empty(0, dtype=torch.uint8, device=self._arena.device).set_(block)
            into, source = [self._arena[: len(whole)]], [whole]
        moved = 0 if block is None else block.nbytes()
        for slot, leaf in dict(zip(self._slots, outputs, strict=True)).items():
            view = slot.of(self._arena)
            if slot.start >= moved and leaf.data_ptr() != view.data_ptr():
                into.append(view)
                source.append(leaf)
        torch._foreach_copy_(into, source)


def _layout(outputs: Sequence[Tensor], given: Sequence[Tensor]) -> tuple[list[Slot], int, int | None]:
    """Slots of the outputs, the arena's size in bytes, and an output whose whole storage is the arena's beginning.

    That is the storage of most outputs, where it holds little else: one copy moves them all.
    """
    pointers = [leaf.untyped_storage().data_ptr() for leaf in outputs]
    theirs = {leaf.untyped_storage().data_ptr() for leaf in given}
    sharing: dict[int, list[int]] = {pointer: [] for pointer in pointers if pointer not in theirs}
    for i, (pointer, leaf) in enumerate(zip(pointers, outputs, strict=True)):
        if pointer in sharing and leaf.is_contiguous():
            sharing[pointer].append(i)
    members = max(sharing.values(), key=len, default=[])
    block, size = None, 0
    if len(members) > 2:
        block, size = members[0], outputs[members[0]].untyped_storage().nbytes()
    slots: dict[Any, Slot] = {}
    keys = [(leaf.data_ptr(), leaf.shape, leaf.stride(), leaf.dtype) for leaf in outputs]
    for i, (key, leaf) in enumerate(zip(keys, outputs, strict=True)):
        if key in slots:
            continue
        if block is not None and i in members:
            start = int(leaf.storage_offset()) * leaf.itemsize
        else:
            start = -(-size // ALIGNMENT) * ALIGNMENT
            size = start + leaf.nbytes
        slots[key] = Slot(start, leaf.dtype, leaf.shape)
    return [slots[key] for key in keys], -(-size // ALIGNMENT) * ALIGNMENT, block


class Captures:
    """The graphs of one engine, made when they are needed; a copy of it is a new one without any."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[Hashable, Captured]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Captures, ()

    def run(
        self, what: Hashable, addresses: Hashable, copy: bool, fn: Callable[..., Any], state: Any, *others: Any
    ) -> tuple[Any, Any]:
        """``fn(state, *others)`` through the graph of `what`.

        Args:
            what: Which function this is.
            addresses: Where what it reads besides lies; elsewhere, it is captured anew.
            copy: See `Captured`.
            fn: See `Captured`.
            state: Likewise.
            others: Likewise.
        """
        key = what, Template(others).key
        known, captured = self._found.get(key, (None, None))
        if captured is None or known != addresses:
            captured = Captured(fn, state, *others)
            self._found[key] = addresses, captured
        return captured(copy, state, *others)


class Recorder(TorchDispatchMode):
    """Writes down the operations inside, with all that a graph would freeze of them.

    Args:
        inputs: The tensors that change from call to call.
        device: Where the work is.
        draws: Whether random draws are allowed.

    Attributes:
        operations: What was run.
        problem: The first thing that cannot be captured; None for nothing.
    """

    def __init__(self, inputs: Sequence[Tensor], device: torch.device, draws: bool) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.problem: str | None = None
        self._device, self._draws = device, draws
        self._fed = {id(tensor) for tensor in inputs}
        self._alive: list[Any] = [*inputs]  # ids stay theirs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        leaves = tree_leaves((args, kwargs or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        tags, name = func.tags, str(func)
        if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
            self._refuse(f"it reads values on the host ({name})")
        if torch.Tag.nondeterministic_seeded in tags and not self._draws:
            self._refuse(f"it draws random numbers ({name})")
        for tensor in tensors:
            if tensor.device.type != self._device.type and (tensor.dim() or id(tensor) not in self._fed):
                self._refuse(f"it works on {tensor.device}, not on {self._device} ({name})")
        constants = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        frozen = [self._value(tensor) for tensor in tensors if id(tensor) not in self._fed]
        self.operations.append((name, constants, frozen))
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._alive.append(made)
        if len(frozen) < len(tensors) or torch.Tag.nondeterministic_seeded in tags:
            self._fed.update(map(id, made))
        return result

    def _refuse(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _value(self, tensor: Tensor) -> Any:
        """What a graph freezes of a tensor that does not follow from the inputs: its address; a small one's value."""
        if tensor.device.type == "cpu" and tensor.numel() <= SMALL:
            return tensor.tolist()  # inside `__torch_dispatch__` the mode is off
        return tensor.data_ptr() if tensor.device.type != "meta" else tuple(tensor.shape)


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
        recorder = Recorder(tree_leaves(list(arguments)), device, draws)
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
