"""Metrics of what chance decides, from S imagined samples of each of M states and actions, in NumPy.

Every metric takes ``(M,)`` weights, since states are sampled by stratum; a terminal step weighs 1. None stands for a
number that is not defined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_SAMPLES = 19
"""S: the real value has one of 20 ranks among the samples; the middle 10 and 18 are intervals of just 50 and 90 %."""
STOCHASTIC = 0.01
"""A dimension is stochastic where the samples' variance is at least this share of the residual's: a tenth of its
standard deviation."""
TIE = 0.01
"""Values closer than this part of the residual's standard deviation are ties: where a state decides the next one, the
last digits decide no rank."""
BIN_EDGES = (0.0, 0.25, 0.5, 0.75, 1 - 1e-9)
"""Reliability bins of the imagined chance of an end: none, up to 1/4, 1/2, 3/4, below 1, all."""


@dataclass(frozen=True)
class Share:
    """A share, and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DistributionMetrics:
    """Samples of one number against its real value.

    Attributes:
        name: The dimension.
        stochastic: Whether `sample_share` reaches `STOCHASTIC`.
        sample_share: Variance of the samples of a state and action, over the variance of the residual ``s' - s``.
        mean_r2: R2 of the residual that the mean of endlessly many samples has: the share of the variance that is no
            chance, as far as the world knows it.
        variance_ratio: Variance of the samples over the mean square of the real value about their mean: 1 if exact;
            None where the mean leaves nothing.
        coverage_50, coverage_90: Shares of real values within the samples' central 50 and 90 %.
    """

    name: str
    stochastic: bool
    sample_share: float
    mean_r2: float
    variance_ratio: float | None
    coverage_50: float
    coverage_90: float


@dataclass(frozen=True)
class ClassMetrics:
    """One dimension of classes.

    Attributes:
        name: The dimension.
        accuracy: Share of steps whose imagined next class is the real one.
        persistence: The same of standing still.
        ceiling: The `accuracy` of an exact sampler, were the chances as imagined: how often two samples agree.
    """

    name: str
    accuracy: float
    persistence: float
    ceiling: float


@dataclass(frozen=True)
class TransitionMetrics:
    """Steps from classes to classes under actions that are classes too.

    Attributes:
        impossible: Share of imagined steps (class, action, next class) that are not among the real ones.
        unseen: Share of real steps that are not among the other real ones: about `impossible` of an exact sampler.
        ceiling: How often two real steps from the same state and action agree: the share of right next classes of an
            exact sampler. None where no state and action come twice.
    """

    impossible: float
    unseen: float
    ceiling: float | None


@dataclass(frozen=True)
class Bin:
    """Steps by the imagined chance of an end.

    Attributes:
        low, high: The bin holds states in which a share in ``(low, high]`` of the samples but one end.
        n: Real steps that it stands for.
        imagined: Share of those left-out samples that end.
        observed: Share of the real steps that end. An exact sampler's left-out sample ends as often.
    """

    low: float
    high: float
    n: float
    imagined: float
    observed: Share


@dataclass(frozen=True)
class EndMetrics:
    """Terminations of single steps.

    Attributes:
        n_terminal: Real terminal steps.
        real_rate, imagined_rate: Shares of terminal steps among the same n.
        recall: Chance that a step which really ends is imagined to end; None where none does.
        precision: Chance that a step which is imagined to end really ends; None where none does.
        ceiling: Recall and precision of an exact sampler, were the chances p as imagined: ``sum p^2 / sum p``.
        reliability: Bins that stand for a step or more.
    """

    n_terminal: int
    real_rate: Share
    imagined_rate: Share
    recall: float | None
    precision: float | None
    ceiling: float | None
    reliability: list[Bin]


@dataclass(frozen=True)
class EndGivenClass:
    """How often steps end that lead to certain classes.

    Attributes:
        name: The dimension.
        group: Classes of which real steps end ``"always"``, ``"sometimes"`` or ``"never"``.
        n_classes, n_imagined: Their number, and that of the imagined steps that lead there.
        real: Share of the real steps that end.
        imagined: Share of the imagined ones; None where none leads there.
    """

    name: str
    group: str
    n_classes: int
    n_imagined: int
    real: float
    imagined: float | None


def wilson(successes: float, n: float, z: float = 1.96) -> Share:
    """A share with its score interval (Wilson, 1927), which holds for rare things too."""
    middle, half = successes + z * z / 2, z * np.sqrt(successes * (n - successes) / n + z * z / 4)
    low, high = (middle - half) / (n + z * z), (middle + half) / (n + z * z)
    return Share(successes / n, max(0.0, float(low)), min(1.0, float(high)))


def agreement(samples: np.ndarray, weight: np.ndarray) -> float:
    """How often two of ``(S, M)`` samples agree: unbiased for the sum of squared chances, averaged over states."""
    pairs = [(samples == np.roll(samples, k, 0)).mean(0) for k in range(1, len(samples))]
    return float(np.average(np.mean(pairs, 0), weights=weight))


