"""A named, typed part of the world."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wm_vec.plain import LARGEST_WHOLE, take_numbers, truth

Bound = float | tuple[float, ...]
MAX_CLASSES = 4096
MAX_POSITIONS = 4096
"""Positions of a canvas: attention costs their square."""
MAX_PERIOD = 2**31 - 1
WORDS = ("unit", "meaning")
"""Of a field: what only people read."""
_SHARED_ATTRIBUTES = ("h", "w", "period", "loss_weight", "is_output")


@dataclass(frozen=True)
class Field:
    """``h x w`` positions that carry one quantity.

    Attributes:
        h: Rows of positions.
        w: Columns of positions.
        period: Steps between two changes of the field; it holds its value in between.
        loss_weight: Weight of the field in the training loss.
        is_output: Whether the model predicts the field. An action that only goes in is no output.
        is_input: Whether the model reads the field's current value. A reward or a termination flag describes the step
            before, so it is predicted but not read.
        low: Lower bound in the field's own units: one number, or one per position in row-major order.
        high: Upper bound, likewise.
        num_classes: Number of classes of a categorical field, whose values are the whole numbers below it,
            0 alone where there is one class; None for numbers.
        max_values: Where the data have no more distinct values than this, a position of a field of numbers is
            predicted as one of them instead of as a number; 0 for never, 2 at most where the field is an input.
        leads: Whether the field's next value is drawn before all others, which are predicted given it; for one
            position of two classes that is no input, such as the end of an episode.
        unit: What its numbers are in, ``"million USD"``, or the scale that they are on; for people.
        meaning: What it is, in one line; for people, as `WorldModel.describe` is. Fields that differ in words alone are
            equal.
    """

    h: int = 1
    w: int = 1
    period: int = 1
    loss_weight: float = 1.0
    is_output: bool = True
    is_input: bool = True
    low: Bound = -math.inf
    high: Bound = math.inf
    num_classes: int | None = None
    max_values: int = 0
    leads: bool = False
    unit: str = field(default="", compare=False)
    meaning: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        sizes = {
            "h": (1, MAX_POSITIONS),
            "w": (1, MAX_POSITIONS),
            "period": (1, MAX_PERIOD),
            "max_values": (0, MAX_CLASSES),
        }
        take_numbers(self, {**sizes, "loss_weight": (0.0, 1e30)})
        if self.num_classes is not None:
            take_numbers(self, {"num_classes": (1, LARGEST_WHOLE)})
        if self.num_positions > MAX_POSITIONS:
            raise ValueError(f"Field: at most {MAX_POSITIONS} positions, got h={self.h} x w={self.w}.")
        for name in ("is_output", "is_input", "leads"):
            object.__setattr__(self, name, truth(getattr(self, name), f"Field: `{name}`"))
        if self.num_classes is not None and self.num_classes > MAX_CLASSES:
            raise ValueError(
                f"Field: `num_classes` is {self.num_classes}; a field takes at most {MAX_CLASSES}. Make several fields "
                "of it (the digits of the index, for example), or a number."
            )
        if self.is_input and self.max_values > 2:
            raise ValueError(
                f"Field: `max_values` must be 0 to 2, more only where is_input=False; got {self.max_values!r}."
            )
        if self.leads and (self.num_classes != 2 or self.num_positions != 1 or self.is_input or not self.is_output):
            raise ValueError("Field: `leads` is for one predicted position of num_classes=2 with is_input=False.")
        for name in WORDS:
            if not (isinstance(words := getattr(self, name), str) and words.isprintable()):
                raise ValueError(f"Field: `{name}` must be one line of printable text, got {words!a}.")
        for name in ("low", "high"):  # also arrays, tensors and lists
            given = getattr(self, name)
            try:
                bound = np.asarray(given)
            except (TypeError, ValueError, RuntimeError):  # nested lists of unequal lengths, TensorDicts
                bound = np.empty(0, object)
            if bound.dtype.kind not in "iuf":
                raise ValueError(f"Field: `{name}` must be numbers, got {given!r}.")
            bound = bound.astype(np.float64)
            object.__setattr__(self, name, tuple(bound.ravel().tolist()) if bound.ndim else float(bound))
        for low, high in zip(self.bounds("low"), self.bounds("high"), strict=True):
            if not low <= high:
                raise ValueError(f"Field: `low` must not be above `high`, got {low} and {high}.")

    @property
    def num_positions(self) -> int:
        """Number of canvas positions, ``h * w``."""
        return self.h * self.w

    def bounds(self, which: str) -> tuple[float, ...]:
        """``"low"`` or ``"high"`` as one number per position."""
        bound = getattr(self, which)
        if not isinstance(bound, Sequence):
            return (float(bound),) * self.num_positions
        if len(bound) != self.num_positions:
            raise ValueError(
                f"Field: `{which}` must be one number or {self.num_positions} (h={self.h} x w={self.w}), "
                f"got {len(bound)}."
            )
        return tuple(float(b) for b in bound)

    def span(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Its bounds, ``"low"`` and ``"high"``; of a categorical field the first and the last class."""
        if self.num_classes is not None:
            return (0.0,) * self.num_positions, (self.num_classes - 1.0,) * self.num_positions
        return self.bounds("low"), self.bounds("high")


def is_field(value: Any) -> bool:
    """Whether an object can be taken as a field: it has ``h``, ``w``, ``period``, ``loss_weight``, ``is_output``."""
    return not isinstance(value, type) and all(hasattr(value, name) for name in _SHARED_ATTRIBUTES)


def as_field(value: Any) -> Field:
    """Take any object with a field's attributes as a `Field`, so that schemas of other canvas libraries compile."""
    if isinstance(value, Field):
        return value
    attributes = {f.name: getattr(value, f.name) for f in dataclasses.fields(Field) if hasattr(value, f.name)}
    return Field(**attributes)
