"""Where the pixels of frames have which colours."""

from __future__ import annotations

import numpy as np

BLUE, RED = (0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)


def inked(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a frame has exactly this colour, ``(H, W)``."""
    return (frame == colour).all(-1)


def rows_and_columns(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is set."""
    y, x = np.nonzero(mask)
    return int(y.min()), int(y.max()), int(x.min()), int(x.max())


def changed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one != other).any(-1)
