"""Observations as frames: pictures as they are, everything else as a legible plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from wm_vec.render.images import KeyPath, find_image, image_frame
from wm_vec.render.page import set_up
from wm_vec.render.panels import Panel
from wm_vec.render.sheet import Sheet

__all__ = ["FramePainter", "find_image", "observation_frame"]


class FramePainter:
    """Makes frames of one env's observations.

    Image-like observations (see `find_image`) are shown as they are, without matplotlib. Of others every entry gets a
    panel, drawn once; a frame then only redraws what has moved. The axes span the space's bounds. Where it has none,
    they grow with what this painter has seen and never shrink, so a video's axes hardly jump; start a new painter to
    start afresh. All frames of a painter have the same, even size.

    It can be pickled and copied; the copy starts with a new figure.

    Args:
        space: One env's observations.
        names: Names of the values of a Box, in order; default is their indices.

    Raises:
        ValueError: As many names as there are values were expected.
    """

    def __init__(self, space: Space, names: Sequence[str] | None = None) -> None:
        if names is not None and not (isinstance(space, Box) and math.prod(space.shape) == len(names)):
            raise ValueError(f"FramePainter: names must name each value of a Box; got {len(names)} names for {space}.")
        self.space = space
        self.names = None if names is None else list(names)
        self._image = find_image(space)
        self._sheet: Sheet | None = None
        self._panels: list[Panel] = []

    def __call__(self, observation: Any) -> np.ndarray:
        """A frame.

        Args:
            observation: One env's observation: NumPy, or nested mappings and tuples of it.

        Returns:
            ``(H, W, 3)`` uint8, RGB, H and W even.

        Raises:
            ValueError: The observation does not fit the space.
            ImportError: It is no image and matplotlib is missing.
        """
        if self._image is not None:
            return self._picture(observation, self._image)
        return self._plots([observation])[0]

    def batch(self, observations: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """A frame for each of several envs' observations, all with the same axes; else as calling it for each."""
        if self._image is not None:
            return tuple(self._picture(observation, self._image) for observation in observations)
        return tuple(self._plots(observations))

    def __reduce__(self) -> tuple[type[FramePainter], tuple[Any, ...]]:
        return FramePainter, (self.space, self.names)

    def _picture(self, observation: Any, path: KeyPath) -> np.ndarray:
        space, part = self.space, observation
        for i, key in enumerate(path):
            space, part = next((s, p) for k, s, p in _parts(part, space, path[:i]) if k == key)
        assert isinstance(space, Box)
        return image_frame(_array(part, space, path), space)

    def _plots(self, observations: Sequence[Any]) -> list[np.ndarray]:
        # Everything is read before anything is drawn: a wrong observation leaves the axes as they were.
        rows = [list(_read(observation, self.space, ())) for observation in observations]
        changed = self._sheet is None
        if self._sheet is None:
            self._panels, self._sheet = set_up(list(_entries(self.space, ())), self.names)
        for values in rows:
            # Entries beyond the last panel are not shown.
            for panel, value in zip(self._panels, values, strict=False):
                changed |= panel.grow(value)
        if changed:
            self._sheet.freeze()
        frames = []
        for values in rows:
            for panel, value in zip(self._panels, values, strict=False):
                panel.show(value)
            frames.append(self._sheet.frame())
        return frames


def observation_frame(observation: Any, space: Space) -> np.ndarray:
    """A frame of one observation; `FramePainter` is far faster for many.

    Args:
        observation: One env's observation: NumPy, or nested mappings and tuples of it.
        space: Its space.

    Returns:
        ``(H, W, 3)`` uint8, RGB, H and W even.

    Raises:
        ValueError: The observation does not fit the space.
        ImportError: It is no image and matplotlib (the extra ``wm_vec[plot]``) is missing.
    """
    return FramePainter(space)(observation)


def _entries(space: Space, path: KeyPath) -> Iterator[tuple[KeyPath, Space]]:
    """Entries that are neither Dict nor Tuple, in order."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from _entries(part, (*path, key))
    elif isinstance(space, Tuple):
        for i, part in enumerate(space.spaces):
            yield from _entries(part, (*path, i))
    else:
        yield path, space


def _read(observation: Any, space: Space, path: KeyPath) -> Iterator[Any]:
    """Values of `_entries`, checked."""
    if isinstance(space, Dict | Tuple):
        for key, part_space, part in _parts(observation, space, path):
            yield from _read(part, part_space, (*path, key))
    elif isinstance(space, Box | Discrete | MultiBinary | MultiDiscrete):
        yield _array(observation, space, path)
    else:
        yield observation


def _parts(observation: Any, space: Space, path: KeyPath) -> Iterator[tuple[str | int, Space, Any]]:
    """Key, space and value of each part of a Dict's or Tuple's observation."""
    if isinstance(space, Dict):
        if not isinstance(observation, Mapping):
            raise _misfit(path, f"a mapping with the keys {list(space.spaces)}", f"a {type(observation).__name__}")
        if set(observation) != set(space.spaces):
            raise _misfit(path, f"the keys {list(space.spaces)}", f"{list(observation)}")
        for key, part in space.spaces.items():
            yield key, part, observation[key]
    elif isinstance(space, Tuple):
        if not isinstance(observation, tuple | list):
            raise _misfit(path, f"a tuple of {len(space.spaces)} parts", f"a {type(observation).__name__}")
        if len(observation) != len(space.spaces):
            raise _misfit(path, f"a tuple of {len(space.spaces)} parts", f"{len(observation)}")
        for i, part in enumerate(space.spaces):
            yield i, part, observation[i]


def _array(value: Any, space: Box | Discrete | MultiBinary | MultiDiscrete, path: KeyPath) -> np.ndarray:
    whole = isinstance(space, Discrete | MultiDiscrete)
    expected = f"{'whole ' if whole else ''}numbers of shape {space.shape}, as {space} says"
    if isinstance(value, Mapping | tuple):
        raise _misfit(path, expected, f"a {type(value).__name__}")
    array = np.asarray(value)
    if array.dtype.kind not in ("biu" if whole else "biuf") or array.shape != space.shape:
        raise _misfit(path, expected, f"shape {array.shape}, {array.dtype}")
    if isinstance(space, Discrete | MultiDiscrete):
        count = space.n if isinstance(space, Discrete) else space.nvec
        if ((array < space.start) | (array >= space.start + count)).any():
            raise _misfit(path, f"classes of {space}", f"{array.tolist()}")
    return array


def _misfit(path: KeyPath, expected: str, came: str) -> ValueError:
    where = "".join(f"[{key!r}]" for key in path)
    return ValueError(f"The observation{where} does not fit its space: expected {expected}, got {came}.")
