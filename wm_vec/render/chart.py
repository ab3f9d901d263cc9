"""A chart of one env's observation, drawn by matplotlib: bars, time series and heat maps in one figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from wm_vec.render.history import LENGTH, History
from wm_vec.spaces import Path

DPI, WIDTH, LEAST, MOST = 100, 320, 240, 900
"""Dots per inch, and pixels of a frame's width and of its least and greatest height."""
MAX_BARS, ROW, MAP, SERIES = 24, 27, 180, 160
"""Values of an entry that get a bar each, pixels of a bar's row and of a heat map, and of a time series' width."""
OPEN = 1e6
"""Bounds of at least this size are none: a linear axis over the whole of int32 or float32 shows nothing."""
REACH, LINEAR = 1e3, 0.1
"""How far an axis without a bound reaches, and where it turns from linear to logarithmic."""
FAINT, TRACK, POSITIVE, NEGATIVE = "#777777", "#eeeff2", "#1f77b4", "#d62728"


class Chart:
    """A figure that is laid out once; a frame redraws only what changes with the observation.

    Entries of up to 24 values (classes are numbers too) are bars: name, bar from zero, number, and the ends of the
    axis below. Those of more values are heat maps: of two axes as they are, of three or more as tiles beside each
    other, of one in lines. Axes are fixed: linear between the space's bounds, asinh where one is missing.

    Beside bars there may be time series: the last steps of each value, from the least of them to the greatest.

    Args:
        entries: Path and space of each entry of the observation, in order.
        names: Names of the values of the only entry, a Box; None for indices.
        series: Draw time series too, of an only entry with up to 24 values.

    Raises:
        ImportError: matplotlib is missing.
    """

    def __init__(self, entries: Mapping[Path, Space], names: Sequence[str] | None, series: bool = False) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.layout_engine import ConstrainedLayoutEngine
        except ImportError as error:
            raise ImportError(
                "A frame of an observation that is not an image is drawn with matplotlib, which is not installed: "
                "pip install 'wm_vec[plot]'."
            ) from error
        bounds = [_bounds(space) for space in entries.values()]
        heights = [ROW * low.size if low.size <= MAX_BARS else MAP for low, _ in bounds]
        shown = int((np.cumsum(heights) <= MOST).sum())
        stretch = min(1.7, max(1, (LEAST - 20) / max(1, sum(heights))))
        heights = [max(1, round(stretch * height)) for height in heights[:shown]]
        # The last part is blank, so that a few bars do not fill the frame.
        heights.append(max(20, LEAST - sum(heights)))
        # A hundredth of a pixel more, as sizes in inches are cut down to whole pixels.
        widths = [WIDTH, SERIES] if series and [low.size <= MAX_BARS for low, _ in bounds] == [True] else [WIDTH]
        size = (sum(widths) + 0.01) / DPI, (sum(heights) // 2 * 2 + 0.01) / DPI
        figure = Figure(size, DPI, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.01, hspace=0))
        self._canvas = FigureCanvasAgg(figure)
        grid = figure.subplots(len(heights), len(widths), height_ratios=heights, width_ratios=widths, squeeze=False)
        *axes, blank = grid[:, 0]
        blank.set_axis_off()
        if shown < len(bounds):
            blank.text(0, 0, f"and {len(bounds) - shown} more entries", fontsize=7, color=FAINT)
        self._parts: list[_Bars | _HeatMap] = []
        for axis, path, (low, high) in zip(axes, entries, bounds, strict=False):
            title = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")
            if low.size > MAX_BARS:
                self._parts.append(_HeatMap(axis, title, low, high))
                continue
            indices = [",".join(str(i) for i in index) for index in np.ndindex(low.shape)]
            labels = [title] if low.size == 1 else [f"{title}[{index}]" if title else index for index in indices]
            self._parts.append(_Bars(axis, list(names or labels), _Axis(low.ravel(), high.ravel())))
        self._series = None
        if len(widths) > 1:
            grid[-1, 1].set_axis_off()
            self._series = _Series(grid[0, 1], bounds[0][0].size)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        self._live = [artist for part in self._parts for artist in part.live]
        if self._series is not None:
            self._live += self._series.live
        for artist in self._live:
            artist.set_animated(True)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)

    def frame(self, values: Sequence[np.ndarray | str], history: History | None = None) -> np.ndarray:
        """Draw one observation.

        Args:
            values: Of each entry: an array of its space's shape, or text.
            history: What the time series show, this observation included; None for nothing.

        Returns:
            ``(H, W, 3)`` uint8, RGB, H and W even; a new array.
        """
        for part, value in zip(self._parts, values, strict=False):
            part.show(value)
        if self._series is not None:
            self._series.show(history)
        self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for artist in self._live:
            artist.draw(renderer)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()


class _Axis:
    """Fixed axes of n values with lower and upper bounds ``(n,)``."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        open_low, open_high = np.abs(low) >= OPEN, np.abs(high) >= OPEN  # not of a text's NaN
        self.curved = open_low | open_high
        self.low = np.where(open_low, np.fmin(high, 0) - REACH, low).astype(np.float64)
        self.high = np.where(open_high, np.fmax(low, 0) + REACH, np.where(high > low, high, low + 1.0))
        self.zero = self.place(np.zeros(len(low)))

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values lie, in [0, 1]; what is beyond an end is at it, NaN stays NaN."""
        low, high, at = (
            np.where(self.curved, np.arcsinh(x / LINEAR), x)
            for x in (self.low, self.high, np.clip(values, self.low, self.high))
        )
        return (at - low) / (high - low)


