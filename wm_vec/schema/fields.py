"""One line per field: how often it changes, its unit, what it is, and what its positions stand for."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

from wm_vec.canvas import Field
from wm_vec.schema.calendar import TICKS

BOUNDS = {"share": (0.0, 1.0), "index": (0.0, 1.0), "balance": (-1.0, 1.0)}
"""Scales and their ends: part of a whole or a chance, none to full, one pole to the other."""


class Axis(NamedTuple):
    """What positions stand for, one after the other.

    Attributes:
        name: Of the axis, ``"segment"``.
        parts: A name for each position.
    """

    name: str
    parts: tuple[str, ...]


def axis(name: str, *parts: str) -> Axis:
    """An axis by its name and the names of its positions."""
    return Axis(name, parts)


def field_of(
    period: str, unit: str, meaning: str, *axes: Axis, low: float | None = None, high: float | None = None
) -> Field:
    """A field that changes once in each `period`.

    Args:
        period: A key of `TICKS`.
        unit: Its unit or scale; a scale of `BOUNDS` brings its bounds.
        meaning: What it is, without its axes.
        *axes: None for one position, one for a line of positions, two for the rows and columns of a table.
        low: Lower bound; None for that of the scale, else none.
        high: Upper bound, likewise.
    """
    ends = BOUNDS.get(unit, (-math.inf, math.inf))
    by = " and ".join(f"{name} ({', '.join(parts)})" for name, parts in axes)
    h, w = ([1, 1] + [len(parts) for _, parts in axes])[-2:]
    return Field(
        h,
        w,
        period=TICKS[period],
        low=ends[0] if low is None else low,
        high=ends[1] if high is None else high,
        unit=unit,
        meaning=f"{meaning} by {by}" if axes else meaning,
    )


hourly, daily, weekly = partial(field_of, "hour"), partial(field_of, "day"), partial(field_of, "week")
monthly, quarterly, yearly = partial(field_of, "month"), partial(field_of, "quarter"), partial(field_of, "year")
