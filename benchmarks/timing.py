"""Timing several things in one process, in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

LEAST_TURNS = 3


def time_in_turn(named: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Seconds of every call, the subjects called in turn until the time is up; at least three turns.

    Args:
        named: What is called, by name; once before the timing starts.
        seconds: How long.
    """
    for call in named.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in named}
    started, turns = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or turns < LEAST_TURNS:
        turns += 1
        for name, call in named.items():
            before = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - before)
    return times


def figures(num_envs: int, turns: dict[str, list[float]], bare: str) -> list[dict[str, Any]]:
    """Medians of what `time_in_turn` gave; medians and means of differences from the subject `bare` within a turn.

    Args:
        num_envs: Env steps in a call.
        turns: Seconds of every call, by subject.
        bare: What the others are held against.
    """
    plain, rows = turns[bare], []
    for name, times in turns.items():
        differences = [t - b for t, b in zip(times, plain, strict=True)]
        extra = statistics.median(differences)
        rows.append(
            {
                "num_envs": num_envs,
                "subject": name,
                "env_steps_per_s": num_envs / statistics.median(times),
                "step_us": statistics.median(times) * 1e6,
                "over_bare_us": extra * 1e6,
                "mean_over_bare_us": statistics.mean(differences) * 1e6,
                "over_bare_percent": 100 * extra / statistics.median(plain),
                "calls": len(times),
            }
        )
    return rows
