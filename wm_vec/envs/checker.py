"""A checker for vector environments: ours, and anybody's."""

from __future__ import annotations

from collections.abc import Callable

from gymnasium.vector import AsyncVectorEnv, VectorEnv

from wm_vec.envs.checks.aliasing import ALIASING, IN_PLACE, HoldWatch, check_in_place
from wm_vec.envs.checks.driver import Driver
from wm_vec.envs.checks.episodes import (
    FINAL_OBS,
    MASKS,
    MODE,
    STATISTICS,
    check_final_observations,
    check_masks,
    check_mode,
    check_statistics,
)
from wm_vec.envs.checks.independence import (
    BATCH_SIZE,
    PARTIAL_RESET,
    ROW_INDEPENDENCE,
    check_batch_size,
    check_partial_reset,
    check_row_independence,
)
from wm_vec.envs.checks.memory import MEMORY, WARM_UP, check_memory
from wm_vec.envs.checks.record import Record
from wm_vec.envs.checks.report import CheckError, CheckReport, Failure
from wm_vec.envs.checks.seeding import SEEDING, check_reproducible, check_seeding
from wm_vec.envs.checks.structure import DECLARATION, STRUCTURE, StructureWatch, check_declaration

__all__ = ["CheckError", "CheckReport", "Failure", "check_vector_env"]

STEP_BEFORE_RESET = "step_before_reset"
CHECKS = (
    DECLARATION,
    STEP_BEFORE_RESET,
    STRUCTURE,
    ALIASING,
    MODE,
    FINAL_OBS,
    MASKS,
    STATISTICS,
    SEEDING,
    IN_PLACE,
    ROW_INDEPENDENCE,
    PARTIAL_RESET,
    BATCH_SIZE,
    MEMORY,
)
"""All checks by name, in the order in which they are made."""


def check_vector_env(
    env: VectorEnv,
    *,
    num_steps: int = 256,
    seed: int = 0,
    make_env: Callable[[int], VectorEnv] | None = None,
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
        env: The environment, not yet reset. It is left wherever the checks end, and not closed.
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
    if num_steps < 8:
        raise ValueError(f"check_vector_env: num_steps must be at least 8, got {num_steps}.")
    report = CheckReport(str(env))
    check_declaration(env, report)
    if report.failures:
        raise CheckError(report)
    driver = Driver(env)
    _guard(report, STEP_BEFORE_RESET, lambda: _check_step_before_reset(driver, make_env, report))
    actions = driver.actions(num_steps, seed)
    base: list[Record] = []
    _guard(report, STRUCTURE, lambda: base.append(_base_rollout(driver, actions, seed, report)))
    if not base or report.failed(STRUCTURE):
        # Nothing that follows means anything on arrays of the wrong kind.
        raise CheckError(report)
    _check_rollouts(driver, base[0], actions, seed, make_env, report)
    report.passed = [name for name in CHECKS if name not in report.skipped and not report.failed(name)]
    if report.failures:
        raise CheckError(report)
    return report


def _check_rollouts(
    driver: Driver,
    base: Record,
    actions: list,
    seed: int,
    make_env: Callable[[int], VectorEnv] | None,
    report: CheckReport,
) -> None:
    """Every check that works on rollouts."""
    rolled = (driver, base, actions, seed)
    _guard(report, SEEDING, lambda: check_reproducible(*rolled, report))
    reproducible = not report.failed(SEEDING)
    _guard(report, SEEDING, lambda: check_seeding(*rolled, report))
    if reproducible:
        _guard(report, MODE, lambda: check_mode(*rolled, report))
    _guard(report, FINAL_OBS, lambda: check_final_observations(driver, base, report))
    _guard(report, MASKS, lambda: check_masks(base, report))
    _guard(report, STATISTICS, lambda: check_statistics(base, report))
    if reproducible:
        _guard(report, IN_PLACE, lambda: check_in_place(*rolled, report))
        _guard(report, ROW_INDEPENDENCE, lambda: check_row_independence(*rolled, report))
        _guard(report, PARTIAL_RESET, lambda: check_partial_reset(*rolled, report))
        _guard(report, BATCH_SIZE, lambda: check_batch_size(*rolled, make_env, report))
    else:
        names = (MODE, IN_PLACE, ROW_INDEPENDENCE, PARTIAL_RESET, BATCH_SIZE)
        report.skipped.update(dict.fromkeys(names, "the rollout cannot be repeated, see seeding"))
    run = actions[: max(WARM_UP, len(actions) // 2)]
    _guard(report, MEMORY, lambda: check_memory(driver, run, seed, report))


def _base_rollout(driver: Driver, actions: list, seed: int, report: CheckReport) -> Record:
    """The rollout that the others are compared with; structure and aliasing are looked at on the way."""
    structure, held = StructureWatch(driver.env, report), HoldWatch()

    def watch(where: str, returned: dict) -> None:
        structure(where, returned)
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
    try:
        fresh.env.step(fresh.hand_in(driver.actions(1, 0)[0]))
    except Exception:
        return
    finally:
        if make_env is not None:
            fresh.env.close()
    report.fail(
        STEP_BEFORE_RESET,
        "step() of an environment that was never reset",
        "an exception that says to call reset()",
        "a step (if this environment had been reset before: hand in a fresh one, or make_env)",
        "Raise gymnasium.error.ResetNeeded or a RuntimeError.",
    )


def _guard(report: CheckReport, check: str, run: Callable[[], None]) -> None:
    """Let an exception inside the environment count as a failure of the check that met it."""
    try:
        run()
    except Exception as error:
        seen = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
        report.fail(
            check,
            "the check itself",
            "to run to its end",
            seen,
            "See the exception's cause in the environment.",
        )
