"""Parts of a frame that show the values of one space."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wm_vec.render.limits import Limits, number
from wm_vec.render.sheet import (
    FAINT,
    LETTER,
    NEGATIVE,
    POSITIVE,
    SMALL,
    TRACK,
    Area,
    Block,
    Number,
    Sheet,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

ROW, ROW_WITH_ENDS = 17, 27
"""Pixels of a row of bars, without and with the ends of its own axis below."""
THICKEST, NUMBER = 22, 64
"""Pixels of a bar's height at most, and of the room for its number."""


class Panel(Protocol):
    """Shows the values of one space in a part of a sheet.

    Attributes:
        height: Pixels that it needs at least.
    """

    height: int

    def build(self, sheet: Sheet, area: Area) -> None:
        """Draw what does not change, and make what does."""

    def grow(self, values: Any) -> bool:
        """Widen open axes for `values`, after `build`; whether what was frozen has changed."""

    def show(self, values: Any) -> None:
        """Set the live parts to `values`, of the space's shape."""


class Bars:
    """A horizontal bar with a name and a number for each value, from 0, or from the end of its axis nearest to 0.

    Values with the same bounds share one axis; else each has the ends of its own written below it.

    Args:
        limits: The axes.
        names: One for each value.
    """

    def __init__(self, limits: Limits, names: list[str]) -> None:
        self.limits = limits
        self.names = names
        self.row = ROW if limits.shared else ROW_WITH_ENDS
        self.height = len(names) * self.row + (16 if limits.shared else 4)
        self._bars: list[Block] = []
        self._numbers: list[Number] = []
        self._axes: list[tuple[Text, Text, Text, Line2D]] = []
        self._track = (0.0, 1.0)

    def build(self, sheet: Sheet, area: Area) -> None:
        """Draw names and tracks."""
        count, limits = len(self.names), self.limits
        label = min(0.4 * area.width, 8 + LETTER * max(len(name) for name in self.names))
        left, width = area.left + label + 6, area.width - label - 6 - NUMBER
        self._track = (left, width)
        step = min(2 * self.row - 4, (area.height - (16 if limits.shared else 4)) / count)
        thick = min(THICKEST, 0.66 * step) if limits.shared else min(THICKEST, step - 13)
        lift = 0 if limits.shared else 5
        spare = area.height - (16 if limits.shared else 4) - count * step
        middles = [area.top + spare / 2 + (i + 0.5) * step - lift for i in range(count)]
        for name, middle in zip(self.names, middles, strict=True):
            sheet.text(left - 6, middle, shortened(name, label - 4), align="right")
            sheet.rectangle(Area(left, middle - thick / 2, width, thick), TRACK)
            if not limits.shared:
                self._add_axis(sheet, middle - thick / 2, middle + thick / 2, middle + thick / 2 + 5)
            self._bars.append(sheet.block(Area(left, middle - thick / 2, 0, thick)))
            self._numbers.append(sheet.number(area.left + area.width, middle))
        if limits.shared:
            bottom = middles[-1] + step / 2
            self._add_axis(sheet, middles[0] - step / 2, bottom, bottom + 7)
        self._settle()

    def grow(self, values: np.ndarray) -> bool:
        """Widen open axes."""
        moved = self.limits.grow(np.ravel(values).astype(np.float64))
        if moved:
            self._settle()
        return moved

    def show(self, values: np.ndarray) -> None:
        """Set bars and numbers."""
        left, width = self._track
        flat = np.ravel(values).astype(np.float64)
        places, zeros = self.limits.place(flat), self.limits.zero()
        for i, (value, place, zero) in enumerate(zip(flat.tolist(), places.tolist(), zeros.tolist(), strict=True)):
            bar = self._bars[i]
            bar.left = left + zero * width
            bar.width = 0.0 if math.isnan(place) else (place - zero) * width
            bar.colour = NEGATIVE if value < 0 else POSITIVE
            self._numbers[i].words = number(value)

    def _add_axis(self, sheet: Sheet, top: float, bottom: float, y: float) -> None:
        """A line at zero from `top` to `bottom`, and the ends' numbers at height `y`."""
        left, width = self._track
        self._axes.append(
            (
                sheet.text(left, y, "", colour=FAINT, size=SMALL),
                sheet.text(left, y, "0", align="center", colour=FAINT, size=SMALL),
                sheet.text(left + width, y, "", align="right", colour=FAINT, size=SMALL),
                sheet.line([left, left], [top, bottom], FAINT),
            )
        )

    def _settle(self) -> None:
        """Write the ends of the axes, and put zero in its place."""
        left, width = self._track
        ends = zip(self.limits.low.tolist(), self.limits.high.tolist(), self.limits.zero().tolist(), strict=True)
        # One axis stands for all values, or each has its own.
        for (low, middle, high, line), (least, greatest, zero) in zip(self._axes, ends, strict=False):
            low.set_text(number(least))
            high.set_text(number(greatest))
            middle.set_x(left + zero * width)
            middle.set_visible(0.2 < zero < 0.8)
            line.set_xdata([left + zero * width] * 2)


