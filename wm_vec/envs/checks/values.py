"""Trees of arrays as environments return them: tensors, NumPy arrays, and dicts and tuples of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = Any
"""A tensor, a NumPy array, or mappings and tuples of trees; batched unless said otherwise."""

LAZY_ENTRIES = ("obs_dict", "predictions", "model_state")
"""Entries of info that an environment may make when they are first read."""


def leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    """Every tensor and array of a tree with its path; other things are passed over."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(tree, (tuple, list)) or (isinstance(tree, np.ndarray) and tree.dtype == object):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}[{i}]")
    elif isinstance(tree, (Tensor, np.ndarray)):
        yield path, tree


def read_lazy_entries(info: Any) -> None:
    """Make the entries of `info` that exist only once they are read."""
    for name in LAZY_ENTRIES:
        if name in info:
            info[name]


def as_numpy(leaf: Any) -> np.ndarray:
    """A NumPy copy of one tensor or array; formats that NumPy does not have become float32."""
    if isinstance(leaf, Tensor):
        host = leaf.detach().cpu()
        return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())
    return np.array(leaf)


def snapshot(tree: Tree) -> Tree:
    """A copy of a tree, in NumPy arrays."""
    return map_leaves(as_numpy, tree)


def map_leaves(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """A tree of ``function(leaf, *leaves of the others)``."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, value, *(o[key] for o in others)) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_leaves(function, *values) for values in zip(tree, *others, strict=True))
    return function(tree, *others)


def row(tree: Tree, i: int) -> Tree:
    """One env's part of a batched tree; the tree may also be an object array with one tree per env."""

    def pick(leaf: Any) -> Any:
        one = leaf[i]
        return np.asarray(one) if isinstance(one, np.generic) else one

    return map_leaves(pick, tree)


def plain(one: Tree) -> Tree:
    """One env's value as spaces take it: a 0-d array is its scalar."""
    return one[()] if isinstance(one, np.ndarray) and one.ndim == 0 else one


def rows(tree: Tree, index: Any) -> Tree:
    """Some envs' part of a batched tree: an index array, a mask or a slice."""
    return map_leaves(lambda leaf: leaf[index], tree)


def mix_rows(mask: np.ndarray, where_true: Tree, where_false: Tree) -> Tree:
    """Choose row by row between two batched NumPy trees by a ``(B,)`` bool mask."""
    return map_leaves(lambda a, b: np.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), where_true, where_false)


def rows_differ(a: Tree, b: Tree, tolerance: float) -> np.ndarray:
    """``(B,)`` bool: which rows of two batched NumPy trees differ by more than rounding.

    Args:
        a: A tree.
        b: A tree of the same structure.
        tolerance: Allowed difference, absolute below 1 and relative above; 0 for bit-equal. NaN equals NaN.
    """
    differ: np.ndarray | None = None
    for (_, x), (_, y) in zip(leaves(a, ""), leaves(b, ""), strict=True):
        if x.shape != y.shape:
            return np.ones(len(x), dtype=bool)
        if x.dtype.kind in "fc" and tolerance > 0:
            unequal = ~np.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            unequal = (x != y) & ~((x != x) & (y != y))
        by_row = unequal.reshape(len(x), -1).any(1)
        differ = by_row if differ is None else differ | by_row
    return np.zeros(0, dtype=bool) if differ is None else differ


def trees_equal(a: Tree, b: Tree) -> bool:
    """Whether two NumPy trees hold the same bits (NaN equals NaN)."""
    pairs = zip(leaves(a, ""), leaves(b, ""), strict=True)
    return all(x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all()) for (_, x), (_, y) in pairs)


def overwrite(tree: Tree) -> None:
    """Write other values into every tensor and array of a tree, once each, where they can be written."""
    seen: set[tuple[Any, ...]] = set()
    for _, leaf in leaves(tree, ""):
        if isinstance(leaf, Tensor):
            place: tuple[Any, ...] = (leaf.data_ptr(), leaf.shape, leaf.stride())
            writeable = not any(
                stride == 0 and size > 1 for stride, size in zip(leaf.stride(), leaf.shape, strict=True)
            )
        else:
            place = (leaf.__array_interface__["data"][0], leaf.shape, leaf.strides)
            writeable = leaf.flags.writeable and leaf.dtype.kind in "bifu"
        if place in seen or not writeable:
            continue
        seen.add(place)
        with torch.no_grad():
            leaf[...] = ~leaf if leaf.dtype in (torch.bool, np.bool_) else leaf + 2
