"""Reading recorded videos back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FPS = 32
"""A rate whose fractions are exact. At others, 30 among them, MoviePy rounds frames away or shows one twice
(its issues 2412 and 2507)."""


def frames_of(path: Path) -> np.ndarray:
    """Every frame of a video, ``(T, H, W, 3)`` uint8, decoded by ffmpeg."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["source_size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
