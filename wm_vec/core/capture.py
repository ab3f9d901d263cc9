"""Functions of tensors captured as CUDA graphs over static buffers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor

from wm_kernels.dispatch import inside_functorch
from wm_vec.compat import tree_flatten, tree_unflatten
from wm_vec.core.probe import Outside

ALIGNMENT = 16
"""Bytes that every output in an arena is aligned to."""
WARMUPS = 2
MOST_KEPT = 16
"""Graphs of one engine, and policies that it knows."""


class Graph(Protocol):
    """A run of device work that can be repeated."""

    def replay(self) -> None:
        """Do the work again, over the same buffers."""


def _without_draws(device: torch.device) -> AbstractContextManager[None]:
    """Random numbers that are drawn inside are drawn again afterwards."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class CudaGraph:
    """A CUDA graph of `run`, which is called a few times before: kernels are loaded and caches filled then.

    Args:
        run: Device work over buffers that stay where they are.
        device: Where it is.
        warmups: How often it is called before.
    """

    def __init__(self, run: Callable[[], None], device: torch.device, warmups: int = WARMUPS) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            with beside(device), _without_draws(device):
                for _ in range(warmups):
                    run()
            # Only this thread's calls count: another one, such as a data loader's, may allocate meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                run()

    def replay(self) -> None:
        """Launch the graph."""
        with torch.cuda.device(self._device):
            self._graph.replay()


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Inside, work goes to a stream of its own, as torch wants it before a capture; in order with the caller's."""
    if device.type != "cuda":
        yield
        return
    side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


GRAPHS: dict[str, Callable[..., Graph]] = {"cuda": CudaGraph}
"""By type of device, what captures; called as `CudaGraph` is."""


def may_capture(device: torch.device) -> bool:
    """Whether work can be captured, or a graph replayed, here and now."""
    if device.type not in GRAPHS or torch.compiler.is_compiling() or inside_functorch():
        return False
    # Somebody else captures: our work is a part of theirs.
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def mode_key() -> Hashable:
    """What torch and tensordict hold for all code, and a graph would freeze: how policies draw, and in which dtype."""
    return interaction_type(), *(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


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


def map_tensors(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The tree with `fn` of each tensor."""
    template = Template(tree)
    return template.filled(map(fn, template.tensors))


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
        device = given.tensors[0].device
        self._fn, self._arguments = fn, given
        self._num_carried = len(Template(arguments[0]).tensors)
        with _without_draws(device), Outside(given.tensors) as outside:
            returned = Template(fn(*arguments))
        # A graph holds addresses alone: what it reads must not be freed.
        self._outside = [(tensor, tensor.data_ptr()) for tensor in outside.tensors]
        self._slots, size, self._block = _layout(returned.tensors, given.tensors)
        self._arena = torch.empty(size, dtype=torch.uint8, device=device)
        views = [slot.of(self._arena) for slot in self._slots]
        self._buffers = views[: self._num_carried] + [leaf.clone() for leaf in given.tensors[self._num_carried :]]
        self._latest: Any = None
        self._load(given.tensors)
        self._graph = GRAPHS[device.type](self._run, device)
        self._returned, self._views = returned, returned.filled(views)
        given.tensors = returned.tensors = []

    def __call__(self, copy: bool, *arguments: Any) -> Any:
        """The function's result.

        Args:
            copy: Whether to clone the arena, once; otherwise the result is overwritten by the next call.
            arguments: As at the start; the state is not read where it is the one that came back last.
        """
        known = self._latest is not None and arguments[0] is self._latest
        first = self._num_carried if known else 0
        self._load(Template(arguments[1:] if known else arguments).tensors, first)
        self._graph.replay()
        result = self._views
        if copy:
            arena = self._arena.clone()
            views = {slot: slot.of(arena) for slot in dict.fromkeys(self._slots)}
            result = self._returned.filled(views[slot] for slot in self._slots)
        self._latest = result[0]
        return result

    @property
    def is_valid(self) -> bool:
        """Whether all that it reads besides its arguments is where it was."""
        return all(tensor.data_ptr() == address for tensor, address in self._outside)

    def _load(self, tensors: Sequence[Tensor], first: int = 0) -> None:
        if tensors:
            torch._foreach_copy_(self._buffers[first:], list(tensors))

    def _run(self) -> None:
        """The function over the buffers, and its outputs into the arena."""
        outputs = Template(self._fn(*self._arguments.filled(self._buffers))).tensors
        into, source = [], []
        block = None if self._block is None else outputs[self._block].untyped_storage()
        if block is not None:
            whole = torch.empty(0, dtype=torch.uint8, device=self._arena.device).set_(block)
            into, source = [self._arena[: len(whole)]], [whole]
        moved, arena = 0 if block is None else block.nbytes(), self._arena.untyped_storage().data_ptr()
        for slot, leaf in dict(zip(self._slots, outputs, strict=True)).items():
            view = slot.of(self._arena)
            if slot.start < moved or leaf.data_ptr() == view.data_ptr():
                continue
            if leaf.untyped_storage().data_ptr() == arena:  # of the state before, which is overwritten below
                view.copy_(leaf)
                continue
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
        key = what, Template(others).key, mode_key()
        known, captured = self._found.get(key, (None, None))
        if captured is None or known != addresses or not captured.is_valid:
            # What is made in inference mode could not be written into outside of it.
            with torch.inference_mode(False), torch.no_grad():
                captured = Captured(fn, state, *others)
            self._found.pop(key, None)
            self._found[key] = addresses, captured
            drop_oldest(self._found)
        return captured(copy, state, *others)


def drop_oldest(found: dict[Any, Any]) -> None:
    """Keep the latest entries alone: what is made anew for each call, such as a lambda, does not come again."""
    while len(found) > MOST_KEPT:
        del found[next(iter(found))]
