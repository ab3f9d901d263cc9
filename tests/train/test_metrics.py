"""The metrics of an evaluation against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from wm_vec.train.metrics import dimension_metrics, reward_metrics
from wm_vec.train.rollout_metrics import (
    distribution,
    effect_metrics,
    ks_critical,
    ks_statistic,
    open_loop_metrics,
    returns_statistic,
)


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_one_step_by_hand():
    now = column(0, 1, 2, 3)
    moved = column(1, 3, 1, 3)  # mean 2; squares sum to 20; squares about the mean to 4
    guess = column(1, 2, 1, 3)  # one error of 1
    # The other data move by 2 everywhere, so the best fit says 2 everywhere and leaves 4.
    (metrics,) = dimension_metrics(["x"], now, now + moved, now + guess, now, now + 2)
    assert metrics.r2 == pytest.approx(0.75)
    assert metrics.skill_persistence == pytest.approx(0.95)
    assert metrics.skill_linear == pytest.approx(0.75)
    assert metrics.linear_r2 == pytest.approx(0, abs=1e-12)
    assert metrics.rmse == pytest.approx(0.5)


def test_standing_still_earns_nothing():
    rng = np.random.default_rng(0)
    now = rng.normal(size=(1000, 1)) * 100
    after = now + rng.normal(size=(1000, 1))
    spread = np.square(after - after.mean()).sum()
    assert 1 - np.square(now - after).sum() / spread > 0.999  # what R2 of the next state would say
    (metrics,) = dimension_metrics(["x"], now, after, now, now, after)
    assert metrics.r2 <= 0
    assert metrics.skill_persistence == pytest.approx(0)


def test_the_linear_fit_sees_all_dimensions_and_no_action():
    rng = np.random.default_rng(0)
    now, push = rng.normal(size=(500, 2)), rng.choice([-1.0, 1.0], size=500)
    after = now.copy()
    after[:, 0] += 3 * now[:, 1] + 0.5  # linear in another dimension
    after[:, 1] += push  # only the action
    first, second = dimension_metrics(["x", "v"], now, after, after + 0.01, now, after)
    assert first.skill_linear is None, "no skill can be had over a fit that is exact"
    assert first.linear_r2 == pytest.approx(1)
    assert abs(second.linear_r2) < 0.02
    assert second.skill_linear == pytest.approx(second.r2, abs=1e-3)


def test_what_never_moves_has_no_metrics():
    now = column(5, 5, 5)
    (metrics,) = dimension_metrics(["x"], now, now, now + 1, now, now)
    assert (metrics.r2, metrics.skill_persistence, metrics.skill_linear) == (None, None, None)
    assert metrics.rmse == pytest.approx(1), "an error there still shows"
    (clock,) = dimension_metrics(["t"], column(1, 2, 3), column(2, 3, 4), column(2, 3, 4), now, now)
    assert clock.r2 is None
    assert clock.skill_persistence == pytest.approx(1)


def test_rewards_by_hand():
    samples, weight = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0]]), np.ones(2)
    metrics = reward_metrics(np.array([0.0, 2.0]), np.array([0.0, 1.0]), np.array([0.0, 2.0]), samples, weight)
    assert (metrics.r2, metrics.rmse, metrics.max_error) == (0.5, pytest.approx(0.5**0.5), 1.0)
    assert (metrics.real_mean, metrics.imagined_mean) == (1.0, 0.5)
    assert (metrics.n_values, metrics.exact, metrics.right) == (2, 0.5, 0.5)
    assert metrics.ceiling == pytest.approx(1 / 3), "one pair of three agrees in both states"
    constant = reward_metrics(np.ones(3), np.array([1.0, 1.0, 1.5]), np.ones(3), samples, weight)
    assert (constant.r2, constant.max_error, constant.exact) == (None, 0.5, pytest.approx(2 / 3))
    numbers = reward_metrics(np.arange(3.0), np.arange(3.0), np.arange(17.0), samples, weight)
    assert (numbers.n_values, numbers.exact, numbers.right, numbers.ceiling) == (17, None, None, None)


def test_open_loop_by_hand():
    # Two rollouts of two steps; the second one's real episode ends with its first step.
    real = np.array([[0.0, 10.0], [1.0, 11.0], [3.0, 99.0]])[..., None]
    imagined = np.array([[1.0, 13.0], [4.0, -50.0]])[..., None]
    alive = np.array([[True, True], [True, False]])
    number, label = np.array([False]), np.array([True])
    metrics = open_loop_metrics(["x"], real, imagined, alive, np.array([2.0]), number)
    assert metrics.units == ["std"]
    assert metrics.counts == [2, 1]
    assert metrics.error[0] == pytest.approx([2**0.5 / 2, 0.5])  # errors 0 and 2, then 1 alone, in units of 2
    assert metrics.persistence[0] == pytest.approx([0.5, 1.5])
    gone = open_loop_metrics(["x"], real, imagined, np.zeros((2, 2), bool), np.array([2.0]), number)
    assert gone.error == [[None, None]]
    classes = open_loop_metrics(["s"], real, np.where(real[1:] > 50, 0, real[1:]), alive | True, np.ones(1), label)
    assert classes.units == ["mismatch"]
    assert classes.error[0] == [0.0, 0.5]


def test_effects_by_hand():
    real = np.array([[2.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [0.01, 0.0]])
    imagined = np.array([[1.0, 0.5], [-1.0, 0.5], [-1.0, 0.5], [-0.01, 0.5]])
    first, second = effect_metrics("1 against 0", ["v", "x"], real, imagined, np.array([2.0, 1.0]))
    assert first.sign_agreement == pytest.approx(2 / 3), "the fourth effect is too small for its sign to count"
    assert first.relative_size == pytest.approx(0.5, rel=1e-3)
    assert first.real == pytest.approx(np.sqrt(12.0001 / 4) / 2)
    assert first.relative_error == pytest.approx(np.sqrt((1 + 1 + 9 + 0.0004) / 12.0001))
    assert (second.real, second.imagined, second.sign_agreement) == (0, 0.5, None)


def test_returns_by_hand():
    assert ks_statistic(np.array([1.0, 2.0, 3.0]), np.array([2.5, 3.5, 4.5])) == pytest.approx(2 / 3)
    assert ks_statistic(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])) == 0
    assert ks_statistic(np.array([1.0, 2.0]), np.array([3.0])) == 1
    rng = np.random.default_rng(0)
    over = [ks_statistic(rng.normal(size=100), rng.normal(size=150)) > ks_critical(100, 150) for _ in range(2000)]
    assert 0.004 < np.mean(over) < 0.016, "about 1 % of samples from one distribution"
    assert ks_critical(1000, 1000) == pytest.approx(0.0728, abs=1e-4)
    metrics = distribution(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 1, 2, 4]), np.array([1, 1, 1, 0], bool))
    assert (metrics.n, metrics.cut, metrics.mean, metrics.mean_length) == (4, 1, 2.5, 2.0)
    assert metrics.std == pytest.approx(1.25**0.5)
    assert metrics.quantiles["0.5"] == 2.5


def test_returns_that_differ_by_rounding_are_the_same():
    real = np.array([500.0, 500.0, 20.0, 20.0])
    near = np.array([499.998, 500.003, 20.0001, 19.9999])
    assert ks_statistic(real, near) == 0.25
    assert returns_statistic(real, near) == 0
    assert returns_statistic(np.full(3, 500.0), np.array([499.99, 500.01, 400.0])) == pytest.approx(1 / 3)
    assert returns_statistic(real, np.array([499.998, 21.0, 19.0, 20.0])) == 0.25
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.normal(size=200) + 0.3
    assert returns_statistic(a, b) == pytest.approx(ks_statistic(a, b), abs=0.01)