class _Bars:
    """A row for each value."""

    def __init__(self, axes: Any, labels: list[str], axis: _Axis) -> None:
        self._axis = axis
        count = len(labels)
        axes.set(xlim=(0, 1), ylim=(max(count, 1) - 0.4, -0.4), xticks=[])
        # The end of a long name stays, which tells nested ones apart.
        short = [label if len(label) <= 22 else "…" + label[-21:] for label in labels]
        axes.set_yticks(range(count), short, fontsize=7, parse_math=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.barh(range(count), 1, height=0.56, color=TRACK)
        axes.vlines(axis.zero, np.arange(count) - 0.34, np.arange(count) + 0.34, color=FAINT, linewidth=0.7)
        style = {"fontsize": 5.5, "color": FAINT, "va": "center"}
        for i in np.flatnonzero(~np.isnan(axis.low)):
            axes.text(0, i + 0.43, _number(axis.low[i]), ha="left", **style)
            axes.text(1, i + 0.43, "asinh  " * int(axis.curved[i]) + _number(axis.high[i]), ha="right", **style)
        self._bars = list(axes.barh(range(count), 0, height=0.56))
        # The widest number, so that the layout leaves room for any.
        style = {"fontsize": 7, "ha": "right", "va": "center", "parse_math": False}
        self._numbers = [axes.text(1.22, i, "-8.88e+88", **style) for i in range(count)]
        self.live = [*self._bars, *self._numbers]

    def show(self, value: Any) -> None:
        if isinstance(value, str):
            self._numbers[0].set_text(value)
            return
        numbers, zero = value.ravel().astype(np.float64), self._axis.zero
        place = self._axis.place(numbers)
        start, width = np.fmin(place, zero), np.nan_to_num(np.abs(place - zero))
        for i, (bar, text) in enumerate(zip(self._bars, self._numbers, strict=True)):
            bar.set(x=start[i], width=width[i], facecolor=NEGATIVE if numbers[i] < 0 else POSITIVE)
            text.set_text(_number(numbers[i]))


class _Series:
    """A time series beside each of n bars; one line, which breaks between them, is drawn faster than n."""

    def __init__(self, axes: Any, count: int) -> None:
        axes.set(xlim=(1 - LENGTH, 1), ylim=(count - 0.4, -0.4), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.barh(range(count), LENGTH, left=1 - LENGTH, height=0.7, color=TRACK)
        axes.text(1, count - 0.47, f"the last {LENGTH} steps", fontsize=5.5, color=FAINT, ha="right", va="center")
        self._rows = np.arange(count)
        self.live = axes.plot([], [], color=POSITIVE, linewidth=0.9)

    def show(self, history: History | None) -> None:
        if history is None:
            self.live[0].set_data([], [])
            return
        steps, values = history.series()
        values = np.where(np.isfinite(values), values, np.nan)
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        # A value that stayed as it was is a line in the middle.
        place = np.where(high > low, (values - low) / np.where(high > low, high - low, 1), values - low + 0.5)
        heights = self._rows + 0.3 - 0.6 * place
        breaks = np.full((1, len(self._rows)), np.nan)
        x = np.tile(np.append(steps, np.nan), len(self._rows))
        self.live[0].set_data(x, np.concatenate([heights, breaks]).T.ravel())


class _HeatMap:
    """Many values as colours on one axis; what is not a number is gray."""

    def __init__(self, axes: Any, title: str, low: np.ndarray, high: np.ndarray) -> None:
        self._axis = axis = _Axis(np.min(low).reshape(1), np.max(high).reshape(1))
        rows, columns = _page(np.zeros(low.shape)).shape
        colours = "RdBu_r" if 0 < axis.zero[0] < 1 else "viridis"
        image = axes.imshow(np.zeros((rows, columns)), colours, vmin=0, vmax=1, aspect="auto")
        axes.set_facecolor("#bbbbbb")
        # Of values in lines each line is labelled with the index of its first one.
        axes.set_yticks([0, rows - 1], [0, (rows - 1) * (columns if low.ndim == 1 else 1)])
        axes.set_xticks([0, columns - 1])
        axes.tick_params(labelsize=6)
        axes.set_title(title, fontsize=8, loc="left", parse_math=False)
        bar = axes.figure.colorbar(image, ax=axes, ticks=[0, 1])
        ends = [_number(axis.low[0]), _number(axis.high[0]) + " asinh" * int(axis.curved[0])]
        bar.ax.set_yticklabels(ends, fontsize=6)
        self.live = [image]

    def show(self, value: Any) -> None:
        self.live[0].set_data(_page(self._axis.place(value.astype(np.float64))))


def _bounds(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the values of a space; a single NaN for text."""
    if isinstance(space, Box):
        return space.low, space.high
    if isinstance(space, Discrete | MultiDiscrete):
        start, count = (np.asarray(x) for x in (space.start, space.n if isinstance(space, Discrete) else space.nvec))
        return start, start + count - 1
    if isinstance(space, MultiBinary):
        return np.zeros(space.shape), np.ones(space.shape)
    return np.full((), np.nan), np.full((), np.nan)


def _page(values: np.ndarray) -> np.ndarray:
    """Values of any shape in rows and columns; NaN where there is none."""
    if values.ndim == 2:
        return values
    if values.ndim == 1:
        columns = math.ceil(math.sqrt(3 * values.size))
        return np.pad(values, (0, -values.size % columns), constant_values=np.nan).reshape(-1, columns)
    # The channels are the smaller of the two ends.
    tiles = np.moveaxis(values, -1, 0) if values.shape[-1] < values.shape[0] else values
    tiles = np.pad(tiles.reshape(-1, *tiles.shape[-2:]), ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
    return np.concatenate(list(tiles), axis=1)[:, :-1]


def _number(value: float) -> str:
    """In few letters; minus zero is zero."""
    whole = abs(value) < 1e6 and float(value).is_integer()
    return f"{value + 0.0:.0f}" if whole else f"{value:.3g}"
