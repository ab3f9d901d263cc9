"""How an operation is checked and which implementation runs it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_backends = {"reference"}
_TRITON = find_spec("triton")
_forced_backend: ContextVar[str | None] = ContextVar("wm_kernels_backend", default=None)

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class ContractError(ValueError):
    """A tensor handed to an operation has the wrong shape, dtype or device."""


def inside_functorch() -> bool:
    """Whether tensors may be those of a vmap, grad or the like; torch has no public name for that."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether an implementation may read memory: no functorch, traced or other wrapped tensor."""
    return type(tensor) is Tensor and not torch.compiler.is_compiling() and not inside_functorch()


def is_plain_host_tensor(tensor: Tensor) -> bool:
    """Whether an implementation may read host memory."""
    return tensor.is_cpu and is_plain_tensor(tensor)


def has_kernels(device: torch.device) -> bool:
    """Whether Triton's kernels run on a device: CUDA's or, with ``TRITON_INTERPRET=1``, in host memory."""
    if _TRITON is None:
        return False
    return device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


def wants_graph(*tensors: Tensor | None) -> bool:
    """Whether autograd would record an operation over these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


@dataclass(frozen=True)
class TensorContract:
    """What one tensor argument must be.

    Attributes:
        shape: One entry per axis: an int, or the name of a size that must agree across the arguments.
        dtypes: The dtypes taken.
    """

    shape: tuple[str | int, ...]
    dtypes: tuple[torch.dtype, ...] = FLOATING


Contract = Mapping[str, TensorContract]


def check_contract(op_name: str, contract: Contract, tensors: Mapping[str, Tensor]) -> None:
    """Raise `ContractError` unless every tensor fits its contract and all live on one device."""
    sizes: dict[str, int] = {}
    device = None
    for name, tensor in tensors.items():
        want = contract[name]
        if not isinstance(tensor, Tensor):
            raise ContractError(f"wm_kernels.{op_name}: `{name}` must be a tensor, got {type(tensor).__name__}.")
        shape = tensor.shape
        fits = len(shape) == len(want.shape) and tensor.dtype in want.dtypes
        if fits:
            for axis, size in zip(want.shape, shape, strict=True):
                wanted_size = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
                if size != wanted_size:
                    fits = False
        if not fits:
            known = ", ".join(f"{k}={v}" for k, v in sizes.items())
            raise ContractError(
                f"wm_kernels.{op_name}: `{name}` must have shape ({', '.join(map(str, want.shape))}) "
                f"and dtype {' or '.join(str(d) for d in want.dtypes)}"
                f"{f', where {known}' if known else ''}; got {tuple(shape)}, {tensor.dtype}."
            )
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            raise ContractError(
                f"wm_kernels.{op_name}: `{name}` is on {tensor.device}, the others on {device}. "
                "Move them to one device."
            )


@dataclass
class Op:
    """A callable operation: checks its contract, then runs the fastest implementation that can.

    Attributes:
        name: The operation's one name through op, test and benchmark.
        reference: The specification in torch; always able to run.
        contract: What each tensor argument must be, by parameter name.
        first: Position of the contract's first argument among the operation's; the others follow it.
        implementations: Faster ones by backend name, tried in order: ``(supports, run)``.
    """

    name: str
    reference: Callable[..., Any]
    contract: Contract | None = None
    first: int = 0
    implementations: dict[str, tuple[Callable[..., bool], Callable[..., Any]]] = field(default_factory=dict)

    def register(
        self, backend: str, supports: Callable[..., bool]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate an implementation for `backend`; `supports` sees the arguments and says if it can."""

        def add(run: Callable[..., Any]) -> Callable[..., Any]:
            _backends.add(backend)
            self.implementations[backend] = (supports, run)
            return run

        return add

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the contract, then run the implementation that `choose` names."""
        if self.contract is not None:
            tensors = dict(zip(self.contract, args[self.first :] if self.first else args, strict=False))
            if kwargs:
                tensors.update((name, kwargs[name]) for name in self.contract if name in kwargs)
            check_contract(self.name, self.contract, tensors)
        return self.choose(*args, **kwargs)(*args, **kwargs)

    def choose(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The implementation that a call with these arguments runs; inside `torch.compile` the reference.

        Raises:
            ContractError: `use_backend` names a backend that this operation has but that cannot take the call.
        """
        # Tracing sees through the reference alone; it cannot read context variables either.
        if torch.compiler.is_compiling():
            return self.reference
        forced = _forced_backend.get()
        if forced == "reference":
            return self.reference
        for backend, (supports, run) in self.implementations.items():
            if forced is not None and backend != forced:
                continue
            if supports(*args, **kwargs):
                return run
            if forced is not None:
                raise ContractError(f"wm_kernels.{self.name}: backend {forced!r} cannot take these arguments.")
        return self.reference


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Force one backend inside the block: ``"reference"``, or the name of a registered one.

    Operations without that backend run their reference.
    """
    if not isinstance(backend, str) or backend not in _backends:
        raise ValueError(f"use_backend: known are {', '.join(sorted(_backends))}, got {backend!r}.")
    token = _forced_backend.set(backend)
    try:
        yield
    finally:
        _forced_backend.reset(token)


class Launch(ABC):
    """A launch of a kernel. All of them are one operator of torch, into which torch.compile does not look."""

    def __init__(self) -> None:
        self._register()

    def _register(self) -> None:
        self.number = next(_NUMBERS)
        _LAUNCHES[self.number] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()

    @abstractmethod
    def outputs(self, tensors: Sequence[Any], *settings: int) -> list[Tensor]:
        """New tensors for what the kernel gives, not yet written."""

    @abstractmethod
    def write(self, tensors: Sequence[Any], outputs: list[Tensor], *settings: int) -> None:
        """Launch the kernel, where there is anything to do; all tensors are contiguous."""

    def over(self, tensors: Sequence[Tensor | None], *settings: int) -> list[Tensor]:
        """What the kernel gives over these tensors."""
        return torch.ops.wm_kernels.launch(list(tensors), self.number, list(settings))


_LAUNCHES: WeakValueDictionary[int, Launch] = WeakValueDictionary()
_NUMBERS = count()
_LIBRARY = torch.library.Library("wm_kernels", "DEF")
# A CUDA graph that the compiler makes would not bring packed weights up to date.
_UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)
_LIBRARY.define(
    "launch(Tensor?[] tensors, int number, int[] settings) -> Tensor[]", tags=() if _UNSAFE is None else (_UNSAFE,)
)


@torch.library.register_fake("wm_kernels::launch")
def _outputs(tensors: list[Tensor | None], number: int, settings: list[int]) -> list[Tensor]:
    return _LAUNCHES[number].outputs(tensors, *settings)


@torch.library.impl(_LIBRARY, "launch", "CPU")
@torch.library.impl(_LIBRARY, "launch", "CUDA")
def _launch(tensors: list[Tensor | None], number: int, settings: list[int]) -> list[Tensor]:
    outputs = _LAUNCHES[number].outputs(tensors, *settings)
    if any(output.numel() for output in outputs):
        given = [None if tensor is None else tensor.contiguous() for tensor in tensors]
        _LAUNCHES[number].write(given, outputs, *settings)
    return outputs
