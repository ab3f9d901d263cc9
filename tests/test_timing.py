"""What the benchmarks make of their seconds."""

import random
import statistics

from benchmarks.timing import figures, median_interval, time_in_turn


def test_the_interval_of_a_median_is_the_binomial_ones():
    # Ranks 41 and 61 of 101: the tails of Binomial(101, 1/2) outside of them hold 4.6 %.
    assert median_interval([*range(101)][::-1]) == (40, 60)
    assert median_interval([3.0]) == (3.0, 3.0)


def test_the_interval_holds_the_median_in_95_of_100_cases():
    draws = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = median_interval([draws.expovariate(1) for _ in range(40)])
        held += low <= 0.6931 <= high
    assert 0.94 < held / 2000 < 0.98


def test_every_subject_is_called_once_a_turn_in_changing_order():
    calls = []
    named = {name: lambda name=name: calls.append(name) for name in "abc"}
    turns = time_in_turn(named, 0.01)
    orders = {tuple(calls[i : i + 3]) for i in range(3, len(calls), 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) == 6
    assert {len(times) for times in turns.values()} == {len(calls) // 3 - 1}


def test_overheads_are_differences_within_a_turn():
    turns = {"bare": [1.0, 3.0, 2.0], "ours": [1.5, 3.5, 9.0]}
    bare, ours = figures(4, turns, "bare")
    assert bare["over_bare_us"] == 0
    assert ours["over_bare_us"] == statistics.median([0.5, 0.5, 7.0]) * 1e6
    assert ours["over_bare_percent"] == 25.0
    assert ours["env_steps_per_s"] == 4 / 3.5
