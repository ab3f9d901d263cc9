"""Figures of single imagined steps against real ones, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONSTANT = 1e-6
"""What varies by less than this part of its size counts as constant: float32 cannot tell it from rounding."""
EXACT_FIT = 1e-6
"""A linear fit that leaves less than this share of the variance is exact; no skill over it can be told."""


@dataclass(frozen=True)
class DimensionFigures:
    """One step in one dimension of the observation. None stands for a figure that is not defined.

    Attributes:
        name: The dimension.
        r2: R2 of the residual ``s' - s``; None where the residual is constant.
        skill_persistence: 1 - SSE / SSE of standing still; None where nothing ever moves.
        skill_linear: 1 - SSE / SSE of the best linear fit of the residual that does not see the action; None
            where that fit is exact.
        linear_r2: R2 of that fit, on the same held-out steps.
        rmse: Root mean square error, in the dimension's own unit.
    """

    name: str
    r2: float | None
    skill_persistence: float | None
    skill_linear: float | None
    linear_r2: float | None
    rmse: float


@dataclass(frozen=True)
class ClassFigures:
    """One step of a Discrete observation: shares of steps whose next class was right.

    Attributes:
        accuracy: The world's.
        persistence: Of standing still.
        most_likely: Of the most likely next class given the current one, counted on other data.
        most_likely_with_action: The same given the action too: about the best that can be had; None for
            actions that are not Discrete.
    """

    accuracy: float
    persistence: float
    most_likely: float
    most_likely_with_action: float | None


@dataclass(frozen=True)
class RewardFigures:
    """One-step rewards. `r2` is None where the real reward is constant."""

    r2: float | None
    rmse: float
    max_error: float


@dataclass(frozen=True)
class TerminationFigures:
    """Share of right answers on terminal steps and on the others, None where there are none of them."""

    terminal_accuracy: float | None
    terminal_count: int
    other_accuracy: float | None
    other_count: int


def dimension_figures(
    names: Sequence[str],
    now: np.ndarray,
    real: np.ndarray,
    imagined: np.ndarray,
    fit_now: np.ndarray,
    fit_real: np.ndarray,
) -> list[DimensionFigures]:
    """One-step figures of every dimension.

    Args:
        names: The D dimensions.
        now: ``(n, D)`` observations before the step.
        real: ``(n, D)``, after it.
        imagined: ``(n, D)``, after the imagined step.
        fit_now: ``(m, D)``, before other steps, to which the linear baseline is fitted.
        fit_real: ``(m, D)``, after them.
    """
    now, real, imagined, fit_now, fit_real = (
        np.asarray(a, np.float64) for a in (now, real, imagined, fit_now, fit_real)
    )
    linear = action_blind_fit(fit_now, fit_real - fit_now, now)
    figures = []
    for d, name in enumerate(names):
        moved = real[:, d] - now[:, d]
        error = float(np.square(imagined[:, d] - real[:, d]).sum())
        still = float(np.square(moved).sum())
        left_by_fit = float(np.square(linear[:, d] - moved).sum())
        spread = float(np.square(moved - moved.mean()).sum())
        rounding = len(moved) * (CONSTANT * float(np.abs(real[:, d]).max())) ** 2
        varies, moves = spread > rounding, still > rounding
        exact = left_by_fit <= max(EXACT_FIT * spread, rounding)
        figures.append(
            DimensionFigures(
                name,
                r2=1 - error / spread if varies else None,
                skill_persistence=1 - error / still if moves else None,
                skill_linear=None if exact else 1 - error / left_by_fit,
                linear_r2=1 - left_by_fit / spread if varies else None,
                rmse=float(np.sqrt(error / len(moved))),
            )
        )
    return figures


def action_blind_fit(fit_now: np.ndarray, fit_moved: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Least squares of the residual on the observation and an intercept, evaluated at `now`; ``(n, D)``."""
    mean, std = fit_now.mean(0), fit_now.std(0)
    scale = np.where(std > 0, std, 1.0)

    def features(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], 1)

    weights, *_ = np.linalg.lstsq(features(fit_now), fit_moved, rcond=None)
    return features(now) @ weights


def class_figures(
    now: np.ndarray,
    action: np.ndarray | None,
    real: np.ndarray,
    imagined: np.ndarray,
    fit_now: np.ndarray,
    fit_action: np.ndarray | None,
    fit_real: np.ndarray,
) -> ClassFigures:
    """One-step figures of a Discrete observation: classes ``(n,)``; actions None unless Discrete too."""
    by_state = most_likely(fit_now[:, None], fit_real, now[:, None], now)
    with_action = None
    if action is not None and fit_action is not None:
        key, fit_key = np.stack([now, action], 1), np.stack([fit_now, fit_action], 1)
        with_action = float((most_likely(fit_key, fit_real, key, by_state) == real).mean())
    return ClassFigures(
        accuracy=float((imagined == real).mean()),
        persistence=float((now == real).mean()),
        most_likely=float((by_state == real).mean()),
        most_likely_with_action=with_action,
    )


def most_likely(fit_key: np.ndarray, fit_next: np.ndarray, key: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """The most frequent next class of each `key` ``(n, k)``; `fallback` ``(n,)`` where it is new."""
    rows, counts = np.unique(np.column_stack([fit_key, fit_next]), axis=0, return_counts=True)
    best: dict[tuple[int, ...], tuple[int, int]] = {}
    for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
        *seen, following = row
        if count > best.get(tuple(seen), (0, 0))[0]:
            best[tuple(seen)] = count, following
    pairs = zip(key.tolist(), fallback.tolist(), strict=True)
    return np.array([best.get(tuple(seen), (0, other))[1] for seen, other in pairs])


def reward_figures(real: np.ndarray, imagined: np.ndarray) -> RewardFigures:
    """Rewards ``(n,)`` of the same steps."""
    real, imagined = real.astype(np.float64), imagined.astype(np.float64)
    error, spread = np.square(imagined - real), float(np.square(real - real.mean()).sum())
    constant = spread <= len(real) * (CONSTANT * float(np.abs(real).max())) ** 2
    r2 = None if constant else 1 - float(error.sum()) / spread
    return RewardFigures(r2, float(np.sqrt(error.mean())), float(np.abs(imagined - real).max()))


def termination_figures(real: np.ndarray, imagined: np.ndarray) -> TerminationFigures:
    """Terminations ``(n,)`` bool of the same steps."""
    right, terminal = real == imagined, int(real.sum())
    return TerminationFigures(
        float(right[real].mean()) if terminal else None,
        terminal,
        float(right[~real].mean()) if terminal < len(real) else None,
        len(real) - terminal,
    )
