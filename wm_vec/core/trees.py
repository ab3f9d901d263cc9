"""Observations of several parts: tensors in nested dicts and tuples, as in Gymnasium's Dict and Tuple spaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor ``(B, ...)``, or a dict or tuple of trees."""


def map_tree(fn: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """The same structure with `fn` of every tensor."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, Mapping):
        return {key: map_tree(fn, part) for key, part in tree.items()}
    return tuple(map_tree(fn, part) for part in tree)


def leaves_of(tree: Tree) -> Iterator[Tensor]:
    """Its tensors, dicts in their own order."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from leaves_of(part)


def join_trees(fn: Callable[[Sequence[Tensor]], Tensor], trees: Sequence[Tree]) -> Tree:
    """One tree of several of the same structure: `fn` of every list of corresponding tensors."""
    first = trees[0]
    if isinstance(first, Tensor):
        return fn(trees)
    if isinstance(first, Mapping):
        return {key: join_trees(fn, [tree[key] for tree in trees]) for key in first}
    return tuple(join_trees(fn, parts) for parts in zip(*trees, strict=True))


def rows_of(tree: Tree, num_rows: int) -> list[Tree]:
    """The tree's rows as trees of batch 1."""

    def row(i: int) -> Tree:
        return map_tree(lambda leaf: leaf[i : i + 1], tree)

    return [row(i) for i in range(num_rows)]


def select_rows(mask: Tensor, where_true: Tree, where_false: Tree) -> Tree:
    """`torch.where` by rows: a ``(B,)`` mask over trees of ``(B, ...)`` tensors."""

    def select(pair: Sequence[Tensor]) -> Tensor:
        return torch.where(mask.view(-1, *(1,) * (pair[0].dim() - 1)), pair[0], pair[1])

    return join_trees(select, [where_true, where_false])


def finite_rows(tree: Tree) -> Tensor:
    """``(B,)`` bool: all floating-point numbers of the row are finite."""
    finite = None
    for leaf in leaves_of(tree):
        if leaf.dtype.is_floating_point:
            rows = torch.isfinite(leaf).reshape(leaf.shape[0], -1).all(-1)
            finite = rows if finite is None else finite & rows
    if finite is None:
        first = next(leaves_of(tree))
        finite = torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
    return finite


def as_entry(tree: Tree) -> Any:
    """What a TensorDict takes as one entry: tuples become dicts by place, ``"0"``, ``"1"``, ..."""
    if isinstance(tree, Tensor):
        return tree
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {str(key): as_entry(part) for key, part in parts}
