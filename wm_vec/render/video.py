"""Frames as an animated picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

FRAME_MS = 30
"""How long a frame is shown; GIF counts in tens of milliseconds."""


def write_gif(frames: Iterable[np.ndarray], path: Path) -> None:
    """Write frames ``(H, W, 3)`` uint8, at least one, as a GIF that repeats.

    Raises:
        ImportError: Pillow is missing, which comes with matplotlib.
    """
    from PIL import Image

    first, *others = map(Image.fromarray, frames)
    first.save(path, "GIF", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
