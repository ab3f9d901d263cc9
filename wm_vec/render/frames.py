"""Observations as frames: images as they are, everything else as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space

from wm_vec.render.chart import Chart
from wm_vec.render.entries import entry
from wm_vec.render.history import History
from wm_vec.render.images import find_image, image_frame
from wm_vec.spaces import leaves


class FramePainter:
    """Makes frames of one env's observations.

    Image-like observations (see `find_image`) are shown as they are, without matplotlib. All others are drawn as one
    chart (see `Chart`), whose axes are fixed by the space: equal observations, with time series equal histories, give
    equal frames. All frames of a painter have the same, even size. It can be pickled and copied.

    Args:
        space: One env's observations.
        names: Names of the values of a Box, in order; default is their indices.
        series: Draw the last steps beside the bars of a Box's values.

    Raises:
        ValueError: As many names as there are values were expected.
        ImportError: The space has no image, and matplotlib (the extra ``wm_vec[plot]``) is missing.
    """

    def __init__(self, space: Space, names: Sequence[str] | None = None, series: bool = False) -> None:
        if names is not None and not (isinstance(space, Box) and math.prod(space.shape) == len(names)):
            raise ValueError(f"FramePainter: names must name each value of a Box; got {len(names)} names for {space}.")
        self.space = space
        self.names = None if names is None else list(names)
        self._entries = dict(leaves(space))
        self._image = find_image(space)
        self._series = series
        self._chart = Chart(self._entries, self.names, series) if self._image is None else None

    def __call__(self, observation: Any, history: History | None = None) -> np.ndarray:
        """A frame of one env's observation: NumPy, or nested mappings and tuples of it.

        Args:
            observation: It.
            history: What time series show, this observation included.

        Returns:
            ``(H, W, 3)`` uint8, RGB, H and W even; a new array.

        Raises:
            ValueError: The observation does not fit the space.
        """
        if self._chart is not None:
            return self._chart.frame([entry(observation, self.space, path) for path in self._entries], history)
        path: Any = self._image
        image: Any = entry(observation, self.space, path)
        return image_frame(image, self._entries[path])

    def __reduce__(self) -> tuple[type[FramePainter], tuple[Any, ...]]:
        return FramePainter, (self.space, self.names, self._series)
