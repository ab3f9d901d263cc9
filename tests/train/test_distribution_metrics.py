"""What chance decides: exact samplers must come out calibrated, biased ones must not."""

from __future__ import annotations

import numpy as np
import pytest

from wm_vec.train.distribution_metrics import (
    N_SAMPLES,
    agreement,
    class_metrics,
    distribution_metrics,
    end_given_class,
    end_metrics,
    transition_metrics,
    wilson,
)
from wm_vec.train.evaluation import _strata

M = 4000


def gaussian(rng, shape, scale=0.5):
    return rng.normal(size=shape) * scale


def bimodal(rng, shape, scale=0.5):
    return scale * (rng.choice([-1.0, 1.0], shape) + 0.1 * rng.normal(size=shape))


def coin(rng, shape, scale=0.5):
    return scale * (rng.random(shape) < 0.3)


def of_noise(noise, guess, scale=0.5, shift=0.0):
    """Metrics of the noise `noise` around a mean that differs by state, imagined as `guess`."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=M)
    real = mean + noise(rng, M)
    samples = mean + shift + guess(rng, (N_SAMPLES, M), scale)
    return distribution_metrics("x", real, samples, real.var(), np.ones(M))


@pytest.mark.parametrize("noise", [gaussian, bimodal, coin])
def test_an_exact_sampler_is_calibrated(noise):
    metrics = of_noise(noise, noise)
    assert metrics.stochastic
    assert metrics.variance_ratio == pytest.approx(1, abs=0.05)
    assert metrics.coverage_50 == pytest.approx(0.5, abs=0.03)
    assert metrics.coverage_90 == pytest.approx(0.9, abs=0.02)


def test_the_shares_of_a_known_gaussian():
    metrics = of_noise(gaussian, gaussian)
    assert metrics.sample_share == pytest.approx(0.25 / 1.25, abs=0.01)
    assert metrics.mean_r2 == pytest.approx(1 / 1.25, abs=0.01)


@pytest.mark.parametrize(("scale", "ratio", "inside_90"), [(0.25, 0.25, (0.3, 0.7)), (1.0, 4.0, (0.97, 1.0))])
def test_too_narrow_and_too_wide_samples_show(scale, ratio, inside_90):
    metrics = of_noise(gaussian, gaussian, scale)
    assert metrics.variance_ratio == pytest.approx(ratio, rel=0.1)
    assert inside_90[0] < metrics.coverage_90 < inside_90[1]


def test_a_wrong_mean_and_a_filled_gap_show():
    shifted = of_noise(gaussian, gaussian, shift=1.0)
    assert shifted.variance_ratio < 0.25
    assert shifted.coverage_50 < 0.2
    filled = of_noise(bimodal, lambda rng, shape, scale: gaussian(rng, shape, scale * 1.01**0.5))
    assert filled.variance_ratio == pytest.approx(1, abs=0.05), "the variance alone would not tell"
    assert filled.coverage_50 < 0.2


def test_a_world_without_chance_is_deterministic_and_its_rounding_is_no_miss():
    rng = np.random.default_rng(0)
    real = rng.normal(size=M)
    samples = real + 1e-4 + 1e-5 * rng.normal(size=(N_SAMPLES, M))
    metrics = distribution_metrics("x", real, samples, real.var(), np.ones(M))
    assert not metrics.stochastic
    assert (metrics.coverage_50, metrics.coverage_90) == pytest.approx((0.5, 0.9))
    collapsed = of_noise(gaussian, lambda rng, shape, scale: np.zeros(shape))
    assert not collapsed.stochastic
    assert collapsed.variance_ratio == pytest.approx(0, abs=1e-9)
    assert collapsed.mean_r2 == pytest.approx(0.8, abs=0.02), "which puts it among the distributions all the same"
    still = distribution_metrics("x", real, np.tile(real, (N_SAMPLES, 1)), real.var(), np.ones(M))
    assert still.variance_ratio is None


def ends_of(chance, imagined_chance, most):
    """Metrics of ends by `chance` ``(n,)``, imagined by another one, from at most so many states of each kind."""
    rng = np.random.default_rng(1)
    real, once = rng.random(len(chance)) < chance, rng.random(len(chance)) < imagined_chance
    chosen, weight = _strata(real | once, most, 0)
    samples = rng.random((N_SAMPLES, len(chosen))) < imagined_chance[chosen]
    return end_metrics(real, once, chosen, samples, weight)


@pytest.mark.parametrize("most", [20_000, 1500])
def test_exact_ends_reach_their_ceiling_and_lie_on_the_diagonal(most):
    chance = np.repeat([0.0, 0.005, 0.3, 0.9], [10_000, 8000, 1500, 500])
    metrics = ends_of(chance, chance, most)
    by_hand = np.square(chance).sum() / chance.sum()
    assert metrics.n_terminal == pytest.approx(940, abs=80)
    assert metrics.imagined_rate.low < metrics.real_rate.value < metrics.imagined_rate.high
    for figure in (metrics.recall, metrics.precision, metrics.ceiling):
        assert figure == pytest.approx(by_hand, abs=0.04)
    assert len(metrics.reliability) == 6
    assert sum(b.n for b in metrics.reliability) == pytest.approx(20_000, abs=1)
    assert all(b.observed.low <= b.imagined <= b.observed.high for b in metrics.reliability)
    rising = [b.observed.value for b in metrics.reliability[:5]]
    assert rising == sorted(rising)


def test_rare_ends_by_pure_chance_have_a_low_ceiling_and_no_more():
    chance = np.full(20_000, 1 / 200)
    metrics = ends_of(chance, chance, 2500)
    assert 0.001 < metrics.ceiling < 0.01
    assert 0.001 < metrics.recall < 0.01
    assert all(b.observed.low <= b.imagined <= b.observed.high for b in metrics.reliability)


@pytest.mark.parametrize("factor", [0.3, 2.5])
def test_too_few_and_too_many_ends_show(factor):
    chance = np.repeat([0.005, 0.3], [15_000, 5000])
    metrics = ends_of(chance, factor * chance, 2500)
    interval = metrics.imagined_rate
    assert interval.high < metrics.real_rate.value if factor < 1 else interval.low > metrics.real_rate.value
    off = [b for b in metrics.reliability if not b.observed.low <= b.imagined <= b.observed.high]
    assert sum(b.n for b in off) > 0.5 * 20_000 * 0.25


def test_ends_in_the_wrong_places_show():
    chance = np.repeat([0.02, 0.5], [19_000, 1000])
    metrics = ends_of(chance, chance[::-1], 2500)
    assert metrics.imagined_rate.low < metrics.real_rate.value < metrics.imagined_rate.high
    assert metrics.recall < 0.15 < 0.25 < metrics.ceiling
    assert metrics.reliability[-1].observed.high < metrics.reliability[-1].imagined


def test_ends_by_hand():
    real, once = np.array([True, False, False, True]), np.array([True, True, False, False])
    samples = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]], bool)
    metrics = end_metrics(real, once, np.arange(4), samples, np.ones(4))
    assert (metrics.n_terminal, metrics.real_rate.value, metrics.imagined_rate.value) == (2, 0.5, 0.5)
    assert metrics.recall == pytest.approx((1 + 1 / 3) / 2)
    assert metrics.precision == pytest.approx((1 + 1 / 3) / 2)
    # Pairs of samples that both end: 1, 1/3, 0, 0; the mean chances 1, 2/3, 0, 1/3.
    assert metrics.ceiling == pytest.approx((1 + 1 / 3) / 2)
    none = end_metrics(np.zeros(3, bool), np.zeros(3, bool), np.arange(3), np.zeros((5, 3), bool), np.ones(3))
    assert (none.recall, none.precision, none.ceiling) == (None, None, None)
    assert len(none.reliability) == 1


def test_intervals_of_shares():
    # Brown, Cai and DasGupta (2001): the score interval of 0 of 10 and of 5 of 10.
    assert (wilson(0, 10).low, wilson(0, 10).high) == (0, pytest.approx(0.2775, abs=1e-3))
    assert (wilson(5, 10).low, wilson(5, 10).high) == pytest.approx((0.2366, 0.7634), abs=1e-3)
    rng = np.random.default_rng(0)
    held = [w.low <= 0.01 <= w.high for w in (wilson(k, 500) for k in rng.binomial(500, 0.01, 2000))]
    assert np.mean(held) > 0.92


def test_classes_reach_their_ceiling():
    rng = np.random.default_rng(0)
    chances, weight = np.array([0.5, 0.3, 0.2]), np.ones(M)

    def draw(*shape):
        return rng.choice(3, shape, p=chances)

    metrics = class_metrics("s", np.zeros(M), draw(M), draw(M), draw(N_SAMPLES, M), weight)
    for figure, expected in ((metrics.accuracy, 0.38), (metrics.ceiling, 0.38), (metrics.persistence, 0.5)):
        assert figure == pytest.approx(expected, abs=0.02)
    assert agreement(np.array([[0, 1], [0, 2], [1, 3]]), np.array([1.0, 2.0])) == pytest.approx(1 / 9)


def test_transitions_by_hand():
    # Columns: class, action, next class.
    real = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 2], [1, 0, 2]])
    metrics = transition_metrics(real, np.array([[0, 0, 1], [0, 0, 3], [0, 0, 2], [1, 0, 1]]), 2)
    assert metrics.impossible == 0.5
    assert metrics.unseen == 0.5
    assert metrics.ceiling == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert transition_metrics(real[2:], real[2:], 2).ceiling is None


def test_an_exact_sampler_has_the_share_of_impossible_transitions_that_the_real_one_has():
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(20, 0.1), (20, 2))

    def steps(n, chances):
        state, action = rng.integers(0, 20, n), rng.integers(0, 2, n)
        following = (rng.random((n, 1)) > chances[state, action].cumsum(1)).sum(1)
        return np.column_stack([state, action, following])

    real = steps(6000, table)
    exact = transition_metrics(real, steps(3000, table), 2)
    assert exact.impossible == pytest.approx(exact.unseen, abs=0.01)
    assert exact.unseen < 0.02
    assert exact.ceiling == pytest.approx(np.square(table).sum(2).mean(), abs=0.02)
    mixed = transition_metrics(real, steps(3000, 0.9 * table + 0.1 / 20), 2)
    assert mixed.impossible > 0.05


def test_ends_given_classes_by_hand():
    real, ended = np.array([5, 5, 7, 7, 9]), np.array([True, True, False, False, True])
    guess, guessed_end = np.array([5, 5, 7, 7, 7, 3]), np.array([True, False, False, True, False, True])
    always, never = end_given_class("s", real, ended, guess, guessed_end)
    assert (always.group, always.n_classes, always.n_imagined, always.real, always.imagined) == ("always", 2, 2, 1, 0.5)
    assert (never.group, never.n_classes, never.n_imagined, never.real) == ("never", 1, 3, 0)
    assert never.imagined == pytest.approx(1 / 3)
    (sometimes,) = end_given_class("s", np.array([1, 1]), np.array([True, False]), np.array([2]), np.array([True]))
    assert (sometimes.group, sometimes.real, sometimes.imagined) == ("sometimes", 0.5, None)
