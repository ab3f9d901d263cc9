"""Timing several things in one process, in turn."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

LEAST_TURNS = 3
NORMAL_95 = statistics.NormalDist().inv_cdf(0.975)


def time_in_turn(
    named: dict[str, Callable[[], Any]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every call, the subjects called in turn, each turn in another order, until the time is up.

    There are at least three turns. The order is random, since a call leaves caches and memory to the next one.

    Args:
        named: What is called, by name; once before the timing starts.
        seconds: How long.
        clock: Gives the seconds that calls are timed by.
    """
    for call in named.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in named}
    order, shuffle = [*named], random.Random(0).shuffle
    started, turns = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or turns < LEAST_TURNS:
        turns += 1
        shuffle(order)
        for name in order:
            call = named[name]
            before = clock()
            call()
            times[name].append(clock() - before)
    return times


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median, from order statistics and the normal approximation to their ranks.

    Source: Conover, "Practical Nonparametric Statistics", the interval for a quantile.
    """
    ordered, half = sorted(values), NORMAL_95 * math.sqrt(len(values)) / 2
    middle = (len(values) - 1) / 2
    low, high = math.floor(middle - half), math.ceil(middle + half)
    return ordered[max(0, low)], ordered[min(len(values) - 1, high)]


def figures(num_envs: int, turns: dict[str, list[float]], bare: str) -> list[dict[str, Any]]:
    """Medians of what `time_in_turn` gave; medians and means of differences from the subject `bare` within a turn.

    Args:
        num_envs: Env steps in a call.
        turns: Seconds of every call, by subject.
        bare: What the others are held against.
    """
    plain, rows = turns[bare], []
    for name, times in turns.items():
        differences = [(t - b) * 1e6 for t, b in zip(times, plain, strict=True)]
        extra = statistics.median(differences)
        rows.append(
            {
                "num_envs": num_envs,
                "subject": name,
                "env_steps_per_s": num_envs / statistics.median(times),
                "step_us": statistics.median(times) * 1e6,
                "over_bare_us": extra,
                "over_bare_us_interval": median_interval(differences),
                "mean_over_bare_us": statistics.mean(differences),
                "over_bare_percent": 1e-4 * extra / statistics.median(plain),
                "calls": len(times),
            }
        )
    return rows
