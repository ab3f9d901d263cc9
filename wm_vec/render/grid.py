"""Frames of many envs in one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from wm_vec.plain import env_numbers, whole_number

SHOWN = 16
"""Envs of a grid where none are named."""
LABEL = 16
"""Pixels of the line above a frame that says which env it is."""


def render_grid(env: Any, indices: Sequence[int] | None = None, columns: int | None = None) -> np.ndarray:
    """Frames of several envs of a vector env as they are now, tiled row by row, each below the number of its env.

    Of our own vector envs only these envs are drawn; of others all are, and these taken.

    Args:
        env: A Gymnasium vector env with ``render_mode="rgb_array"``.
        indices: Numbers of envs; None for the first 16.
        columns: Tiles side by side; None for about as many as rows.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        ValueError: No vector env, no such env, no such render mode, or frames of several sizes.
        ImportError: Pillow, which comes with the extra ``wm_vec[plot]``, is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError("render_grid needs Pillow, which comes with: pip install 'wm_vec[plot]'.") from error
    check_rgb_array(env, "render_grid")
    count = getattr(env, "num_envs", None)
    if count is None:
        raise ValueError("render_grid: expected a vector env, got a single one; its frame is env.render().")
    first = range(min(count, SHOWN))
    chosen = env_numbers(first if indices is None else indices, count, "render_grid: indices")
    width = math.ceil(math.sqrt(len(chosen))) if columns is None else whole_number(columns, "render_grid: columns")
    own = getattr(env.unwrapped, "frames", None)
    drawn = [env.render()[i] for i in chosen] if own is None else own(chosen)
    sizes = {np.shape(frame) for frame in drawn}
    if len(sizes) > 1:
        raise ValueError(f"render_grid: frames must all have one shape, got {sorted(sizes)}.")
    width = min(width, len(chosen))
    h, w, _ = sizes.pop()
    grid = Image.new("RGB", (width * w, -(-len(chosen) // width) * (h + LABEL)), "white")
    pen = ImageDraw.Draw(grid)
    for place, (i, frame) in enumerate(zip(chosen, drawn, strict=True)):
        x, y = place % width * w, place // width * (h + LABEL)
        pen.text((x + 4, y + 2), f"env {i}", "black")
        grid.paste(Image.fromarray(frame), (x, y + LABEL))
    return np.array(grid)


def check_rgb_array(env: Any, caller: str) -> None:
    """Refuse an env that gives no frames.

    Raises:
        ValueError: Its render mode is another.
    """
    if (mode := getattr(env, "render_mode", None)) != "rgb_array":
        raise ValueError(f"{caller}: make the env with render_mode='rgb_array', this one has {mode!r}.")
