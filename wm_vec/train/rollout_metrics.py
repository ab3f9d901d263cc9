"""Metrics of imagined rollouts, effects of actions and returns against real ones, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EFFECT_FLOOR = 0.05
"""Signs are compared where the real effect is at least this part of its own root mean square."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ALPHA = 0.01
"""Level of the Kolmogorov-Smirnov tests."""
SAME_RETURN = 1e-3
"""Returns that differ by less than this part of the largest real one are taken as equal."""
NO_EFFECT = 1e-4
"""Effects below this part of the residual's standard deviation are rounding."""


@dataclass(frozen=True)
class OpenLoopMetrics:
    """Imagined and real rollouts from the same start under the same actions, H steps.

    Attributes:
        names: The D dimensions.
        units: Of each: ``"std"``: root mean square errors in standard deviations of its real data; ``"mismatch"``:
            share of wrong classes. Of a stochastic dimension chance is part of the error, also of an exact world.
        counts: Rollouts that each step's average goes over: those whose real episode has not ended before.
        error: ``[D][H]``; None where no rollout is left, or where the dimension never varies.
        persistence: The same for standing still at the start.
    """

    names: list[str]
    units: list[str]
    counts: list[int]
    error: list[list[float | None]]
    persistence: list[list[float | None]]


@dataclass(frozen=True)
class EffectMetrics:
    """How the next value of one dimension changes from one action to another, in the same state.

    Attributes:
        actions: Which actions are compared.
        name: The dimension.
        real: Root mean square of the real effect, in standard deviations of the dimension's residual.
        imagined: The same of the imagined effect.
        sign_agreement: Share of states with the right sign, among those where the real effect is at least
            `EFFECT_FLOOR` of `real`; None where the action has no effect.
        relative_size: `imagined` / `real`; None likewise.
        relative_error: Root mean square of imagined minus real effect, over `real`; None likewise.
    """

    actions: str
    name: str
    real: float
    imagined: float
    sign_agreement: float | None = None
    relative_size: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class Distribution:
    """Episode returns: `n` of them, of which `cut` had not ended by the last step; quantiles by level."""

    n: int
    cut: int
    mean: float
    std: float
    quantiles: dict[str, float]
    mean_length: float


def open_loop_metrics(
    names: Sequence[str],
    real: np.ndarray,
    imagined: np.ndarray,
    alive: np.ndarray,
    std: np.ndarray,
    classes: np.ndarray,
) -> OpenLoopMetrics:
    """Errors step by step.

    Args:
        names: The D dimensions.
        real: ``(H + 1, n, D)`` float64, the start and what followed.
        imagined: ``(H, n, D)``, what was imagined to follow.
        alive: ``(H, n)`` bool, steps that the real episode took.
        std: ``(D,)``, the unit of each dimension of numbers.
        classes: ``(D,)`` bool, dimensions of classes.
    """
    counts = alive.sum(1)

    def errors(guess: np.ndarray) -> list[list[float | None]]:
        wrong = np.where(classes, guess != real[1:], np.square(guess - real[1:]))
        total = (wrong * alive[..., None]).sum(1)  # (H, D)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / counts[:, None]
            table = np.where(classes, mean, np.sqrt(mean) / std)
        return [[float(x) if np.isfinite(x) else None for x in column] for column in table.T]

    still = np.broadcast_to(real[:1], imagined.shape)
    units = np.where(classes, "mismatch", "std").tolist()
    return OpenLoopMetrics(list(names), units, counts.tolist(), errors(imagined), errors(still))


def effect_metrics(
    actions: str, names: Sequence[str], real: np.ndarray, imagined: np.ndarray, unit: np.ndarray
) -> list[EffectMetrics]:
    """The effect of an action in every dimension.

    Args:
        actions: Which actions are compared.
        names: The D dimensions.
        real: ``(n, D)`` float64, next value under one action minus next value under the other, from n states.
        imagined: ``(n, D)``, likewise.
        unit: ``(D,)``, standard deviation of the residual, 0 where it is constant.
    """
    metrics = []
    for name, true, guess, std in zip(names, real.T, imagined.T, unit, strict=True):
        scale = float(std) or 1.0
        size, guessed, wrong = (float(np.sqrt(np.square(x).mean())) for x in (true, guess, guess - true))
        relative: tuple[float, ...] = ()
        if size > NO_EFFECT * scale:
            clear = np.abs(true) >= EFFECT_FLOOR * size
            agreement = float((np.sign(guess[clear]) == np.sign(true[clear])).mean())
            relative = (agreement, guessed / size, wrong / size)
        metrics.append(EffectMetrics(actions, name, size / scale, guessed / scale, *relative))
    return metrics


def distribution(returns: np.ndarray, lengths: np.ndarray, ended: np.ndarray) -> Distribution:
    """Of ``(n,)`` episode returns, with their lengths and whether they ended."""
    quantiles = {f"{q:g}": float(np.quantile(returns, q)) for q in QUANTILES}
    moments = float(returns.mean()), float(returns.std())
    return Distribution(len(returns), int((~ended).sum()), *moments, quantiles, float(lengths.mean()))


def returns_statistic(real: np.ndarray, imagined: np.ndarray) -> float:
    """`ks_statistic` of returns, where differences below `SAME_RETURN` of the largest count as none.

    Learned rewards are right to a few digits. Where many real returns are equal, as CartPole's whole numbers
    are, an imagined 499.998 for a real 500 would otherwise count as much as a 10.
    """
    tolerance = SAME_RETURN * float(np.abs(real).max())
    points = np.unique(real)
    above = np.searchsorted(points, imagined).clip(max=len(points) - 1)
    low, high = points[(above - 1).clip(0)], points[above]
    nearest = np.where(imagined - low < high - imagined, low, high)
    return ks_statistic(real, np.where(np.abs(nearest - imagined) <= tolerance, nearest, imagined))


def ks_statistic(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov statistic: the largest gap between two empirical distributions."""
    points = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (a, b))
    return float(np.abs(below_a - below_b).max())


def ks_critical(n: int, m: int) -> float:
    """What the statistic exceeds in about 1 % of cases for two large samples of one distribution."""
    return float(np.sqrt(-0.5 * np.log(ALPHA / 2) * (n + m) / (n * m)))
