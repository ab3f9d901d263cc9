"""Which panel shows which space, and where the panels lie on a sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from wm_vec.render.cells import Cells, Words
from wm_vec.render.images import KeyPath
from wm_vec.render.limits import Limits
from wm_vec.render.panels import Bars, HeatMap, Line, Panel
from wm_vec.render.sheet import GRID, Area, Sheet, shortened

MAX_BARS = 24
"""Values of one entry that get a row each; more are a line or a heat map."""
MAX_SWITCHES = 16
"""Switches in one row."""
MAX_PANELS = 24
"""Entries that get a panel; the last one says how many more there are."""
WIDTH, HEIGHT = 320, 240
"""Pixels of a panel's width, and of the least height of a page of one panel."""
TITLE, MARGIN = 20, 10
"""Pixels of a panel's title, and around panels."""


def set_up(entries: Sequence[tuple[KeyPath, Space]], names: Sequence[str] | None) -> tuple[list[Panel], Sheet]:
    """A panel for each entry, drawn on a new sheet.

    Args:
        entries: Where each entry lies in the observation, and its space.
        names: Names of the values of the only entry, a Box; None for indices.

    Returns:
        Panels in the order of `entries`, of at most `MAX_PANELS` of them, and the sheet, with even sides.

    Raises:
        ImportError: matplotlib is missing.
    """
    shown = entries[:MAX_PANELS]
    panels = [make_panel(space, names) for _, space in shown]
    alone = len(panels) == 1 and shown[0][0] == ()
    heights = [panel.height + 2 * MARGIN + (0 if alone else TITLE) for panel in panels]
    if alone:
        heights = [max(HEIGHT, heights[0])]
    columns = _columns(heights)
    more = len(entries) - len(shown)
    height = max(sum(heights[i] for i in column) for column in columns) + (TITLE if more else 0) or HEIGHT
    sheet = Sheet(WIDTH * len(columns), height + height % 2)
    for x, column in enumerate(columns):
        y = 0
        for i in column:
            top = y + MARGIN
            if not alone:
                _write_title(sheet, shown[i][0], x * WIDTH + MARGIN, top)
                top += TITLE
            inside = Area(x * WIDTH + MARGIN, top, WIDTH - 2 * MARGIN, y + heights[i] - MARGIN - top)
            panels[i].build(sheet, inside)
            y += heights[i]
    if not panels:
        sheet.text(MARGIN, height / 2, "an observation without entries")
    if more:
        sheet.text(MARGIN, height - TITLE / 2, f"and {more} more entries")
    return panels, sheet


def make_panel(space: Space, names: Sequence[str] | None = None) -> Panel:
    """The panel that suits a space that is neither a Dict nor a Tuple.

    Args:
        space: One entry of an observation.
        names: Names of the values of a Box; None for their indices.
    """
    if isinstance(space, Box):
        return _numbers(space.low, space.high, names)
    if isinstance(space, Discrete):
        first = np.array(space.start)
        return _classes(first, first + int(space.n) - 1)
    if isinstance(space, MultiDiscrete):
        return _classes(space.start, space.start + space.nvec - 1)
    if isinstance(space, MultiBinary):
        return _switches(space.shape)
    return Words()


def _numbers(low: np.ndarray, high: np.ndarray, names: Sequence[str] | None, in_order: bool = True) -> Panel:
    """Of many values on one axis, those `in_order` make a line; between classes a line would mean nothing."""
    if low.size == 0:
        return Words()
    if low.size <= MAX_BARS:
        return Bars(Limits(low, high), list(names) if names is not None else _indices(low.shape))
    overall = Limits.overall(low, high)
    return Line(overall, low.size) if low.ndim == 1 and in_order else HeatMap(overall, low.shape)


def _classes(first: np.ndarray, last: np.ndarray) -> Panel:
    """Of ``first`` to ``last`` each; bars where cells for all of them have no room."""
    rows = [
        [str(label) for label in range(a, b + 1)] for a, b in zip(first.flat, last.flat, strict=True) if b - a < 100
    ]
    names = _indices(first.shape)
    room = WIDTH - 2 * MARGIN - Cells.margin(names)
    if first.size and first.size == len(rows) <= MAX_BARS and all(Cells.fit(row, room) for row in rows):
        return Cells(rows, names, np.ravel(first))
    return _numbers(first.astype(np.float64), last.astype(np.float64), None, in_order=False)


def _switches(shape: tuple[int, ...]) -> Panel:
    size = math.prod(shape)
    if len(shape) == 1:
        starts = range(0, size, MAX_SWITCHES)
        rows = [[str(i) for i in range(start, min(start + MAX_SWITCHES, size))] for start in starts]
        names = [""] * len(rows)
    else:
        rows = [[str(i) for i in range(shape[-1])] for _ in range(size // max(1, shape[-1]))]
        names = _indices(shape[:-1])
    if size and len(rows) <= MAX_BARS and all(Cells.fit(row, WIDTH - 2 * MARGIN - Cells.margin(names)) for row in rows):
        return Cells(rows, names, None)
    return _numbers(np.zeros(shape), np.ones(shape), None, in_order=False)


def _indices(shape: tuple[int, ...]) -> list[str]:
    """``["0", "1"]``, ``["0,0", "0,1"]``; nothing for a single value."""
    return [",".join(str(i) for i in index) for index in np.ndindex(shape)] if math.prod(shape) != 1 else [""]


def _write_title(sheet: Sheet, path: KeyPath, left: float, top: float) -> None:
    """``sensors.wheel[0]`` over a line."""
    words = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")
    width = WIDTH - 2 * MARGIN
    sheet.text(left, top + 5, shortened(words, 0.9 * width), weight="bold")
    sheet.line([left, left + width], [top + TITLE - 7] * 2, GRID)


def _columns(heights: Sequence[int]) -> list[list[int]]:
    """Indices of panels for each column, in reading order, so that the page comes nearest to 4 : 3."""

    def distance(columns: list[list[int]]) -> float:
        height = max(sum(heights[i] for i in column) for column in columns)
        return abs(math.log(WIDTH * len(columns) / height * 3 / 4))

    count = len(heights)
    sums = {sum(heights[i:j]) for i in range(count) for j in range(i + 1, count + 1)}
    pages = [_filled(heights, limit) for limit in sums if limit >= max(heights)]
    return min(pages, key=lambda page: (distance(page), len(page)), default=[[]])


def _filled(heights: Sequence[int], limit: int) -> list[list[int]]:
    """Columns filled one after the other up to the height `limit`."""
    columns: list[list[int]] = [[]]
    left = limit
    for i, height in enumerate(heights):
        if height > left:
            columns.append([])
            left = limit
        columns[-1].append(i)
        left -= height
    return columns
