"""A drawing surface in pixels whose unchanging part is drawn once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from matplotlib.patches import Polygon, Rectangle
    from matplotlib.text import Text

DPI = 100
LETTERS = "0123456789.-+einfa"
"""What numbers are written with."""
INK, FAINT, TRACK, GRID = "#222222", "#777777", "#eeeff2", "#c8cad0"
POSITIVE, NEGATIVE = "#1f77b4", "#d62728"
LETTER, WIDE_LETTER = 5.6, 5.9
"""Width of a letter of `FONT` points in pixels: the mean one, and that of typewriters."""
FONT, SMALL = 7.0, 5.8
"""Points."""


class Area(NamedTuple):
    """A rectangle of a sheet in pixels, y down."""

    left: float
    top: float
    width: float
    height: float


@dataclass
class Block:
    """A bar that may change from frame to frame, in pixels of its sheet; a negative width goes left."""

    left: float
    top: float
    width: float
    height: float
    colour: str = POSITIVE

    def paint(self, frame: np.ndarray) -> None:
        """Fill it in ``(H, W, 3)``; the ends cover parts of pixels, so that small changes can be seen."""
        start, end = sorted((self.left, self.left + self.width))
        first, last = math.floor(start), math.ceil(end)
        if first == last:
            return
        edges = np.arange(first, last, dtype=np.float64)
        cover = (np.minimum(edges + 1, end) - np.maximum(edges, start))[:, None]
        top = round(self.top)
        part = frame[top : top + round(self.height), first:last]
        part[:] = np.rint(part * (1 - cover) + cover * np.frombuffer(bytes.fromhex(self.colour[1:]), np.uint8))


@dataclass
class Number:
    """A short text of `LETTERS` that may change from frame to frame; it ends at `right`, its middle at height `y`."""

    right: float
    y: float
    words: str = ""

    def paint(self, frame: np.ndarray, letters: Mapping[str, np.ndarray]) -> None:
        """Write it over ``(H, W, 3)``."""
        x = round(self.right)
        for letter in reversed(self.words):
            glyph = letters[letter]
            height, width = glyph.shape[:2]
            top = round(self.y) - height // 2
            part = frame[top : top + height, x - width : x]
            np.minimum(part, glyph[: part.shape[0]], out=part)
            x -= width


class Sheet:
    """A white figure of `width` x `height` pixels; x goes right, y down.

    What is drawn with ``live=True`` may change from frame to frame; all else is drawn once, at `freeze`. Bars and
    numbers, of which there may be hundreds, are painted into the pixels, as matplotlib takes a millisecond for each
    text. A sheet belongs to no pyplot state and cannot be pickled.

    Raises:
        ImportError: matplotlib is missing.
    """

    def __init__(self, width: int, height: int) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "A frame of an observation that is not an image is drawn with matplotlib, which is not installed: "
                "pip install 'wm_vec[plot]'."
            ) from error
        # A hundredth of a pixel more, as sizes in inches are cut down to whole pixels.
        figure = Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(figure)
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._axes.set_autoscale_on(False)
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._live: list[Artist] = []
        self._blocks: list[Block] = []
        self._numbers: list[Number] = []
        self._background: Any = None
        self._letters: dict[str, np.ndarray] = {}

    def rectangle(self, area: Area, colour: str, edge: str = "none", live: bool = False) -> Rectangle:
        """A filled rectangle."""
        from matplotlib.patches import Rectangle

        left, top, width, height = area
        patch = Rectangle((left, top), width, height, facecolor=colour, edgecolor=edge, linewidth=0.6)
        self._axes.add_patch(patch)
        return self._kept(patch, live)

    def polygon(self, colour: str, live: bool = False) -> Polygon:
        """A filled polygon without corners as yet."""
        from matplotlib.patches import Polygon

        patch = Polygon(np.zeros((3, 2)), closed=True, facecolor=colour, edgecolor="none", alpha=0.2)
        self._axes.add_patch(patch)
        return self._kept(patch, live)

    def line(self, x: Any, y: Any, colour: str, width: float = 0.6, live: bool = False) -> Line2D:
        """A polyline, its width in points."""
        from matplotlib.lines import Line2D

        line = Line2D(x, y, color=colour, linewidth=width)
        self._axes.add_line(line)
        return self._kept(line, live)

    def image(self, values: np.ndarray, area: Area, colours: str, live: bool = False) -> AxesImage:
        """Numbers ``(h, w)`` through a colour map, stretched over `area`."""
        from matplotlib.image import AxesImage

        left, top, width, height = area
        image = AxesImage(self._axes, cmap=colours, extent=(left, left + width, top + height, top))
        image.set_data(values)
        image.set_clip_path(self._axes.patch)
        self._axes.add_image(image)
        return self._kept(image, live)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        align: str = "left",
        colour: str = INK,
        size: float = FONT,
        weight: str = "normal",
        family: str = "sans-serif",
        live: bool = False,
    ) -> Text:
        """A line of text whose middle is at height `y`."""
        text = self._axes.text(
            x,
            y,
            words,
            color=colour,
            size=size,
            weight=weight,
            family=family,
            ha=align,
            va="center_baseline",
            parse_math=False,
        )
        return self._kept(text, live)

    def block(self, area: Area) -> Block:
        """A live bar."""
        self._blocks.append(Block(*area))
        return self._blocks[-1]

    def number(self, right: float, y: float) -> Number:
        """A live number."""
        self._numbers.append(Number(right, y))
        return self._numbers[-1]

    def freeze(self) -> None:
        """Draw all that is not live; call it again after changing any of it."""
        self._canvas.draw()
        if self._numbers and not self._letters:
            self._letters = _letters()
        self._background = self._canvas.copy_from_bbox(self._axes.bbox)

    def frame(self) -> np.ndarray:
        """The frozen background and over it what is live and visible.

        Returns:
            ``(height, width, 3)`` uint8, a new array.
        """
        self._canvas.restore_region(self._background)
        for artist in self._live:
            if artist.get_visible():
                self._axes.draw_artist(artist)
        frame = self._pixels()
        for block in self._blocks:
            block.paint(frame)
        for number in self._numbers:
            number.paint(frame, self._letters)
        return frame

    def _pixels(self) -> np.ndarray:
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _kept(self, artist: Any, live: bool) -> Any:
        if live:
            artist.set_animated(True)
            self._live.append(artist)
        return artist


def _letters() -> dict[str, np.ndarray]:
    """Each of `LETTERS` as black on white pixels ``(h, w, 3)``, all of one height."""
    cell, letters = 24, {}
    sheet = Sheet(cell * len(LETTERS), cell)
    for i, letter in enumerate(LETTERS):
        sheet.text(cell * (i + 0.25), cell / 2, letter)
    sheet.freeze()
    page = sheet._pixels()
    for i, letter in enumerate(LETTERS):
        box = page[:, cell * i : cell * (i + 1)]
        inked = np.flatnonzero((box < 250).any(axis=(0, 2)))
        letters[letter] = box[:, inked[0] - 1 : inked[-1] + 1].copy()
    return letters


def shortened(words: str, width: float) -> str:
    """`words` cut to `width` pixels at `FONT`; the end stays, which tells nested names apart."""
    room = max(2, int(width / LETTER))
    return words if len(words) <= room else "…" + words[-(room - 1) :]
