"""From real observations to the states of a dynamics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.compat import tree_leaves
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.perspective import Perspective
from wm_vec.core.resets import BANK_SEED
from wm_vec.core.rng import CounterRNG
from wm_vec.core.trees import Tree


@torch.no_grad()
def encoded(
    dynamics: Dynamics,
    perspectives: Sequence[Perspective],
    like: Tree,
    observation: Mapping[str, Tree],
    rng: CounterRNG | None,
) -> TensorDictBase:
    """States ``(M,)`` at which the perspectives see the observations.

    Args:
        dynamics: One that can `encode`.
        perspectives: Who saw them.
        like: The dynamics' observation of no env, ``(0, ...)``.
        observation: Perspective name -> ``(M, ...)``, of those that saw something.
        rng: Counters ``(M,)``; None for those of a bank.

    Raises:
        TypeError: The dynamics cannot encode.
        ValueError: Another number of observations than of counters, or observations that do not fit.
    """
    if not isinstance(observation, Mapping):
        names = [view.name for view in perspectives]
        raise TypeError(f"encode: give a mapping from {names} to observations, got {type(observation).__name__}.")
    size = num_observations(observation)
    if rng is None:
        rng = CounterRNG.from_seeds(torch.arange(BANK_SEED, BANK_SEED + size, device=dynamics.device))
    if size != len(rng.seed):
        raise ValueError(f"encode: {len(rng.seed)} observations are needed, one for each state, got {size}.")
    seen = [view.whole(observation[view.name], like) for view in perspectives if view.name in observation]
    whole = seen[0]  # each is its part of one flat observation, NaN elsewhere
    for part in seen[1:]:
        whole = torch.where(whole.isnan(), part, whole)
    return dynamics.encode(whole, rng)


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
