"""Timing several things in one process, in turn."""

from __future__ import annotations

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
