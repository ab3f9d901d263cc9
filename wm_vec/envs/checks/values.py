"""Trees of arrays as environments return them: tensors, NumPy arrays, and dicts and tuples of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_vec.compat import tree_map

Tree = Any
"""A tensor, a NumPy array, or mappings and tuples of trees; batched unless said otherwise."""


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor and array of a tree with its path; other things are passed over."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(tree, (tuple, list)) or (isinstance(tree, np.ndarray) and tree.dtype == object):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}[{i}]")
    elif isinstance(tree, (Tensor, np.ndarray)):
        yield path, tree


def as_numpy(leaf: Any) -> np.ndarray:
    """A NumPy copy of one tensor or array; formats that NumPy does not have become float32."""
    if isinstance(leaf, Tensor):
        host = leaf.detach().cpu()
        return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())
    return np.array(leaf)


def snapshot(tree: Tree) -> Tree:
    """A copy of a tree, in NumPy arrays."""
    return tree_map(as_numpy, tree)


def one_env(tree: Tree, i: Any) -> Tree:
    """One env's part of a batched tree; the tree may also be an object array with one tree per env."""
    return tree_map(lambda leaf: np.asarray(leaf[i]) if isinstance(leaf[i], np.generic) else leaf[i], tree)


def some_envs(tree: Tree, index: Any) -> Tree:
    """Some envs' part of a batched tree: an index array, a mask or a slice."""
    return tree_map(lambda leaf: leaf[index], tree)


def mix_envs(mask: np.ndarray, where_true: Tree, where_false: Tree) -> Tree:
    """Choose env by env between two batched NumPy trees by a ``(B,)`` bool mask."""
    return tree_map(lambda a, b: np.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), where_true, where_false)


def envs_differ(a: Tree, b: Tree, tolerance: float = 0.0) -> np.ndarray:
    """``(B,)`` bool: which envs of two batched NumPy trees of one structure differ by more than rounding.

    The tolerance is absolute below 1 and relative above; 0 asks for the same bits. NaN equals NaN.
    """
    pairs = [(x, y) for (_, x), (_, y) in zip(leaves(a), leaves(b), strict=True)]
    if any(x.shape != y.shape for x, y in pairs):
        return np.ones(len(pairs[0][0]), dtype=bool)
    return np.logical_or.reduce([_unequal(x, y, tolerance).reshape(len(x), -1).any(1) for x, y in pairs])


def trees_equal(a: Tree, b: Tree) -> bool:
    """Whether two NumPy trees hold the same bits (NaN equals NaN)."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return all(x.shape == y.shape and not _unequal(x, y).any() for (_, x), (_, y) in pairs)


def _unequal(x: np.ndarray, y: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    if x.dtype.kind in "fc" and tolerance > 0:
        return ~np.isclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
    return np.asarray((x != y) & ~((x != x) & (y != y)))


def overwrite(tree: Tree) -> None:
    """Write other values into every tensor and array of a tree, once each, where they can be written."""
    seen: set[tuple[Any, ...]] = set()
    for _, leaf in leaves(tree):
        if isinstance(leaf, Tensor):
            place: tuple[Any, ...] = (leaf.data_ptr(), leaf.shape, leaf.stride())
            writeable = all(stride or size < 2 for stride, size in zip(leaf.stride(), leaf.shape, strict=True))
        else:
            place = (leaf.__array_interface__["data"][0], leaf.shape, leaf.strides)
            writeable = leaf.flags.writeable and leaf.dtype.kind in "bifu"
        if writeable and place not in seen:
            seen.add(place)
            with torch.no_grad():
                leaf[...] = ~leaf if leaf.dtype in (torch.bool, np.bool_) else leaf + 2
