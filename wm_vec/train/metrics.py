"""Metrics of single imagined steps against real ones, in NumPy. None stands for a number that is not defined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wm_vec.train.distribution_metrics import agreement

CONSTANT = 1e-6
"""What varies by less than this part of its size counts as constant: float32 cannot distinguish it from rounding."""
EXACT_FIT = 1e-6
"""A linear fit that leaves less than this share of the variance is exact; skill over it is not defined."""
MAX_VALUES = 16
"""Rewards of at most so many distinct values are told apart by value."""


@dataclass(frozen=True)
class DimensionMetrics:
    """One step in one dimension of the observation.

    Attributes:
        name: The dimension.
        r2: R2 of the residual ``s' - s``; None where the residual is constant. In a stochastic dimension it is that
            of one sample, which an exact sampler brings to 1 - 2 x the share of the variance that chance decides.
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
class RewardMetrics:
    """One-step rewards. Of those that are numbers and a matter of chance, `DistributionMetrics` has the distribution.

    Attributes:
        r2: None where the real reward is constant; of a reward that chance decides, below what its mean would have.
        rmse, max_error: Root mean square error, and the largest one.
        real_mean, imagined_mean: Means of the same steps.
        n_values: Distinct values of the real rewards. The following are None where they are more than `MAX_VALUES`.
        exact: Share of imagined rewards that are one of these values, to the last bit of float32.
        right: Share of imagined rewards that are the step's real one.
        ceiling: The `right` of an exact sampler, were the chances as imagined: how often two samples agree.
    """

    r2: float | None
    rmse: float
    max_error: float
    real_mean: float
    imagined_mean: float
    n_values: int
    exact: float | None = None
    right: float | None = None
    ceiling: float | None = None


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


def reward_metrics(
    real: np.ndarray, imagined: np.ndarray, known: np.ndarray, samples: np.ndarray, weight: np.ndarray
) -> RewardMetrics:
    """Rewards of single steps.

    Args:
        real, imagined: ``(n,)``, of the same steps.
        known: ``(m,)``, all real ones that there are.
        samples: ``(S, M)``, of some of the states.
        weight: ``(M,)``.
    """
    real, imagined, values = real.astype(np.float32), imagined.astype(np.float32), np.unique(known.astype(np.float32))
    shares: list[float] = []
    if len(values) <= MAX_VALUES:
        exact, right = (float(hits.mean()) for hits in (np.isin(imagined, values), imagined == real))
        shares = [exact, right, agreement(samples, weight)]
    real, imagined = real.astype(np.float64), imagined.astype(np.float64)
    error, spread = np.square(imagined - real), np.square(real - real.mean()).sum()
    varies = spread > len(real) * (CONSTANT * np.abs(real).max()) ** 2
    r2 = float(1 - error.sum() / spread) if varies else None
    rmse, largest = float(np.sqrt(error.mean())), float(np.sqrt(error.max()))
    return RewardMetrics(r2, rmse, largest, float(real.mean()), float(imagined.mean()), len(values), *shares)
