"""The one walk over the parts of Gymnasium's Dict and Tuple spaces, nested at will; and classes as one-hot vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

Path = tuple[str | int, ...]
"""Where a leaf lies: keys of Dict and places of Tuple spaces, ``("camera", 0)``; ``()`` is the space itself."""
Tree = Any
"""What a space holds: a leaf's value, or a dict or tuple of trees."""
ONE_HOT_TOLERANCE = 1e-3
"""What straight-through estimators, ``hot + probs - probs.detach()``, leave of a 1 or a 0 lies within this."""


def map_leaves(fn: Callable[..., Any], space: gym.Space, *trees: Tree, path: Path = ()) -> Tree:
    """``fn(path, leaf, *values)`` of every leaf of a space, what is no Dict or Tuple, in the space's structure.

    Args:
        fn: Called for the leaves in order.
        space: The space.
        trees: In its structure; what is no tuple, as a TensorDict, has the parts of a Tuple under ``"0"``, ``"1"``, ...
        path: Where the space itself lies.
    """
    if isinstance(space, spaces.Dict):
        return {
            key: map_leaves(fn, part, *(tree[key] for tree in trees), path=(*path, key))
            for key, part in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            map_leaves(fn, part, *(tree[i if isinstance(tree, tuple) else str(i)] for tree in trees), path=(*path, i))
            for i, part in enumerate(space.spaces)
        )
    return fn(path, space, *trees)


def leaves(space: gym.Space) -> list[tuple[Path, gym.Space]]:
    """Path and space of every leaf, in order."""
    found: list[tuple[Path, gym.Space]] = []
    map_leaves(lambda path, leaf: found.append((path, leaf)), space)
    return found


def dotted(*names: str | int) -> str:
    """A leaf's name: ``"observation.camera.0"``."""
    return ".".join(map(str, names))


def space_of_parts(tree: Tree) -> gym.Space:
    """A space, or the Dict or Tuple space of a tree of spaces."""
    if isinstance(tree, Mapping):
        return spaces.Dict([(key, space_of_parts(part)) for key, part in tree.items()])
    return spaces.Tuple([space_of_parts(part) for part in tree]) if isinstance(tree, tuple) else tree


def classes_of(leaf: gym.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """Of every element of a Discrete, MultiDiscrete or MultiBinary space, the number of its classes and the first one.

    Returns:
        Two int64 arrays of the leaf's shape; None of a space of numbers.
    """
    if isinstance(leaf, spaces.MultiBinary):
        return np.full(leaf.shape, 2), np.zeros(leaf.shape, np.int64)
    if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)):
        count = leaf.n if isinstance(leaf, spaces.Discrete) else leaf.nvec
        return np.asarray(count, np.int64), np.asarray(leaf.start, np.int64)
    return None


def read_one_hot(hot: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The classes that one-hot vectors stand for; reads nothing on the host.

    Args:
        hot: ``(..., n)`` of any real dtype, k vectors side by side.
        counts: Their k lengths, n in all.

    Returns:
        ``(..., k)`` int64, the classes; and ``(...)`` bool, whether each vector is a 1 among 0s, within
        `ONE_HOT_TOLERANCE` or what its dtype resolves. Of others, the class is that of the largest entry.
    """
    tolerance = max(ONE_HOT_TOLERANCE, torch.finfo(hot.dtype).eps if hot.is_floating_point() else 0.0)
    hot = hot.to(torch.promote_types(hot.dtype, torch.float32))
    parts = hot.split(list(counts), -1)
    index = torch.stack([part.argmax(-1) for part in parts], -1)
    ones = [torch.nn.functional.one_hot(at, n) for at, n in zip(index.unbind(-1), counts, strict=True)]
    return index, ((hot - torch.cat(ones, -1)).abs() <= tolerance).all(-1)
