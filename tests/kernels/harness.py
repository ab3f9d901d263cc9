"""One harness, with one table of tolerances, that holds implementations of operations to their references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels import Op, use_backend

TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-11},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 5e-3, "atol": 5e-3},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}
"""Largest difference from the reference by dtype of the output; integers and flags must be equal."""


def assert_matches_reference(op: Op, args: Sequence[Any], *, backend: str, exact: bool = False) -> Any:
    """Run one implementation of `op` and the reference on the same arguments, and compare what they return.

    The implementation must give the reference's structure, shapes, dtypes and values, NaN where the reference
    has NaN, and leave its arguments as they were.

    Args:
        op: The operation.
        args: Its arguments, positional.
        backend: Which implementation; it must be registered and take these arguments.
        exact: Floats must be equal bit for bit.

    Returns:
        What the implementation gave.
    """
    before = [t.clone() for t in tensors_in(args)]
    with use_backend("reference"):
        expected = op(*args)
    with use_backend(backend):
        assert op.choose(*args) is op.implementations[backend][1], f"{op.name}: {backend!r} was not chosen"
        got = op(*args)
    for i, (tensor, copy) in enumerate(zip(tensors_in(args), before, strict=True)):
        assert torch.equal(tensor.nan_to_num(), copy.nan_to_num()), f"{op.name}: argument tensor {i} was written to"
    ours, theirs = list(tensors_in([got])), list(tensors_in([expected]))
    assert len(ours) == len(theirs), f"{op.name}: {len(ours)} tensors returned, the reference returns {len(theirs)}"
    for i, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        where = f"{op.name}, output {i}"
        assert mine.shape == reference.shape, f"{where}: shape {tuple(mine.shape)}, not {tuple(reference.shape)}"
        assert mine.dtype == reference.dtype, f"{where}: {mine.dtype}, not {reference.dtype}"
        if exact or not reference.dtype.is_floating_point:
            same = (mine == reference) | (mine.isnan() & reference.isnan())
            assert bool(same.all()), f"{where}: {int((~same).sum())} of {same.numel()} elements differ"
        else:
            torch.testing.assert_close(
                mine, reference, equal_nan=True, msg=lambda m, w=where: f"{w}: {m}", **TOLERANCES[reference.dtype]
            )
    return got


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in nested sequences and dataclasses, in order."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors_in(value)
    elif hasattr(values, "__dataclass_fields__"):
        for name in values.__dataclass_fields__:
            yield from tensors_in(getattr(values, name))
