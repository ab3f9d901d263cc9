"""The entries of nested observations: what is neither a Dict nor a Tuple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from wm_vec.spaces import Path

LETTERS = 40
"""Of a value without numbers."""


def entry(observation: Any, space: Any, path: tuple[Any, ...]) -> np.ndarray | str:
    """The entry at `path` of one env's observation: an array where its space has numbers, else a short text.

    Raises:
        ValueError: The observation does not fit the space.
    """
    for i, key in enumerate(path):
        named = isinstance(space, Dict)
        expected = f"the keys {list(space.spaces)}" if named else f"a tuple of {len(space.spaces)} parts"
        if not isinstance(observation, Mapping if named else tuple | list):
            raise _misfit(path[:i], expected, f"a {type(observation).__name__}")
        if named and set(observation) != set(space.spaces):
            raise _misfit(path[:i], expected, f"{list(observation)}")
        if len(observation) != len(space.spaces):
            raise _misfit(path[:i], expected, f"{len(observation)}")
        space, observation = space[key], observation[key]
    if not isinstance(space, Box | Discrete | MultiBinary | MultiDiscrete):
        words = observation if isinstance(observation, str) else " ".join(repr(observation).split())
        return words if len(words) <= LETTERS else words[: LETTERS - 1] + "…"
    whole = isinstance(space, Discrete | MultiDiscrete)
    expected = f"{'whole ' if whole else ''}numbers of shape {space.shape}, as {space} says"
    if isinstance(observation, Mapping | tuple):
        raise _misfit(path, expected, f"a {type(observation).__name__}")
    array = np.asarray(observation)
    if array.dtype.kind not in ("biu" if whole else "biuf") or array.shape != space.shape:
        raise _misfit(path, expected, f"shape {array.shape}, {array.dtype}")
    if isinstance(space, Discrete | MultiDiscrete):
        count = space.n if isinstance(space, Discrete) else space.nvec
        if ((array < space.start) | (array >= space.start + count)).any():
            raise _misfit(path, f"classes of {space}", f"{array.tolist()}")
    return array


def _misfit(path: Path, expected: str, came: str) -> ValueError:
    where = "".join(f"[{key!r}]" for key in path)
    return ValueError(f"The observation{where} does not fit its space: expected {expected}, got {came}.")
