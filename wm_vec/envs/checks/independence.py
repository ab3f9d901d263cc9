"""A row's trajectory depends on its own seed and actions alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from wm_vec.envs.checks.driver import Driver
from wm_vec.envs.checks.episodes import STATISTICS, check_statistics
from wm_vec.envs.checks.record import Record, first_difference
from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.values import Tree, map_leaves, mix_rows, rows_differ

ROW_INDEPENDENCE, PARTIAL_RESET, BATCH_SIZE = "row_independence", "partial_reset", "batch_size"
BATCH_STEPS = 20
BATCH_ROUNDING = 1e-4
"""Other batch sizes agree this well over `BATCH_STEPS` steps, in spite of rounding."""


def check_row_independence(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    """Change the actions of every other env, and look at the rest."""
    if not _has_neighbours(driver, report, ROW_INDEPENDENCE):
        return
    others = driver.actions(len(actions), seed + 99)
    for odd in (0, 1):
        changed = np.arange(driver.num_envs) % 2 == odd
        mixed = [mix_rows(changed, o, a) for o, a in zip(others, actions, strict=True)]
        difference = first_difference(base, driver.rollout(seed, mixed), rows_a=~changed, rows_b=~changed)
        if difference:
            report.fail(
                ROW_INDEPENDENCE,
                "an env whose neighbours act otherwise",
                "the same trajectory",
                difference,
                "Look for sums, norms or random draws over the whole batch.",
            )


def check_partial_reset(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    """Reset every other env by ``options={"reset_mask": ...}`` in mid-episode, and look at all of them."""
    _check_restarts(driver, base, report)
    if not _has_neighbours(driver, report, PARTIAL_RESET):
        return
    chosen = np.arange(driver.num_envs) % 2 == 1
    times = sorted({len(actions) // 4, len(actions) // 2})
    try:
        record = driver.rollout(seed, actions, partial=dict.fromkeys(times, chosen))
    except Exception as error:
        if driver.mode is not AutoresetMode.DISABLED:
            report.skipped[PARTIAL_RESET] = f"reset(options={{'reset_mask': ...}}) raised {type(error).__name__}"
            return
        raise
    difference = first_difference(base, record, rows_a=~chosen, rows_b=~chosen)
    if difference:
        _fail(report, "an env whose neighbours are reset", "the same trajectory", difference)
    for t in times:
        step = record.steps[t]
        kept = ~step.restarted_rows
        if rows_differ(step.observation, step.restarted, 0.0)[kept].any():
            i = int(np.flatnonzero(rows_differ(step.observation, step.restarted, 0.0) & kept)[0])
            seen = f"after step {t}: another one for env {i}"
            _fail(report, "what a masked reset returns for the other envs", "their current observation", seen)
        if not base.moves():
            continue
        if not rows_differ(step.observation, step.restarted, 0.0)[step.restarted_rows].any():
            seen = f"after step {t}: no observation changed"
            _fail(report, "what a masked reset returns for the envs of the mask", "first observations", seen)
    if report.failed(PARTIAL_RESET):
        return
    statistics = CheckReport(report.environment)
    check_statistics(record, statistics)
    for failure in statistics.failures:
        report.fail(STATISTICS, f"{failure.what}, with masked resets", failure.expected, failure.seen, failure.advice)


def _check_restarts(driver: Driver, base: Record, report: CheckReport) -> None:
    """Under DISABLED, the masked resets that the base rollout made after its ends."""
    if driver.mode is not AutoresetMode.DISABLED:
        return
    restarts = [step for step in base.steps if step.restarted is not None]
    if not restarts:
        report.skipped[f"{PARTIAL_RESET}, after ends"] = f"no episode ended in {len(base.steps)} steps"
        return
    changed = [rows_differ(step.observation, step.restarted, 0.0) for step in restarts]
    if base.moves() and not any(c[s.restarted_rows].any() for c, s in zip(changed, restarts, strict=True)):
        seen = "the observation stayed as it was"
        _fail(report, "envs that ended and are reset by mask", "first observations of fresh episodes", seen)
    if any(c[~s.restarted_rows].any() for c, s in zip(changed, restarts, strict=True)):
        seen = "another one"
        _fail(report, "what a masked reset returns for the other envs", "their current observation", seen)


def check_batch_size(
    driver: Driver,
    base: Record,
    actions: list[Tree],
    seed: int,
    make_env: Callable[[int], VectorEnv] | None,
    report: CheckReport,
) -> None:
    """Compare with the same environment of one env, and of three more."""
    if make_env is None:
        report.skipped[BATCH_SIZE] = "it needs make_env: num_envs -> the same environment"
        return
    if driver.global_rng:
        report.skipped[BATCH_SIZE] = _GLOBAL_RNG
        return
    for num_envs in (1, driver.num_envs + 3):
        other = Driver(make_env(num_envs))
        shared = min(num_envs, driver.num_envs)
        own = other.actions(BATCH_STEPS, seed)
        widened = [_with_first_rows(mine, theirs) for mine, theirs in zip(own, actions, strict=False)]
        record = other.rollout(seed, widened)
        other.env.close()
        difference = first_difference(
            base,
            record,
            rows_a=slice(shared),
            rows_b=slice(shared),
            num_steps=BATCH_STEPS,
            tolerance=BATCH_ROUNDING,
        )
        if difference:
            report.fail(
                BATCH_SIZE,
                f"env i of {driver.num_envs} against env i of {num_envs}, {BATCH_STEPS} steps",
                f"the same trajectory to {BATCH_ROUNDING:g}",
                difference,
                "Let an env's random numbers depend on its own seed, episode and step, not on the batch.",
            )


def _with_first_rows(tree: Tree, first: Tree) -> Tree:
    """A batched tree whose first rows are those of another, as far as both go."""
    return map_leaves(lambda a, b: np.concatenate([b[: len(a)], a[len(b) :]]), tree, first)


def _has_neighbours(driver: Driver, report: CheckReport, check: str) -> bool:
    if driver.num_envs < 2:
        report.skipped[check] = "there is one env; give num_envs of at least 2"
    elif driver.global_rng:
        report.skipped[check] = _GLOBAL_RNG
    else:
        return True
    return False


_GLOBAL_RNG = "the model draws from torch's own generator, so rows share their random numbers"


def _fail(report: CheckReport, what: str, expected: str, seen: str) -> None:
    advice = "Reset the envs of options['reset_mask'], bool (num_envs,), and leave the others as they are."
    report.fail(PARTIAL_RESET, what, expected, seen, advice)