class Line:
    """Many values in their order as a line over a shared axis.

    Args:
        limits: One axis.
        count: Number of values.
    """

    height = 110

    def __init__(self, limits: Limits, count: int) -> None:
        self.limits = limits
        self.count = count
        self._plot = Area(0, 0, 1, 1)

    def build(self, sheet: Sheet, area: Area) -> None:
        """Draw the frame and its numbers."""
        self._plot = plot = Area(area.left + 42, area.top + 6, area.width - 46, area.height - 24)
        left, top, width, height = plot
        bottom = top + height
        sheet.rectangle(plot, TRACK)
        self._ground = sheet.line([left, left + width], [bottom, bottom], FAINT)
        self._nought = sheet.text(left - 5, bottom, "0", align="right", colour=FAINT, size=SMALL)
        self._high = sheet.text(left - 5, top + 3, "", align="right", colour=FAINT, size=SMALL)
        self._low = sheet.text(left - 5, bottom - 3, "", align="right", colour=FAINT, size=SMALL)
        sheet.text(left, bottom + 8, "0", colour=FAINT, size=SMALL)
        sheet.text(left + width, bottom + 8, str(self.count - 1), align="right", colour=FAINT, size=SMALL)
        self._fill = sheet.polygon(POSITIVE, live=True)
        self._x = left + np.arange(self.count) / max(1, self.count - 1) * width
        self._line = sheet.line(self._x, np.full(self.count, bottom), POSITIVE, width=1.1, live=True)
        self._settle()

    def grow(self, values: np.ndarray) -> bool:
        """Widen an open axis."""
        moved = self.limits.grow(np.ravel(values).astype(np.float64))
        if moved:
            self._settle()
        return moved

    def show(self, values: np.ndarray) -> None:
        """Set the line."""
        y = self._height_of(np.ravel(values).astype(np.float64))
        zero = self._height_of(np.zeros(1))[0]
        self._line.set_ydata(y)
        upper = np.stack([self._x, np.nan_to_num(y, nan=zero)], axis=1)
        lower = np.stack([self._x[::-1], np.full(self.count, zero)], axis=1)
        self._fill.set_xy(np.concatenate([upper, lower]))

    def _height_of(self, values: np.ndarray) -> np.ndarray:
        """Pixels from the top of the sheet."""
        return self._plot.top + (1 - self.limits.place(values)) * self._plot.height

    def _settle(self) -> None:
        zero = self._height_of(np.zeros(1))[0]
        self._low.set_text(number(self.limits.low[0]))
        self._high.set_text(number(self.limits.high[0]))
        self._ground.set_ydata([zero, zero])
        self._nought.set_y(zero)
        self._nought.set_visible(0.1 < self.limits.zero()[0] < 0.9)


class HeatMap:
    """Many values in rows and columns as colours; further axes are tiles beside each other, a single one is wrapped.

    Args:
        limits: One axis for all.
        shape: Of the values.
    """

    height = 200

    def __init__(self, limits: Limits, shape: tuple[int, ...]) -> None:
        self.limits = limits
        self.shape = shape
        # The channels, if there are any, are the smaller of the two ends.
        self._channels_last = len(shape) > 2 and shape[-1] < shape[0]
        self._signed = bool((limits.low < 0).all() and (limits.high > 0).all())

    def build(self, sheet: Sheet, area: Area) -> None:
        """Draw the colour bar."""
        example = self._tiled(np.zeros(self.shape))
        room = Area(area.left + 2, area.top + 6, area.width - 56, area.height - 12)
        rows, columns = example.shape
        side = min(room.width / columns, room.height / rows)
        # Of long strips the short side is stretched, so that thin rows and columns can be seen.
        width = max(side * columns, min(room.width, side * rows / 4))
        height = max(side * rows, min(room.height, side * columns / 4))
        left, top = room.left + (room.width - width) / 2, room.top + (room.height - height) / 2
        colours = "RdBu_r" if self._signed else "viridis"
        self._image = sheet.image(example, Area(left, top, width, height), colours, live=True)
        bar = Area(area.left + area.width - 46, room.top, 10, room.height)
        self._scale = sheet.image(np.zeros((64, 1)), bar, colours)
        for image in (self._image, self._scale):
            image.set_clim(-1 if self._signed else 0, 1)
        self._high = sheet.text(bar.left + 14, bar.top + 4, "", colour=FAINT, size=SMALL)
        self._low = sheet.text(bar.left + 14, bar.top + bar.height - 4, "", colour=FAINT, size=SMALL)
        self._settle()

    def grow(self, values: np.ndarray) -> bool:
        """Widen an open axis."""
        moved = self.limits.grow(np.ravel(values).astype(np.float64))
        if moved:
            self._settle()
        return moved

    def show(self, values: np.ndarray) -> None:
        """Set the colours."""
        self._image.set_data(self._tiled(self._strength(np.asarray(values, dtype=np.float64))))

    def _settle(self) -> None:
        low, high = float(self.limits.low[0]), float(self.limits.high[0])
        self._low.set_text(number(low))
        self._high.set_text(number(high))
        self._scale.set_data(self._strength(np.linspace(high, low, 64)[:, None]))

    def _strength(self, values: np.ndarray) -> np.ndarray:
        """In [-1, 1] with zero in the middle of the colours, or, for values of one sign, in [0, 1]."""
        if not self._signed:
            return self.limits.place(values)
        reach = max(-self.limits.low[0], self.limits.high[0])
        return np.clip(values / reach, -1, 1)

    def _tiled(self, values: np.ndarray) -> np.ndarray:
        """``(h, w)``; tiles in rows as nearly square as can be, a cell of nothing between them."""
        if values.ndim == 2:
            return values
        if values.ndim == 1:
            columns = math.ceil(math.sqrt(1.4 * values.size))
            page = np.full((-(-values.size // columns), columns), np.nan)
            page.flat[: values.size] = values
            return page
        if self._channels_last:
            values = np.moveaxis(values, -1, 0)
        tiles = values.reshape(-1, *values.shape[-2:])
        count, height, width = tiles.shape
        across = min(count, max(1, round(np.sqrt(count * height / width))))
        down = -(-count // across)
        page = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
        for i, tile in enumerate(tiles):
            top, left = (i // across) * (height + 1), (i % across) * (width + 1)
            page[top : top + height, left : left + width] = tile
        return page
