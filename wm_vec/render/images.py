"""Observations that are images: which they are, and how they become frames."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Space

from wm_vec.spaces import Path, leaves

PREFERRED = ("image", "pixels", "rgb")
"""Keys that win over other image-like entries, in this order."""
COMFORTABLE, LONGEST = 64, 1024
"""Small images are scaled up until the shorter side has so many pixels, but no side beyond the second number."""
SMALLEST_FLOAT_SIDES = 8, 32
"""Numbers in [0, 1] with a shorter side are features: of an image, and of a stack of images or RGBA."""
LARGEST_STACK = 32
"""Channels of a stack of frames; more are features."""


def find_image(space: Space) -> Path | None:
    """The image-like entry of a space that a frame shows; compare with ``is not None``: the space itself is ``()``.

    An image is a Box of uint8 with bounds 0 and 255, or of floats with bounds 0 and 1, laid out as ``(H, W)``,
    ``(H, W, 1 | 3 | 4)``, ``(1 | 3, H, W)``, or as a stack of frames, of which the newest (the last) is shown:
    ``(k, H, W)`` and ``(H, W, k)`` in grayscale (also k = 4 where channels come first; four channels at the end are
    RGBA), ``(3 k, H, W)`` and ``(H, W, 3 k)`` in colour, and whole frames ``(k, ...)`` as Gymnasium's
    ``FrameStackObservation`` makes them. If both ends could be the channels, three channels win, then the fewer.

    Returns:
        Keys and positions that lead to it: that of `PREFERRED` where there are several, else the first one. None if
        there is none.
    """
    paths = [path for path, part in leaves(space) if _layout(part) is not None]
    rank = {key: i for i, key in enumerate(PREFERRED)}
    return min(paths, key=lambda path: min((rank.get(str(key), 9) for key in path), default=9), default=None)


def image_frame(image: np.ndarray, space: Space) -> np.ndarray:
    """One observation of an image-like Box as a frame ``(H, W, 3)`` uint8, a copy.

    Small images are scaled up by whole factors, nearest neighbour; odd sides get their last row or column twice, as
    video encoders want even ones.
    """
    layout = _layout(space)
    assert layout is not None
    axis, channels = layout
    if image.ndim == 4:
        image = image[-1]
    image = image[..., None] if axis is None else np.moveaxis(image, axis, -1)[..., channels]
    if image.dtype != np.uint8:
        image = np.rint(np.clip(np.nan_to_num(image.astype(np.float32) * 255), 0, 255)).astype(np.uint8)
    height, width = image.shape[:2]
    factor = max(1, min(-(-COMFORTABLE // min(height, width)), LONGEST // max(height, width)))
    pixels = np.broadcast_to(image, (height, width, 3)).repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(pixels, ((0, factor * height % 2), (0, factor * width % 2), (0, 0)), mode="edge")


def _layout(space: Space) -> tuple[int | None, slice] | None:
    """The axis of the channels in one frame of a stack (None for ``(H, W)``), and those to show; None if no image."""
    if not isinstance(space, Box) or 0 in space.shape:
        return None
    floats = np.issubdtype(space.dtype, np.floating)
    if (
        not (floats or space.dtype == np.uint8)
        or (space.low != 0).any()
        or (space.high != (1 if floats else 255)).any()
    ):
        return None
    shape = space.shape[1:] if len(space.shape) == 4 else space.shape
    shortest, shortest_of_stack = SMALLEST_FLOAT_SIDES if floats else (2, 2)
    if len(shape) == 2:
        return (None, slice(None)) if min(shape) >= shortest else None
    if len(shape) != 3:
        return None
    ranked = []
    for axis, sides in ((2, shape[:2]), (0, shape[1:])):
        count, side = shape[axis], min(sides)
        likely = count in (1, 3, 4) or (count < side and count <= LARGEST_STACK)
        if likely and side >= (shortest if count in (1, 3) else shortest_of_stack):
            ranked.append(({3: 0, 1: 1, 4: 1}.get(count, 2), count, axis))
    if not ranked:
        return None
    _, count, axis = min(ranked, key=lambda choice: choice[:2])
    if count == 4 and axis == 2:
        return axis, slice(0, 3)  # RGBA
    return axis, slice(count - (3 if count % 3 == 0 else 1), count)
