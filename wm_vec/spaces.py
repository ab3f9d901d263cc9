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


def box_bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """A Box's bounds as float64 of its shape, infinite where there is none.

    Of whole numbers Gymnasium writes the ends of int32 and int64 for none.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype.kind == "f":
        return low, high
    ends = np.iinfo(np.int32 if space.dtype == np.int32 else np.int64)
    return np.where(low <= float(ends.min), -np.inf, low), np.where(high >= float(ends.max), np.inf, high)


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
    return index, ((hot - write_one_hot(index, counts)).abs() <= tolerance).all(-1)


def write_one_hot(index: Tensor, counts: Sequence[int]) -> Tensor:
    """The inverse of `read_one_hot`, ``(..., n)`` int64; torch's own reads the host to check the classes."""
    columns = zip(index.unbind(-1), counts, strict=True)
    return torch.cat([at.unsqueeze(-1) == torch.arange(n, device=index.device) for at, n in columns], -1).long()


def without_one_hot(space: gym.Space, batch: Tree, where: str) -> Tree:
    """A batch of a space's elements with class indices in place of one-hot vectors, as TorchRL's GymEnv shows classes.

    Args:
        space: The space.
        batch: Tensors ``(M, ...)`` in its structure; class indices stay as they are.
        where: Who asks, for the error.

    Raises:
        ValueError: A vector that is not one-hot.
    """

    def read(path: Path, leaf: gym.Space, part: Tensor) -> Tensor:
        classes = classes_of(leaf)
        if classes is None or isinstance(leaf, spaces.MultiBinary):
            return part
        counts = classes[0].ravel().tolist()
        if part.dim() < 2 or part.shape[1:] == leaf.shape or part.shape[1:].numel() != sum(counts):
            return part
        index, clear = read_one_hot(part.flatten(1), counts)
        if part.device.type != "meta":
            check_one_hot(part, clear, leaf, f"{where}: the observation" + "".join(f"[{key!r}]" for key in path))
        return index.reshape(-1, *(leaf.shape or ())) + torch.as_tensor(classes[1], device=part.device)

    return map_leaves(read, space, batch)


def check_one_hot(hot: Tensor, clear: Tensor, space: gym.Space, where: str) -> None:
    """Refuse vectors ``(M, ...)`` that `read_one_hot` did not find `clear` ``(M,)``; reads the host.

    Raises:
        ValueError: Naming the first one.
    """
    if not bool(clear.all()):
        env = int(clear.logical_not().nonzero()[0])
        raise ValueError(
            f"{where} {env} is {hot[env].tolist()}, no one-hot vector of {space}: that has one 1 for each class, and 0 "
            "elsewhere. Of probabilities, draw one first, or take the argmax."
        )
