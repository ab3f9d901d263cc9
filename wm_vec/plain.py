"""Settings as people and files give them, NumPy's scalars among them, as plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST_WHOLE = 2**53
"""Whole numbers up to here are exact as floats, and have room to be added in int64."""


def whole_number(value: Any, name: str, low: int = 1, high: int = LARGEST_WHOLE) -> int:
    """A whole number, Python's or NumPy's, as a Python int.

    Raises:
        ValueError: Something else, True and 2.0 among them, or one that is not from `low` to `high`.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and low <= value <= high):
        most = f" and at most {high}" if whole and value > high else ""
        raise ValueError(
            f"{name} must be a whole number of at least {low}{most}, got {value!r} ({type(value).__name__})."
        )
    return int(value)


def real_number(value: Any, name: str, low: float, high: float) -> float:
    """A number, Python's or NumPy's, as a Python float.

    Raises:
        ValueError: Something else, True and NaN among them, or one that is not from `low` to `high`.
    """
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (real and low <= value <= high):
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r} ({type(value).__name__}).")
    return float(value)


def unwrap_scalars(config: object) -> None:
    """Make NumPy's scalars in fields of a frozen dataclass Python's."""
    for name, value in vars(config).items():
        if isinstance(value, np.generic):
            object.__setattr__(config, name, value.item())


def take_numbers(config: object, ranges: Mapping[str, tuple[Any, Any]]) -> None:
    """Make fields of a frozen dataclass plain numbers within ranges: whole ones where the range's ends are ints.

    Raises:
        ValueError: Something else.
    """
    for name, (low, high) in ranges.items():
        words, value = f"{type(config).__name__}: `{name}`", getattr(config, name)
        plain = whole_number if isinstance(low, int) else real_number
        object.__setattr__(config, name, plain(value, words, low, high))


def printable(text: str) -> str:
    """Text in which what a terminal would obey, such as an escape sequence, is spelled out. Line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
