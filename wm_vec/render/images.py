"""Observations that are pictures already: which they are, and how they become frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple

KeyPath = tuple[str | int, ...]
"""Where an entry lies in nested Dict and Tuple spaces: ``("camera", 0)``; ``()`` is the space itself."""

PREFERRED = ("image", "pixels", "rgb")
"""Keys that win over other image-like entries, in this order."""
COMFORTABLE = 64
"""Pixels that the shorter side of a frame should have, so that people can see something."""
LONGEST = 1024
"""Pixels beyond which no side is scaled up."""
SMALLEST_FLOAT_SIDES = 8, 32
"""Numbers in [0, 1] with a shorter side are features, not a picture, or not a stack of pictures or RGBA."""
LARGEST_STACK = 32
"""Channels of a stack of frames; more are features."""


class Layout(NamedTuple):
    """How an image lies in its array.

    Attributes:
        stacked: Whether the first axis stacks whole frames, the newest last.
        axis: The axis of the channels, after the stack is taken off; None for ``(H, W)``.
        channels: Those of the newest frame: one (grayscale) or three.
    """

    stacked: bool
    axis: int | None
    channels: slice


def find_image(space: Space) -> KeyPath | None:
    """The image-like entry of a space that a frame shows; look with ``is not None``, as the space itself is ``()``.

    An image is a Box of uint8 with bounds 0 and 255, or of floats with bounds 0 and 1, laid out as ``(H, W)``,
    ``(H, W, 1 | 3 | 4)``, ``(1 | 3, H, W)``, or as a stack of frames, of which the newest (the last) is shown:
    ``(k, H, W)`` and ``(H, W, k)`` in grayscale (also k = 4 where channels come first; four channels at the end are
    RGBA), ``(3 k, H, W)`` and ``(H, W, 3 k)`` in colour, and whole frames ``(k, ...)`` as Gymnasium's
    ``FrameStackObservation`` makes them. If both ends could be the channels, three channels win, then the fewer.
    Floats need sides of at least 8, and 32 where they are not 1 or 3 channels: smaller ones are rather features.

    Args:
        space: One env's observations, nested or not.

    Returns:
        Keys and positions that lead to it: that of `PREFERRED` where there are several, else the first one. None if
        there is none.
    """
    paths = list(_images(space, ()))
    return min(paths, key=_preference) if paths else None


def image_frame(image: np.ndarray, space: Box) -> np.ndarray:
    """One observation of an image-like Box as a frame.

    Small images are scaled up by whole factors, nearest neighbour, until their shorter side has 64 pixels; odd sides
    get their last row or column twice, as video encoders want even ones.

    Args:
        image: Of the shape of `space`.
        space: A Box for which `find_image` gives ``()``.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        ValueError: `space` is no image.
    """
    layout = _layout(space)
    if layout is None:
        raise ValueError(f"image_frame: {space} is not image-like; find_image says what is.")
    if layout.stacked:
        image = image[-1]
    if layout.axis is None:
        image = image[..., None]
    else:
        image = np.moveaxis(image, layout.axis, -1)[..., layout.channels]
    pixels = _as_bytes(image, scale=255 if np.issubdtype(space.dtype, np.floating) else 1)
    return _comfortable(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _images(space: Space, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from _images(part, (*path, key))
    elif isinstance(space, Tuple):
        for i, part in enumerate(space.spaces):
            yield from _images(part, (*path, i))
    elif isinstance(space, Box) and _layout(space) is not None:
        yield path


def _preference(path: KeyPath) -> int:
    return min((PREFERRED.index(str(key)) for key in path if key in PREFERRED), default=len(PREFERRED))


def _layout(space: Box) -> Layout | None:
    """None if the space is no image."""
    floats = np.issubdtype(space.dtype, np.floating)
    if not floats and space.dtype != np.uint8:
        return None
    if (space.low != 0).any() or (space.high != (1 if floats else 255)).any():
        return None
    stacked = len(space.shape) == 4
    shape = space.shape[1:] if stacked else space.shape
    shortest, shortest_of_stack = SMALLEST_FLOAT_SIDES if floats else (2, 2)
    if len(shape) == 2:
        return Layout(False, None, slice(None)) if min(shape) >= shortest else None
    if len(shape) != 3 or 0 in space.shape:
        return None
    ranked = []
    for axis, sides in ((2, shape[:2]), (0, shape[1:])):
        rank = _rank(shape[axis], sides)
        if rank is not None and min(sides) >= (shortest if shape[axis] in (1, 3) else shortest_of_stack):
            ranked.append((rank, shape[axis], axis))
    if not ranked:
        return None
    _, count, axis = min(ranked, key=lambda choice: choice[:2])
    return Layout(stacked, axis, _newest(count, axis))


def _rank(count: int, sides: tuple[int, ...]) -> int | None:
    """How likely `count` channels are beside `sides`; lower is likelier, None is out of the question."""
    if count == 3:
        return 0
    if count in (1, 4):
        return 1
    return 2 if count < min(sides) and count <= LARGEST_STACK else None


def _newest(count: int, axis: int) -> slice:
    if count == 4 and axis == 2:
        return slice(0, 3)  # RGBA
    return slice(count - 3, count) if count % 3 == 0 else slice(count - 1, count)


def _as_bytes(image: np.ndarray, scale: int) -> np.ndarray:
    if image.dtype == np.uint8 and scale == 1:
        return image
    return np.rint(np.clip(np.nan_to_num(image.astype(np.float32) * scale), 0, 255)).astype(np.uint8)


def _comfortable(pixels: np.ndarray) -> np.ndarray:
    """A copy of ``(H, W, 3)``, scaled up if small, with even sides."""
    height, width = pixels.shape[:2]
    factor = max(1, min(-(-COMFORTABLE // min(height, width)), LONGEST // max(height, width)))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    odd_height, odd_width = pixels.shape[0] % 2, pixels.shape[1] % 2
    return np.pad(pixels, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge")
