"""The same seed gives the same episodes, env by env; another seed gives others."""

from __future__ import annotations

import numpy as np

from wm_vec.envs.checks.driver import Driver
from wm_vec.envs.checks.record import Record, first_difference
from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.values import Tree, rows, rows_differ, snapshot

SEEDING = "seeding"
SHORT = 10
"""Steps over which rows at other places agree in spite of rounding."""
ROUNDING = 1e-3
"""Tolerance where the same row is computed at another place or in another batch."""


def check_reproducible(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    """The same seed and actions, once more."""
    difference = first_difference(base, driver.rollout(seed, actions))
    if difference:
        report.fail(
            SEEDING,
            "the same seed and actions twice",
            "the same rollout",
            difference,
            "Draw all randomness from generators that reset(seed=...) seeds, and let reset clear the rest.",
        )


def check_seeding(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    """Which seeds give the same episodes and which give others."""
    short = actions[:SHORT]
    if driver.global_rng:
        report.skipped[f"{SEEDING}, env by env"] = "the model draws from torch's own generator, for the whole batch"
    else:
        _check_seeds_of_envs(driver, base, short, seed, report)
    _check_other_episodes(driver, base, short, seed, report)


def _check_seeds_of_envs(driver: Driver, base: Record, short: list[Tree], seed: int, report: CheckReport) -> None:
    backwards = slice(None, None, -1)
    listed = [seed + i for i in range(driver.num_envs)][::-1]
    record = driver.rollout(listed, [rows(action, backwards) for action in short])
    difference = first_difference(base, record, rows_b=backwards, num_steps=SHORT, tolerance=ROUNDING)
    if difference:
        report.fail(
            SEEDING,
            f"reset(seed=[{seed} + {driver.num_envs - 1}, ..., {seed}]) against reset(seed={seed})",
            "env i of the one is the last but i of the other",
            difference,
            "Seed env i with seed + i for an int, and with its own entry for a list.",
        )
    if driver.num_envs < 2:
        report.skipped[f"{SEEDING}, neighbours"] = "there is one env; give num_envs of at least 2"
        return
    record = driver.rollout(seed + 1, [rows(action, np.r_[1 : driver.num_envs, 0]) for action in short])
    upper, lower = slice(1, None), slice(0, -1)
    difference = first_difference(base, record, rows_a=upper, rows_b=lower, num_steps=SHORT, tolerance=ROUNDING)
    if difference:
        report.fail(
            SEEDING,
            f"reset(seed={seed + 1}) against reset(seed={seed})",
            "env i of the one is env i + 1 of the other",
            difference,
            "Seed env i with seed + i, whatever its place in the batch.",
        )


def _check_other_episodes(driver: Driver, base: Record, short: list[Tree], seed: int, report: CheckReport) -> None:
    start = rows(base.start, slice(0, 1))
    constant = not any(rows_differ(rows(base.start, slice(i, i + 1)), start, 0.0).any() for i in range(driver.num_envs))
    other = driver.rollout(seed + 1000 + driver.num_envs, short)
    same_start = not rows_differ(base.start, other.start, 0.0).any()
    if first_difference(base, other, num_steps=SHORT, tolerance=0.0) is None:
        if constant:
            report.skipped[f"{SEEDING}, other seeds"] = "every env and every seed starts in the same way"
            return
        seen = f"seeds {seed} and {seed + 1000 + driver.num_envs} give the same rollout"
        report.fail(SEEDING, "another seed", "another rollout", seen, "Use the seed that reset is given.")
    driver.reset(seed)
    again = snapshot(driver.reset()[0])
    if not rows_differ(base.start, again, 0.0).any() and not (constant and same_start):
        seen = "the first observations of the episodes before"
        advice = "Without a seed, go on with the generator; do not seed it again."
        report.fail(SEEDING, "reset() without a seed", "other episodes than the ones before", seen, advice)
