"""The ends of axes."""

from __future__ import annotations

import numpy as np

OPEN = 1e6
"""Bounds of at least this size are none: an axis over the whole of int32 or float32 would show nothing."""
LEAST = 0.1
"""How far an axis without a bound reaches before larger values came."""
MOST = 1e300


class Limits:
    """Ends of the axes of `n` values: the space's bounds, or, where there are none, what was seen so far.

    An open end lies at 1, 2 or 5 times a power of ten from zero, or from a bound that is further out, and only moves
    outward, so that a video's axis hardly ever jumps. Values with the same bounds have one scale.

    Args:
        low: Lower bounds ``(n,)``.
        high: Upper bounds ``(n,)``.

    Attributes:
        low: Ends of the axes, ``(n,)`` float64.
        high: As `low`, always above it.
        shared: Whether all values have the same scale.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        low, high = (np.array(bounds, dtype=np.float64).reshape(-1) for bounds in (low, high))
        self.open_low, self.open_high = ~(np.abs(low) < OPEN), ~(np.abs(high) < OPEN)
        both = self.open_low & self.open_high
        self.shared = self._all_same(low, self.open_low) and self._all_same(high, self.open_high)
        self.low = np.where(self.open_low, np.where(both, 0, np.fmin(high, 0)) - LEAST, low)
        self.high = np.where(self.open_high, np.where(both, 0, np.fmax(low, 0)) + LEAST, high)
        self.high = np.where(self.high > self.low, self.high, self.low + 1)

    @classmethod
    def overall(cls, low: np.ndarray, high: np.ndarray) -> Limits:
        """One axis for all values; open where any of them is."""
        return cls(np.min(low, keepdims=True), np.max(high, keepdims=True))

    def grow(self, values: np.ndarray) -> bool:
        """Move open ends outward to take in `values` ``(n,)``, or any number of them if the scale is shared.

        Returns:
            Whether an end moved.
        """
        if not (self.open_low.any() or self.open_high.any()):
            return False
        least = greatest = np.clip(np.where(np.isfinite(values), values, np.nan), -MOST, MOST)
        if self.shared:
            finite = least[np.isfinite(least)]
            if not finite.size:
                return False
            least, greatest = finite.min(), finite.max()
        both = self.open_low & self.open_high
        reach = _round_up(np.fmax(np.abs(least), np.abs(greatest)))
        above, below = np.fmax(self.low, 0), np.fmin(self.high, 0)
        low = np.where(both, -reach, np.where(self.open_low, below - _round_up(below - least), self.low))
        high = np.where(both, reach, np.where(self.open_high, above + _round_up(greatest - above), self.high))
        # fmin and fmax leave out what is not a number.
        low, high = np.fmin(self.low, low), np.fmax(self.high, high)
        moved = bool((low < self.low).any() or (high > self.high).any())
        self.low, self.high = low, high
        return moved

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where `values` lie between the ends, in [0, 1]; what is beyond them is at the end, NaN stays NaN."""
        return (np.clip(values, self.low, self.high) - self.low) / (self.high - self.low)

    def zero(self) -> np.ndarray:
        """Where zero lies between the ends, in [0, 1], or the end that is nearest to it."""
        return self.place(np.zeros(len(self.low)))

    @staticmethod
    def _all_same(bounds: np.ndarray, is_open: np.ndarray) -> bool:
        return bool(is_open.all() or (not is_open.any() and (bounds == bounds[:1]).all()))


def _round_up(size: np.ndarray) -> np.ndarray:
    """The next 1, 2 or 5 times a power of ten, at least `LEAST`; NaN stays NaN."""
    size = np.maximum(size, LEAST)
    power = 10.0 ** np.floor(np.log10(size))
    # A hair of tolerance, as 0.1 / 0.1 of logarithms may come out above 1.
    ratio = size / power * (1 - 1e-12)
    return power * np.where(ratio <= 1, 1, np.where(ratio <= 2, 2, np.where(ratio <= 5, 5, 10)))


def number(value: float) -> str:
    """A number in few letters."""
    value += 0.0  # minus zero is zero
    whole = abs(value) < 1e6 and float(value).is_integer()
    return f"{value:.0f}" if whole else f"{value:.3g}"
