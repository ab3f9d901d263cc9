"""A checker for vector environments: ours, and anybody's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gymnasium.vector import AsyncVectorEnv, VectorEnv

from wm_vec.envs.checks import aliasing, episodes, memory, seeding, structure
from wm_vec.envs.checks.report import CheckError, CheckReport, Failure
from wm_vec.envs.checks.rollout import Case, Driver, Record
from wm_vec.plain import check_type, seed_number, whole_number

__all__ = ["CheckError", "CheckReport", "Failure", "check_vector_env"]

STEP_BEFORE_RESET = "step_before_reset"
ON_REPEATED_ROLLOUTS: dict[str, Callable[[Case], None]] = {
    episodes.MODE: episodes.check_mode,
    aliasing.IN_PLACE: aliasing.check_in_place,
    seeding.ROW_INDEPENDENCE: seeding.check_row_independence,
    seeding.PARTIAL_RESET: seeding.check_partial_reset,
    seeding.BATCH_SIZE: seeding.check_batch_size,
}
"""Checks that compare rollouts with the first one, which must be repeatable."""
ON_ONE_ROLLOUT: dict[str, Callable[[Case], None]] = {
    episodes.FINAL_OBS: episodes.check_final_observations,
    episodes.MASKS: episodes.check_masks,
    episodes.STATISTICS: lambda case: episodes.check_statistics(case.base, case.driver.mode, case.report),
    memory.MEMORY: memory.check_memory,
}
CHECKS = (
    structure.DECLARATION,
    STEP_BEFORE_RESET,
    structure.STRUCTURE,
    aliasing.ALIASING,
    seeding.SEEDING,
    *ON_REPEATED_ROLLOUTS,
    *ON_ONE_ROLLOUT,
)
"""All checks by name, in the order in which they are made."""


def check_vector_env(
    env: VectorEnv, *, num_steps: int = 256, seed: int = 0, make_env: Callable[[int], VectorEnv] | None = None
) -> CheckReport:
    """Check that a vector environment keeps the contract that trainers rely on.

    Takes any `gymnasium.vector.VectorEnv` that returns NumPy arrays or torch tensors, in each of the three
    autoreset modes; ``metadata["autoreset_mode"]`` says which. The checks:

    - ``declaration``: autoreset mode, spaces; ``step_before_reset``: it raises.
    - ``structure``: shapes, dtypes, devices, membership in the spaces, bool flags, no gradients.
    - ``mode``: resets happen when it says; ``final_obs`` and ``masks``: the true last observations;
      ``statistics``: ``info["episode"]`` against our own sums.
    - ``aliasing``: what was returned stays as it is; ``in_place``: writing into it changes nothing.
    - ``seeding``: a seed says all, env i has its own, other seeds and later episodes differ.
    - ``row_independence``: neighbours' actions do not matter; ``partial_reset``: nor do their resets by
      ``options={"reset_mask": ...}``; ``batch_size``: nor does their number.
    - ``memory``: it stays flat.

    Rolls out about ten times `num_steps` steps and keeps one rollout in memory: a few envs are enough.

    Args:
        env: The environment, not yet reset; of ours that were, ``step_before_reset`` is skipped. It is left wherever
            the checks end, and not closed.
        num_steps: Steps of a rollout; long enough for episodes to end.
        seed: Seed of resets and actions.
        make_env: ``num_envs -> the same environment`` of another size, not yet reset. Without it
            ``batch_size`` is skipped.

    Returns:
        What passed, and what could not be checked and why.

    Raises:
        CheckError: Something is wrong; the message lists every failure with what was expected, what was seen
            and what to do.
        ValueError: `num_steps` is below 8.
    """
    whole_number(num_steps, "check_vector_env: num_steps", 8)
    seed_number(seed, "check_vector_env: seed")
    check_type(env, VectorEnv, "check_vector_env: env")
    report = CheckReport(str(env))
    structure.check_declaration(env, report)
    if report.failures:
        raise CheckError(report)
    driver = Driver(env)
    _guard(report, STEP_BEFORE_RESET, lambda: _check_step_before_reset(driver, make_env, report))
    actions = driver.actions(num_steps, seed)
    base: list[Record] = []
    _guard(report, structure.STRUCTURE, lambda: base.append(_base_rollout(driver, actions, seed, report)))
    if not base or report.failed(structure.STRUCTURE):
        # Nothing that follows means anything on arrays of the wrong kind.
        raise CheckError(report)
    _check_rollouts(Case(driver, base[0], actions, seed, make_env, report))
    report.passed = [name for name in CHECKS if name not in report.skipped and not report.failed(name)]
    if report.failures:
        raise CheckError(report)
    return report


def _check_rollouts(case: Case) -> None:
    """Every check that works on rollouts."""
    report = case.report
    _guard(report, seeding.SEEDING, lambda: seeding.check_reproducible(case))
    repeatable = not report.failed(seeding.SEEDING)
    _guard(report, seeding.SEEDING, lambda: seeding.check_seeding(case))
    if not repeatable:
        report.skipped.update(dict.fromkeys(ON_REPEATED_ROLLOUTS, "the rollout cannot be repeated, see seeding"))
    for name, check in ((ON_REPEATED_ROLLOUTS if repeatable else {}) | ON_ONE_ROLLOUT).items():
        _guard(report, name, partial(check, case))


def _base_rollout(driver: Driver, actions: list, seed: int, report: CheckReport) -> Record:
    """The rollout that the others are compared with; structure and aliasing are looked at on the way."""
    looking, held = structure.StructureWatch(driver.env, report), aliasing.HoldWatch()

    def watch(where: str, returned: dict) -> None:
        looking(where, returned)
        held(where, returned)

    base = driver.rollout(seed, actions, watch)
    held.report(base, report)
    return base


def _check_step_before_reset(driver: Driver, make_env: Callable[[int], VectorEnv] | None, report: CheckReport) -> None:
    """Step an environment that was never reset."""
    fresh = driver if make_env is None else Driver(make_env(driver.num_envs))
    if isinstance(fresh.env.unwrapped, AsyncVectorEnv):
        report.skipped[STEP_BEFORE_RESET] = "an error in a worker would end an AsyncVectorEnv"
        return
    if getattr(getattr(fresh.env.unwrapped, "engine", None), "started", False):
        report.skipped[STEP_BEFORE_RESET] = "the environment was reset before; hand in a fresh one, or make_env"
        return
    try:
        fresh.env.step(fresh.hand_in(driver.actions(1, 0)[0]))
    except Exception:
        return
    finally:
        if make_env is not None:
            fresh.env.close()
    what, expected = "step() of an environment that was never reset", "an exception that says to call reset()"
    seen = "a step (if this environment had been reset before: hand in a fresh one, or make_env)"
    report.fail(STEP_BEFORE_RESET, what, expected, seen, "Raise gymnasium.error.ResetNeeded or a RuntimeError.")


def _guard(report: CheckReport, check: str, run: Callable[[], None]) -> None:
    """Let an exception inside the environment count as a failure of the check that met it."""
    try:
        run()
    except Exception as error:
        seen = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
        report.fail(check, "the check itself", "to run to its end", seen, "See its cause in the environment.")
