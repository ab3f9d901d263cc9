"""Panels of classes and switches, and of words."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_vec.render.sheet import FAINT, GRID, LETTER, POSITIVE, TRACK, WIDE_LETTER, Area, Sheet

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text


class Cells:
    """Rows of labelled cells, some of them on: classes and switches.

    Args:
        rows: Labels of the cells of each row.
        names: A name for each row; empty if there is nothing to say.
        first: Class of the first cell of each row; None if every cell is a switch of its own.
    """

    TALLEST = 26

    def __init__(self, rows: list[list[str]], names: list[str], first: np.ndarray | None) -> None:
        self.rows = rows
        self.names = names
        self.first = first
        self.height = 20 * len(rows) + 6
        self._lit: list[list[tuple[Rectangle, Text]]] = []

    @staticmethod
    def fit(row: list[str], width: float) -> bool:
        """Whether cells with these labels have room in `width` pixels."""
        return len(row) * max(14.0, 6 + LETTER * max(len(label) for label in row)) <= width

    @staticmethod
    def margin(names: list[str]) -> float:
        """Pixels that the rows' names take."""
        return 8 + LETTER * max(len(name) for name in names) if any(names) else 0.0

    def build(self, sheet: Sheet, area: Area) -> None:
        """Draw the cells, all off."""
        label = self.margin(self.names)
        step = min(self.TALLEST + 6.0, area.height / len(self.rows))
        top = area.top + (area.height - step * len(self.rows)) / 2
        tall = min(self.TALLEST, step - 4)
        wide = min(40.0, (area.width - label) / max(len(row) for row in self.rows))
        for i, (row, name) in enumerate(zip(self.rows, self.names, strict=True)):
            middle = top + (i + 0.5) * step
            sheet.text(area.left + label - 6, middle, name, align="right")
            self._lit.append([])
            for j, words in enumerate(row):
                cell = Area(area.left + label + j * wide + 1, middle - tall / 2, wide - 2, tall)
                centre = cell.left + cell.width / 2
                sheet.rectangle(cell, TRACK, edge=GRID)
                sheet.text(centre, middle, words, align="center", colour=FAINT)
                lit = sheet.rectangle(cell, POSITIVE, live=True)
                self._lit[-1].append(
                    (lit, sheet.text(centre, middle, words, align="center", colour="white", weight="bold", live=True))
                )

    def grow(self, values: np.ndarray) -> bool:
        """Never."""
        return False

    def show(self, values: np.ndarray) -> None:
        """Light the cells that are on."""
        flat = iter(np.ravel(values).tolist())
        for i, cells in enumerate(self._lit):
            if self.first is None:
                on = [bool(next(flat)) for _ in cells]
            else:
                value = next(flat)
                on = [value == int(self.first[i]) + j for j in range(len(cells))]
            for parts, visible in zip(cells, on, strict=True):
                for part in parts:
                    part.set_visible(visible)


class Words:
    """What has no other picture, as text: Text, Sequence, Graph and OneOf spaces, and empty ones."""

    LINE = 12
    height = 5 * LINE + 8

    def build(self, sheet: Sheet, area: Area) -> None:
        """Make room."""
        self._room = int(area.width / WIDE_LETTER)
        self._lines = [
            sheet.text(area.left, area.top + 10 + self.LINE * i, "", family="monospace", live=True)
            for i in range(int((area.height - 8) / self.LINE))
        ]

    def grow(self, values: Any) -> bool:
        """Never."""
        return False

    def show(self, values: Any) -> None:
        """Set the text, cut to the room."""
        words = values if isinstance(values, str) else " ".join(repr(values).split())
        wrapped = textwrap.wrap(words, self._room, max_lines=len(self._lines), placeholder=" …")
        for i, line in enumerate(self._lines):
            line.set_text(wrapped[i] if i < len(wrapped) else "")
