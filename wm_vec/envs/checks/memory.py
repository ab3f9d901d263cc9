"""Memory stays flat."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from wm_vec.envs.checks.rollout import Case, Driver
from wm_vec.envs.checks.values import Tree, as_numpy

MEMORY = "memory"
SEGMENTS = 3
WARM_UP = 16
ARRAYS_PER_SEGMENT = 4
DEVICE_BYTES_PER_STEP = 64
RESIDENT_PER_SEGMENT = 8 << 20


def check_memory(case: Case) -> None:
    """Whether tensors, arrays or resident memory grow with the steps.

    Caches fill and then stay, so only growth in all of `SEGMENTS` runs counts.
    """
    driver, actions = case.driver, case.actions[: max(WARM_UP, len(case.actions) // 2)]
    length = len(actions)
    driver.reset(case.seed)
    _run(driver, actions[:WARM_UP])
    with _only_new_objects():
        _run(driver, actions[:WARM_UP])
        readings = [_read(driver)]
        for _ in range(SEGMENTS):
            _run(driver, actions)
            readings.append(_read(driver))
    limits = {
        "live tensors": ARRAYS_PER_SEGMENT,
        "live NumPy arrays": ARRAYS_PER_SEGMENT,
        "bytes on the device": DEVICE_BYTES_PER_STEP * length,
        "resident bytes": RESIDENT_PER_SEGMENT,
    }
    for name, limit in limits.items():
        values = [reading[name] for reading in readings if name in reading]
        growth = np.diff(values)
        if len(growth) and (growth >= limit).all():
            expected, seen = f"no growth over {SEGMENTS} runs of {length} steps", " -> ".join(map(str, values))
            advice = "Look for lists that grow at each step or reset, and for tensors that keep their graph."
            case.report.fail(MEMORY, name, expected, seen, advice)


@contextmanager
def _only_new_objects() -> Iterator[None]:
    """Trace NumPy's allocations, and keep what is there already out of sight, so that looking is quick."""
    traced, frozen = tracemalloc.is_tracing(), gc.get_freeze_count() > 0
    if not traced:
        tracemalloc.start()
    if not frozen:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()
        if not traced:
            tracemalloc.stop()


def _run(driver: Driver, actions: list[Tree]) -> None:
    for action in actions:
        returned = driver.env.step(driver.hand_in(action))
        if driver.mode is AutoresetMode.DISABLED:
            ended = as_numpy(returned[2]) | as_numpy(returned[3])
            if ended.any():
                driver.reset(None, ended)


def _read(driver: Driver) -> dict[str, int]:
    gc.collect()
    # Only NumPy's own allocations: Python's free lists grow for a long while without a leak.
    numpy_alone = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    reading = {
        "live NumPy arrays": len(tracemalloc.take_snapshot().filter_traces([numpy_alone]).traces),
        "live tensors": sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
    }
    if driver.device is not None and driver.device.type == "cuda":
        reading["bytes on the device"] = torch.cuda.memory_allocated(driver.device)
    if os.path.exists("/proc/self/statm"):  # Linux
        with open("/proc/self/statm") as file:
            reading["resident bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return reading
