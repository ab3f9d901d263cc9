"""Which spaces Stable-Baselines3 has policies for, how it names their parts, and actions that fit them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wm_vec.core.trees import observation_keys
from wm_vec.spaces import Path, leaves

LEAF_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
"""What Stable-Baselines3 takes as an observation, as an entry of a Dict of observations, and as an action."""


def face_keys(space: gym.Space) -> dict[Path, str | None]:
    """The observation's leaves: where they lie in the environment -> key here, without dots; None if there is only one.

    A Dict's are its keys, a Tuple's ``"observation_0"``, ...; what lies deeper adds keys and places to them.

    Raises:
        ValueError: Leaves that no policy takes, or two that would have one key.
    """
    keys: dict[Path, str | None] = {}
    for (path, leaf), entry in zip(leaves(space), observation_keys(space), strict=True):
        check_leaf("the observation space" + "".join(f"'s {key!r}" for key in path), leaf)
        key = "_".join((entry,) if isinstance(entry, str) else entry).replace(".", "_")
        if key in keys.values():
            raise ValueError(
                "SB3VecEnv: Stable-Baselines3 takes no dots and no nests in the keys of observations, and with "
                f"underscores in their place two parts of {space} would be {key!r}; rename one of them."
            )
        keys[path] = key if path else None
    return keys


def check_leaf(what: str, space: gym.Space) -> None:
    """Refuse a space that no policy of Stable-Baselines3 takes.

    Raises:
        ValueError: Naming `what` it is the space of.
    """
    if not isinstance(space, LEAF_SPACES):
        raise ValueError(
            f"SB3VecEnv: {what} is {space}; Stable-Baselines3 takes Box, Discrete, MultiDiscrete and MultiBinary, "
            "for observations also Dict and Tuple of these. Give the environment a space of these."
        )
    if np.any(getattr(space, "start", 0)):
        raise ValueError(f"SB3VecEnv: {what} is {space}; Stable-Baselines3 counts classes from 0. Shift it.")


def checked_actions(actions: Any, space: gym.Space, num_envs: int) -> np.ndarray:
    """A copy of the actions ``(B, *shape)`` in the space's dtype. They are on the host, so their values are checked.

    Raises:
        ValueError: Another shape, a number that is not finite, or no element of a space of whole numbers.
    """
    given = np.asarray(actions)
    shape = (num_envs, *(space.shape or ()))
    if given.shape != shape or given.dtype.kind not in "fiub":
        raise ValueError(
            f"SB3VecEnv.step: actions must be numbers of shape {shape}, got shape {given.shape}, {given.dtype}."
        )
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        bad, wanted = ~np.isfinite(given), "finite numbers"
    elif isinstance(space, spaces.Box):
        bad = ~((given >= space.low) & (given <= space.high) & (given % 1 == 0))
        wanted = f"whole numbers of {space} (round what a policy gives)"
    else:
        classes = 2 if isinstance(space, spaces.MultiBinary) else getattr(space, "nvec", getattr(space, "n", 0))
        bad, wanted = ~((given >= 0) & (given < classes) & (given % 1 == 0)), f"elements of {space}"
    if bad.any():
        env = int(np.argwhere(bad)[0][0])
        raise ValueError(f"SB3VecEnv.step: actions must be {wanted}, got {given[env]} for env {env}.")
    return given.astype(space.dtype)
