"""An env's trajectory depends on its own seed and actions alone, and on all of its seed."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode

from wm_vec.compat import tree_map
from wm_vec.envs.checks.episodes import STATISTICS, check_statistics
from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.rollout import Case, Driver, Step, first_difference
from wm_vec.envs.checks.values import Tree, envs_differ, mix_envs, some_envs

SEEDING = "seeding"
ROW_INDEPENDENCE, PARTIAL_RESET, BATCH_SIZE = "row_independence", "partial_reset", "batch_size"
SHORT = 10
"""Steps over which envs at other places agree in spite of rounding."""
ROUNDING = 1e-3
"""Tolerance where the same env is computed at another place."""
BATCH_STEPS = 20
BATCH_ROUNDING = 1e-4
"""Other batch sizes agree this well over `BATCH_STEPS` steps, in spite of rounding."""
ONE_ENV = "there is one env; give num_envs of at least 2"
GLOBAL_RNG = "the model draws from torch's own generator, for the whole batch"


def check_reproducible(case: Case) -> None:
    """The same seed and actions, once more."""
    difference = first_difference(case.base, case.driver.rollout(case.seed, case.actions))
    if difference:
        advice = "Draw all randomness from generators that reset(seed=...) seeds, and let reset clear the rest."
        case.report.fail(SEEDING, "the same seed and actions twice", "the same rollout", difference, advice)


def check_seeding(case: Case) -> None:
    """Which seeds give the same episodes and which give others."""
    if case.driver.global_rng:
        case.report.skipped[f"{SEEDING}, env by env"] = GLOBAL_RNG
    else:
        _check_seeds_of_envs(case)
    _check_other_episodes(case)


def _check_seeds_of_envs(case: Case) -> None:
    driver, seed, report, num_envs = case.driver, case.seed, case.report, case.driver.num_envs
    backwards = slice(None, None, -1)
    listed = [seed + i for i in range(num_envs)][::-1]
    record = driver.rollout(listed, [some_envs(action, backwards) for action in case.actions[:SHORT]])
    difference = first_difference(case.base, record, envs_b=backwards, tolerance=ROUNDING)
    if difference:
        what = f"reset(seed=[{seed} + {num_envs - 1}, ..., {seed}]) against reset(seed={seed})"
        advice = "Seed env i with seed + i for an int, and with its own entry for a list."
        report.fail(SEEDING, what, "env i of the one is the last but i of the other", difference, advice)
    if num_envs < 2:
        report.skipped[f"{SEEDING}, neighbours"] = ONE_ENV
        return
    record = driver.rollout(seed + 1, [some_envs(action, np.r_[1:num_envs, 0]) for action in case.actions[:SHORT]])
    difference = first_difference(case.base, record, slice(1, None), slice(0, -1), ROUNDING)
    if difference:
        what, advice = f"reset(seed={seed + 1}) against reset(seed={seed})", "Seed env i with seed + i, at any place."
        report.fail(SEEDING, what, "env i of the one is env i + 1 of the other", difference, advice)


def _check_other_episodes(case: Case) -> None:
    driver, start, seed, report = case.driver, case.base.start, case.seed, case.report
    constant = not envs_differ(start, some_envs(start, np.zeros(driver.num_envs, int))).any()
    other_seed = seed + 1000 + driver.num_envs
    other = driver.rollout(other_seed, case.actions[:SHORT])
    same_start = not envs_differ(start, other.start).any()
    if first_difference(case.base, other, tolerance=0.0) is None:
        if constant:
            report.skipped[f"{SEEDING}, other seeds"] = "every env and every seed starts in the same way"
            return
        seen = f"seeds {seed} and {other_seed} give the same rollout"
        report.fail(SEEDING, "another seed", "another rollout", seen, "Use the seed that reset is given.")
    if not envs_differ(start, driver.second_starts(seed)).any() and not (constant and same_start):
        seen = "the first observations of the episodes before"
        advice = "Without a seed, go on with the generator; do not seed it again."
        report.fail(SEEDING, "reset() without a seed", "other episodes than the ones before", seen, advice)


def check_row_independence(case: Case) -> None:
    """Change the actions of every other env, and look at the rest."""
    if not _has_neighbours(case, ROW_INDEPENDENCE):
        return
    others = case.driver.actions(len(case.actions), case.seed + 99)
    for odd in (0, 1):
        changed = np.arange(case.driver.num_envs) % 2 == odd
        mixed = [mix_envs(changed, o, a) for o, a in zip(others, case.actions, strict=True)]
        difference = first_difference(case.base, case.driver.rollout(case.seed, mixed), ~changed, ~changed)
        if difference:
            what, advice = ("an env whose neighbours act otherwise", "Look for sums, norms, draws over the batch.")
            case.report.fail(ROW_INDEPENDENCE, what, "the same trajectory", difference, advice)


def check_partial_reset(case: Case) -> None:
    """Reset every other env by ``options={"reset_mask": ...}`` in mid-episode, and look at all of them."""
    driver, report = case.driver, case.report
    restarts = [step for step in case.base.steps if step.restarted is not None]
    if restarts:
        _check_restarts(case, restarts, "after ends")
    elif driver.mode is AutoresetMode.DISABLED:
        report.skipped[f"{PARTIAL_RESET}, after ends"] = f"no episode ended in {len(case.base.steps)} steps"
    if not _has_neighbours(case, PARTIAL_RESET):
        return
    chosen = np.arange(driver.num_envs) % 2 == 1
    times = {len(case.actions) // 4, len(case.actions) // 2}
    try:
        record = driver.rollout(case.seed, case.actions, partial=dict.fromkeys(times, chosen))
    except Exception as error:
        if driver.mode is AutoresetMode.DISABLED:
            raise
        report.skipped[PARTIAL_RESET] = f"reset(options={{'reset_mask': ...}}) raised {type(error).__name__}"
        return
    difference = first_difference(case.base, record, ~chosen, ~chosen)
    if difference:
        _fail(report, "an env whose neighbours are reset", "the same trajectory", difference)
    for t in sorted(times):
        _check_restarts(case, [record.steps[t]], f"after step {t}")
    if not report.failed(PARTIAL_RESET):
        statistics = CheckReport(report.environment)
        check_statistics(record, driver.mode, statistics)
        for found in statistics.failures:
            report.fail(STATISTICS, f"{found.what}, with masked resets", found.expected, found.seen, found.advice)


def _check_restarts(case: Case, steps: list[Step], where: str) -> None:
    """What the masked resets after some steps returned."""
    changed = np.stack([envs_differ(step.observation, step.restarted) for step in steps])
    masks = np.stack([step.restarted_envs for step in steps])
    if changed[~masks].any():
        seen = f"{where}: another one for env {(changed & ~masks).any(0).argmax()}"
        _fail(case.report, "what a masked reset returns for the other envs", "their current observation", seen)
    if case.base.moves() and not changed[masks].any():
        what, seen = "what a masked reset returns for the envs of the mask", f"{where}: no observation changed"
        _fail(case.report, what, "first observations of fresh episodes", seen)


def check_batch_size(case: Case) -> None:
    """Compare with the same environment of one env, and of three more."""
    driver, report = case.driver, case.report
    if case.make_env is None or driver.global_rng:
        missing = "it needs make_env: num_envs -> the same environment"
        report.skipped[BATCH_SIZE] = missing if case.make_env is None else GLOBAL_RNG
        return
    for num_envs in (1, driver.num_envs + 3):
        other = Driver(case.make_env(num_envs))
        own = other.actions(BATCH_STEPS, case.seed)
        record = other.rollout(case.seed, [_first_envs_of(a, b) for a, b in zip(case.actions, own, strict=False)])
        other.env.close()
        shared = slice(min(num_envs, driver.num_envs))
        difference = first_difference(case.base, record, shared, shared, BATCH_ROUNDING)
        if difference:
            what = f"env i of {driver.num_envs} against env i of {num_envs}, {BATCH_STEPS} steps"
            advice = "Let an env's random numbers depend on its own seed, episode and step, not on the batch."
            report.fail(BATCH_SIZE, what, f"the same trajectory to {BATCH_ROUNDING:g}", difference, advice)


def _first_envs_of(first: Tree, tree: Tree) -> Tree:
    """A batched tree whose first envs are those of another, as far as both go."""
    return tree_map(lambda a, b: np.concatenate([a[: len(b)], b[len(a) :]]), first, tree)


def _has_neighbours(case: Case, check: str) -> bool:
    if case.driver.num_envs < 2:
        case.report.skipped[check] = ONE_ENV
    elif case.driver.global_rng:
        case.report.skipped[check] = GLOBAL_RNG
    return check not in case.report.skipped


def _fail(report: CheckReport, what: str, expected: str, seen: str) -> None:
    advice = "Reset the envs of options['reset_mask'], bool (num_envs,), and leave the others as they are."
    report.fail(PARTIAL_RESET, what, expected, seen, advice)
