"""The last steps of one env, for time series."""

from __future__ import annotations

from collections import deque

import numpy as np

LENGTH = 100
"""Steps that are kept."""


class History:
    """What one env saw in the last `LENGTH` steps of its episode."""

    def __init__(self) -> None:
        self._rows: deque[tuple[int, np.ndarray]] = deque(maxlen=LENGTH)
        self._episode = -1

    def add(self, episode: int, step: int, values: np.ndarray) -> None:
        """Keep a copy of what was seen at a step.

        Args:
            episode: Another one than before begins anew.
            step: Of the episode; what was kept of this step and later ones is forgotten.
            values: ``(n,)``.
        """
        if episode != self._episode:
            self._rows.clear()
            self._episode = episode
        while self._rows and self._rows[-1][0] >= step:
            self._rows.pop()
        self._rows.append((step, np.array(values, np.float64)))

    def series(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``(T,)`` before the newest one, -99 to 0, and values ``(T, n)``."""
        steps = np.array([step for step, _ in self._rows])
        recent = steps - steps[-1] > -LENGTH
        return (steps - steps[-1])[recent], np.array([values for _, values in self._rows])[recent]
