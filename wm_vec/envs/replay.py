"""Real observations out of replay buffers, for imagination to start from."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.core.trees import Tree, is_nested, observation_in, observation_keys
from wm_vec.spaces import without_one_hot

PADDING_MASK = ("collector", "mask")
"""Where TorchRL marks the steps of split trajectories that are real."""


def sampled_observations(source: Any, space: gym.Space, num_states: int) -> Tree:
    """Some observations ``(M, ...)``, M at most `num_states`.

    Args:
        source: A replay buffer of TensorDicts, whose sampler is left alone, or a TensorDict of any batch size, with
            observations, classes also one-hot. Of more than `num_states` torch's generator draws that many, all alike
            likely.
        space: One env's observations.
        num_states: How many.

    Raises:
        TypeError: Another source.
        ValueError: An empty one, or one that lacks observations.
    """
    if isinstance(num_states, bool) or not isinstance(num_states, int) or num_states < 1:
        raise ValueError(f"start_from: num_states must be a whole number of at least 1, got {num_states!r}.")
    found, axes = source, getattr(getattr(source, "storage", None), "ndim", None)
    if axes is not None:
        if len(source) == 0:
            raise ValueError("start_from: the replay buffer is empty; extend it with real transitions first.")
        # Not sample(): a prefetching buffer would hold batches of this size ready for whoever samples next.
        found = source[torch.randperm(len(source))[:num_states]] if axes == 1 else source[:]
    if not isinstance(found, TensorDictBase):
        raise TypeError(
            "start_from: takes a replay buffer of TensorDicts or a TensorDict with observations, got "
            f"{type(source).__name__}{f' of {type(found).__name__}' if found is not source else ''}."
        )
    nested = is_nested(found, space)
    keys = observation_keys(space, nested)
    missing = [key for key in keys if not isinstance(found.get(key, None), Tensor)]
    if missing:
        there = sorted(map(str, found.keys(True, True)))
        raise ValueError(f"start_from: the observations lack {missing}; there is {there}.")
    real = found.get(PADDING_MASK, None)
    if found.batch_size.numel() == 0 or (real is not None and real.device.type != "meta" and not bool(real.any())):
        raise ValueError("start_from: there are no observations to start from.")
    flat = found.select(*keys).reshape(-1)
    if real is not None:
        flat = flat[real.reshape(-1)]
    if flat.shape[0] > num_states:
        flat = flat[torch.randperm(flat.shape[0])[:num_states].to(flat.device or "cpu")]
    return without_one_hot(space, observation_in(flat, space, nested), "start_from")
