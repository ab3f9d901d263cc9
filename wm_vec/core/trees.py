"""Observations of several parts: tensors in nested dicts and tuples, as in Gymnasium's Dict and Tuple spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDictBase, is_tensor_collection
from torch import Tensor

from wm_vec.compat import tree_leaves, tree_map
from wm_vec.spaces import leaves, map_leaves

Tree = Any
"""A tensor ``(B, ...)``, or a dict or tuple of trees."""
OBSERVATION = "observation"


def select_envs(mask: Tensor, where_true: Tree, where_false: Tree) -> Tree:
    """`torch.where` by envs: a ``(B,)`` mask over trees of ``(B, ...)`` tensors."""

    def select(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *(1,) * (a.dim() - 1)), a, b)

    return tree_map(select, where_true, where_false)


def broken_envs(tree: Tree) -> Tensor:
    """``(B,)`` bool: a floating-point number of the env is not finite."""
    leaves = tree_leaves(tree)
    # A finite number less itself is 0, any other NaN, which counts as true. Of no env there is nothing to reshape, but
    # something to flatten.
    broken = [(leaf - leaf)[:, None].flatten(1).any(-1) for leaf in leaves if leaf.is_floating_point()]
    if not broken:
        return torch.zeros(leaves[0].shape[0], dtype=torch.bool, device=leaves[0].device)
    return torch.stack(broken).any(0) if len(broken) > 1 else broken[0]


def in_chunks(fn: Callable[..., Any], size: int, *args: Any) -> Any:
    """`fn` of B envs, called with `size` envs at a time, so that an env's bits do not depend on B.

    Args:
        fn: Takes and returns trees of tensors and TensorDicts with a leading axis of envs.
        size: Envs of a chunk; the last one is padded with copies of the last env.
        args: Of B envs, the first one a TensorDict; what has no such axis goes to every chunk as it is.

    Returns:
        The chunks' results joined; what has no such axis is the first chunk's.
    """
    num_envs, device = args[0].shape[0], args[0].device
    results = []
    for start in range(0, num_envs, size):
        index = torch.arange(start, start + size, device=device).clamp_(max=num_envs - 1)
        try:
            results.append(fn(*tree_map(lambda x, i=index: x[i] if _has_envs(x) else x, args, is_leaf=_is_tensordict)))
        except Exception as error:
            error.add_note(f"The envs ran in chunks of {size}, this one from env {start} on.")
            raise

    def joined(*parts: Any) -> Any:
        if isinstance(parts[0], np.ndarray) and parts[0].ndim:
            return np.concatenate(parts)[:num_envs]
        return torch.cat(parts)[:num_envs] if _has_envs(parts[0]) else parts[0]

    return tree_map(joined, *results, is_leaf=_is_tensordict)


def num_observations(observation: Mapping[str, Tree]) -> int:
    """M of trees of tensors ``(M, ...)``.

    Raises:
        TypeError: Something in them is no tensor.
        ValueError: Parts of different M, or none.
    """
    leaves = tree_leaves(dict(observation))
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            raise TypeError(
                "encode: observations must be torch tensors (M, ...), or dicts and tuples of them, got "
                f"{type(leaf).__name__}. Convert them with torch.as_tensor(...)."
            )
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(f"encode: all parts of the observations must have one leading size M, got {sorted(sizes)}.")
    return sizes.pop()


def copies(tree: Any) -> Any:
    """The same structure with copies of tensors, TensorDicts and arrays; mappings are dicts; the rest is as it is."""

    def own(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return leaf.copy()
        if isinstance(leaf, Tensor) or is_tensor_collection(leaf):
            return leaf.clone()
        # What torch's tree functions know are plain dicts.
        return {key: copies(part) for key, part in leaf.items()} if isinstance(leaf, Mapping) else leaf

    return tree_map(own, tree, is_leaf=_is_tensordict)


def as_entry(tree: Tree) -> Any:
    """A tree as one entry of a TensorDict: tuples become dicts by place, ``"0"``, ``"1"``, ..."""
    if isinstance(tree, Tensor):
        return tree
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {str(key): as_entry(part) for key, part in parts}


def observation_keys(space: gym.Space, nested: bool = False) -> list[Any]:
    """Where a TensorDict has the leaves of an observation.

    Args:
        space: One env's observations.
        nested: Whether the parts of a Dict space stand under ``"observation"``, too, as all other observations do, and
            not under their own keys, where TorchRL's environments have them.
    """
    root = () if isinstance(space, spaces.Dict) and not nested else (OBSERVATION,)
    paths = [(*root, *map(str, path)) for path, _ in leaves(space)]
    return [path[0] if len(path) == 1 else path for path in paths]


def is_nested(tensordict: TensorDictBase, space: gym.Space) -> bool:
    """Whether a TensorDict has the parts of a Dict space under ``"observation"``, as `collect_transitions` gives it."""
    found = tensordict.get(OBSERVATION, None)
    return isinstance(space, spaces.Dict) and _is_tensordict(found) and set(space.spaces) <= set(found.keys())


def observation_in(tensordict: TensorDictBase, space: gym.Space, nested: bool = False) -> Tree:
    """The observation at the `observation_keys` of a TensorDict, in the space's structure."""
    whole = tensordict if isinstance(space, spaces.Dict) and not nested else tensordict.get(OBSERVATION)
    return map_leaves(lambda path, leaf, part: part, space, whole)


def _is_tensordict(value: Any) -> bool:
    return isinstance(value, TensorDictBase)


def _has_envs(value: Any) -> bool:
    return isinstance(value, TensorDictBase) or (isinstance(value, Tensor) and value.dim() > 0)
