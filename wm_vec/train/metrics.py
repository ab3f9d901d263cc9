"""Metrics of single imagined steps against real ones, in NumPy. None stands for a number that is not defined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONSTANT = 1e-6
"""What varies by less than this part of its size counts as constant: float32 cannot distinguish it from rounding."""
EXACT_FIT = 1e-6
"""A linear fit that leaves less than this share of the variance is exact; skill over it is not defined."""


@dataclass(frozen=True)
class DimensionMetrics:
    """One step in one dimension of the observation.

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
class ClassMetrics:
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
class RewardMetrics:
    """One-step rewards. `r2` is None where the real reward is constant."""

    r2: float | None
    rmse: float
    max_error: float


@dataclass(frozen=True)
class TerminationMetrics:
    """Share of right answers on terminal steps and on the others, None where there are none of them."""

    terminal_accuracy: float | None
    terminal_count: int
    other_accuracy: float | None
    other_count: int


def dimension_metrics(
    names: Sequence[str],
    now: np.ndarray,
    real: np.ndarray,
    imagined: np.ndarray,
    fit_now: np.ndarray,
    fit_real: np.ndarray,
) -> list[DimensionMetrics]:
    """One-step metrics of every dimension.

    Args:
        names: The D dimensions.
        now: ``(n, D)`` float64, observations before the step.
        real: ``(n, D)``, after it.
        imagined: ``(n, D)``, after the imagined step.
        fit_now: ``(m, D)``, before other steps, to which the linear baseline is fitted.
        fit_real: ``(m, D)``, after them.
    """
    moved = real - now
    linear = action_blind_fit(fit_now, fit_real - fit_now, now)
    differences = imagined - real, moved, linear - moved, moved - moved.mean(0)
    error, still, left_by_fit, spread = (np.square(x).sum(0) for x in differences)
    rounding = len(now) * np.square(CONSTANT * np.abs(real).max(0))
    varies, moves = spread > rounding, still > rounding
    exact = left_by_fit <= np.maximum(EXACT_FIT * spread, rounding)
    columns = (
        names,
        _skill(error, spread, varies),
        _skill(error, still, moves),
        _skill(error, left_by_fit, ~exact),
        _skill(left_by_fit, spread, varies),
        np.sqrt(error / len(now)).tolist(),
    )
    return [DimensionMetrics(*column) for column in zip(*columns, strict=True)]


def _skill(error: np.ndarray, reference: np.ndarray, defined: np.ndarray) -> list[float | None]:
    """``1 - error / reference`` of every dimension, None where it is not defined."""
    return [float(1 - e / r) if ok else None for e, r, ok in zip(error, reference, defined, strict=True)]


def action_blind_fit(fit_now: np.ndarray, fit_moved: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Least squares of the residual on the observation and an intercept, evaluated at `now`; ``(n, D)``."""
    mean, std = fit_now.mean(0), fit_now.std(0)
    scale = np.where(std > 0, std, 1.0)

    def features(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], 1)

    weights, *_ = np.linalg.lstsq(features(fit_now), fit_moved, rcond=None)
    return features(now) @ weights


def class_metrics(
    now: np.ndarray,
    action: np.ndarray | None,
    real: np.ndarray,
    imagined: np.ndarray,
    fit_now: np.ndarray,
    fit_action: np.ndarray | None,
    fit_real: np.ndarray,
) -> ClassMetrics:
    """One-step metrics of a Discrete observation: classes ``(n,)``; actions None unless Discrete too."""
    by_state = most_likely(fit_now[:, None], fit_real, now[:, None], now)
    with_action = None
    if action is not None and fit_action is not None:
        key, fit_key = np.stack([now, action], 1), np.stack([fit_now, fit_action], 1)
        with_action = float((most_likely(fit_key, fit_real, key, by_state) == real).mean())
    accuracy, persistence, by_count = (float((guess == real).mean()) for guess in (imagined, now, by_state))
    return ClassMetrics(accuracy, persistence, by_count, with_action)


def most_likely(fit_key: np.ndarray, fit_next: np.ndarray, key: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """The most frequent next class of each `key` ``(n, k)``; `fallback` ``(n,)`` where it is new."""
    cases, counts = np.unique(np.column_stack([fit_key, fit_next]), axis=0, return_counts=True)
    rising = np.argsort(-counts, kind="stable")[::-1]  # a key's last case stays: its most frequent one
    best = {tuple(seen): following for *seen, following in cases[rising].tolist()}
    return np.array([best.get(tuple(seen), other) for seen, other in zip(key.tolist(), fallback, strict=True)])


def reward_metrics(real: np.ndarray, imagined: np.ndarray) -> RewardMetrics:
    """Rewards ``(n,)`` of the same steps."""
    real, imagined = real.astype(np.float64), imagined.astype(np.float64)
    error, spread = np.square(imagined - real), np.square(real - real.mean()).sum()
    varies = spread > len(real) * (CONSTANT * np.abs(real).max()) ** 2
    r2 = float(1 - error.sum() / spread) if varies else None
    return RewardMetrics(r2, float(np.sqrt(error.mean())), float(np.sqrt(error.max())))


def termination_metrics(real: np.ndarray, imagined: np.ndarray) -> TerminationMetrics:
    """Terminations ``(n,)`` bool of the same steps."""
    right, terminal = real == imagined, int(real.sum())
    return TerminationMetrics(
        float(right[real].mean()) if terminal else None,
        terminal,
        float(right[~real].mean()) if terminal < len(real) else None,
        len(real) - terminal,
    )