def distribution_metrics(
    name: str, real: np.ndarray, samples: np.ndarray, variance: float, weight: np.ndarray
) -> DistributionMetrics:
    """Calibration of one number.

    Args:
        name: The dimension.
        real: ``(M,)`` float64, next values.
        samples: ``(S, M)``, imagined ones.
        variance: Of the residual, above 0.
        weight: ``(M,)``.
    """
    size = len(samples)
    variance = float(variance)
    spread = float(np.average(samples.var(0, ddof=1), weights=weight))
    left = float(np.average(np.square(real - samples.mean(0)), weights=weight)) - spread / size
    # An exact sampler gives the real value any rank alike; among ties, a rank is as likely as another.
    tie = TIE * variance**0.5
    lowest = (samples < real - tie).sum(0)
    highest = lowest + (np.abs(samples - real) <= tie).sum(0)

    def coverage(level: float) -> float:
        first = round((1 - level) / 2 * (size + 1))
        inside = np.minimum(highest, size - first) - np.maximum(lowest, first) + 1
        return float(np.average(inside.clip(0) / (highest - lowest + 1), weights=weight))

    ratio = spread / left if left > 1e-12 * variance else None
    shares = spread / variance, 1 - left / variance
    return DistributionMetrics(name, spread >= STOCHASTIC * variance, *shares, ratio, coverage(0.5), coverage(0.9))


def class_metrics(
    name: str, now: np.ndarray, real: np.ndarray, imagined: np.ndarray, samples: np.ndarray, weight: np.ndarray
) -> ClassMetrics:
    """Classes ``(n,)`` before a step, after it and as imagined once, and ``(S, M)`` as imagined several times."""
    right, still = (float((guess == real).mean()) for guess in (imagined, now))
    return ClassMetrics(name, right, still, agreement(samples, weight))


def transition_metrics(real: np.ndarray, imagined: np.ndarray, n_given: int) -> TransitionMetrics:
    """Possible and impossible steps.

    Args:
        real: ``(m, C)`` whole numbers: classes, action and next classes of all real steps that there are.
        imagined: ``(n, C)``, of imagined ones from some of the same states under the same actions.
        n_given: How many of the C columns are given to a step: classes and action.
    """
    step, given = (
        np.unique(table, axis=0, return_inverse=True)[1].ravel()
        for table in (np.concatenate([real, imagined]), real[:, :n_given])
    )
    counts = np.bincount(step[: len(real)], minlength=int(step.max()) + 1)
    same, others = counts[step[: len(real)]] - 1, np.bincount(given)[given] - 1
    again = others > 0
    ceiling = float((same[again] / others[again]).mean()) if again.any() else None
    return TransitionMetrics(float((counts[step[len(real) :]] == 0).mean()), float((same == 0).mean()), ceiling)


def end_metrics(
    real: np.ndarray, imagined: np.ndarray, chosen: np.ndarray, samples: np.ndarray, weight: np.ndarray
) -> EndMetrics:
    """Terminations.

    Args:
        real: ``(n,)`` bool.
        imagined: ``(n,)`` bool, one sample each.
        chosen: ``(M,)``, which of the n have more samples.
        samples: ``(S, M)`` bool.
        weight: ``(M,)``.
    """
    n, ends, size, counts = len(real), real[chosen], len(samples), samples.sum(0)
    chance = counts / size
    both, of_real, of_imagined = ((weight * x).sum() for x in (ends * chance, ends, chance))
    twice = (weight * chance * (counts - 1) / (size - 1)).sum()
    return EndMetrics(
        int(real.sum()),
        wilson(int(real.sum()), n),
        wilson(int(imagined.sum()), n),
        float(both / of_real) if of_real else None,
        float(both / of_imagined) if of_imagined else None,
        float(twice / of_imagined) if of_imagined else None,
        _reliability(ends, counts, size, weight),
    )


def _reliability(real: np.ndarray, counts: np.ndarray, size: int, weight: np.ndarray) -> list[Bin]:
    """Each sample in turn is left out, so that it is no part of the chance by which it is binned.

    Otherwise even an exact sampler's bins would be off, as those of the highest chances hold the luckiest counts.
    """
    ended = np.repeat([True, False], len(real))
    chance = (np.tile(counts, 2) - ended) / (size - 1)
    share = np.concatenate([counts, size - counts]) / size * np.tile(weight, 2)
    place = np.searchsorted(BIN_EDGES, chance)
    bins, edges = [], (0.0, *BIN_EDGES[:-1], 1.0, 1.0)
    for i in range(len(BIN_EDGES) + 1):
        inside = share * (place == i)
        n = float(inside.sum())
        if n >= 1:
            by_state = inside.reshape(2, -1).sum(0)
            independent = n**2 / float(np.square(by_state).sum())  # Kish's effective size of a weighted sample
            observed = wilson(float(by_state @ real) / n * independent, independent)
            bins.append(Bin(edges[i], edges[i + 1], n, float(inside @ ended) / n, observed))
    return bins


def end_given_class(
    name: str, real: np.ndarray, real_ended: np.ndarray, imagined: np.ndarray, imagined_ended: np.ndarray
) -> list[EndGivenClass]:
    """Next classes, whole numbers, and terminations: ``(m,)`` of all real steps, ``(n,)`` of imagined ones."""
    classes, place = np.unique(real, return_inverse=True)
    share = np.bincount(place, real_ended) / np.bincount(place)
    metrics = []
    for group, member in (("always", share == 1), ("sometimes", (share > 0) & (share < 1)), ("never", share == 0)):
        if member.any():
            there, guessed = np.isin(real, classes[member]), np.isin(imagined, classes[member])
            n = int(guessed.sum())
            guess = float(imagined_ended[guessed].mean()) if n else None
            metrics.append(EndGivenClass(name, group, int(member.sum()), n, float(real_ended[there].mean()), guess))
    return metrics
