"""Where episodes end: autoreset modes, final observations, masks and statistics, read off rollouts."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode

from wm_vec.envs.checks.driver import Driver
from wm_vec.envs.checks.record import Record, first_difference
from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.values import Tree, mix_rows, plain, row, snapshot, trees_equal

MODE, FINAL_OBS, MASKS, STATISTICS = "mode", "final_obs", "masks", "statistics"


def check_mode(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    """Whether the environment resets when its metadata says so.

    Args:
        driver: The environment.
        base: A rollout of it.
        actions: The actions of that rollout.
        seed: Its seed.
        report: Where failures go.
    """
    if not base.ends():
        report.skipped[MODE] = base.no_ends()
        return
    if driver.mode is AutoresetMode.SAME_STEP:
        _check_same_step(driver, base, seed, report)
        return
    if any(step.masks.get("_final_obs", np.zeros(1, bool)).any() for step in base.steps):
        advice = "Only SAME_STEP replaces the last observation; declare it, or return the last observation."
        _fail(
            report,
            driver,
            "no final_obs: the observation itself is the last one",
            "_final_obs is set",
            advice,
        )
    next_starts = _second_starts(driver, seed)
    if _start_episodes([(i, row(base.steps[t].observation, i)) for t, i in _first_ends(base)], base, next_starts):
        early = "the next episode's first observation"
        advice = "Return the last observation of the episode, or declare SAME_STEP and give final_obs."
        _fail(report, driver, "an end returns the episode's own last observation", early, advice)
    elif driver.mode is AutoresetMode.NEXT_STEP:
        _check_next_step(driver, base, actions, seed, report)
    else:
        _check_disabled(driver, base, actions, seed, next_starts, report)


def _check_same_step(driver: Driver, base: Record, seed: int, report: CheckReport) -> None:
    ends = base.ends()
    if all(not step.final and "_final_obs" not in step.masks for step in base.steps):
        expected = "info['final_obs'] where an episode ended"
        advice = "Reset in the same step and put the last observation in info, or declare the mode you have."
        _fail(report, driver, expected, f"step {ends[0][0]}, env {ends[0][1]}: no final_obs", advice)
        return
    followed = [(t, i) for t, i in ends if t + 1 < len(base.steps)]
    first_ends = [(t, i) for t, i in _first_ends(base) if t + 1 < len(base.steps)]
    expected = "ended envs are reset in the same step"
    if followed and all(base.steps[t + 1].ended[i] for t, i in followed):
        _fail(report, driver, expected, "each of them ends again in the next step", "Reset them.")
        return
    late = [(i, row(base.steps[t + 1].observation, i)) for t, i in first_ends]
    if _start_episodes(late, base, _second_starts(driver, seed)):
        _fail(report, driver, expected, "they are reset one step later", "Declare NEXT_STEP.")


def _check_next_step(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    followed = [(t, i) for t, i in base.ends() if t + 1 < len(base.steps)]
    for t, i in followed:
        step = base.steps[t + 1]
        if step.reward[i] != 0 or step.ended[i]:
            seen = f"step {t + 1}, env {i}: reward {step.reward[i]}, ended {step.ended[i]}"
            _fail(
                report,
                driver,
                "reward 0 and no flags in the step after an end",
                seen,
                "Spend that step on the reset.",
            )
            return
    if followed and all(
        trees_equal(row(base.steps[t + 1].observation, i), row(base.steps[t].observation, i)) for t, i in followed
    ):
        seen = f"after all {len(followed)} ends the observation stayed as it was"
        _fail(report, driver, "a fresh episode in the step after an end", seen, "Reset the env in that step.")
    others = driver.actions(len(actions), seed + 77)
    for t, step in enumerate(base.steps[:-1]):
        others[t + 1] = mix_rows(step.ended, others[t + 1], actions[t + 1])
    others[0] = actions[0]
    difference = first_difference(base, driver.rollout(seed, others))
    if difference:
        advice = "Ignore the action in the step that resets."
        _fail(report, driver, "the action of the step after an end changes nothing", difference, advice)


def _check_disabled(
    driver: Driver, base: Record, actions: list[Tree], seed: int, next_starts: Tree, report: CheckReport
) -> None:
    """Step on over the first end, and see whether the env resets by itself."""
    first = base.ends()[0][0]
    driver.rollout(seed, actions[:first])
    ended = base.steps[first].ended
    try:
        driver.env.step(driver.hand_in(actions[first]))
        after = snapshot(driver.env.step(driver.hand_in(actions[first]))[0])
    except Exception:
        # Refusing to step an episode that is over is what the mode asks for.
        return
    if _start_episodes([(int(i), row(after, int(i))) for i in np.flatnonzero(ended)], base, next_starts):
        seen = f"step {first + 1}: the next episode's first observation, without a reset"
        _fail(
            report,
            driver,
            "ended envs wait for reset(options={'reset_mask': ...})",
            seen,
            "Declare NEXT_STEP.",
        )


def check_final_observations(driver: Driver, base: Record, report: CheckReport) -> None:
    """Whether ``final_obs`` is the last observation of the episode that ended (SAME_STEP alone)."""
    if driver.mode is not AutoresetMode.SAME_STEP:
        report.skipped[FINAL_OBS] = "outside SAME_STEP the observation itself is the last one"
        return
    if report.failed(MODE):
        return
    ends = base.ends()
    if not ends:
        report.skipped[FINAL_OBS] = base.no_ends()
        return

    def fail(what: str, expected: str, seen: str) -> None:
        advice = "Copy the observation of the env's last step into info['final_obs'] before the reset."
        report.fail(FINAL_OBS, what, expected, seen, advice)

    missing = [(t, i) for t, i in ends if i not in base.steps[t].final]
    if missing:
        t, i = missing[0]
        fail(
            "final_obs at every end",
            "the last observation of each env that ended",
            f"step {t}, env {i}: none",
        )
        return
    single = driver.env.single_observation_space
    for t, i in ends:
        final = base.steps[t].final[i]
        if not single.contains(plain(final)):
            fail("membership of final_obs", f"an element of {single}", f"step {t}, env {i}: {final}")
            break
    finals = [base.steps[t].final[i] for t, i in ends]
    if not base.moves():
        report.skipped[f"{FINAL_OBS}, values"] = "the observation never changes"
    elif all(trees_equal(f, row(base.steps[t].observation, i)) for f, (t, i) in zip(finals, ends, strict=True)):
        seen = f"the same as the observation returned beside it, at all {len(ends)} ends"
        fail("final_obs against the reset observation", "the last observation before the reset", seen)
    elif all(trees_equal(f, row(base.before(t), i)) for f, (t, i) in zip(finals, ends, strict=True)):
        seen = f"the observation before the last action, at all {len(ends)} ends"
        fail("final_obs against the observation before", "the observation after the last action", seen)
    elif len(finals) > 2 and all(trees_equal(f, finals[0]) for f in finals[1:]):
        fail(
            "final_obs of different ends",
            "each episode's own",
            f"the same at all {len(ends)} ends: {finals[0]}",
        )


def check_masks(base: Record, report: CheckReport) -> None:
    """Whether ``_final_obs``, ``_final_info`` and ``_episode`` say which episodes ended."""
    if not base.ends():
        report.skipped[MASKS] = base.no_ends()
    names = {name for step in base.steps for name in step.masks}
    for t, step in enumerate(base.steps):
        for name in sorted(names):
            mask = step.masks.get(name, np.zeros_like(step.ended))
            if (mask != step.ended).any():
                i = int((mask != step.ended).argmax())
                report.fail(
                    MASKS,
                    f"info[{name!r}]",
                    "terminated | truncated of the same step",
                    f"step {t}, env {i}: {bool(mask[i])} where ended is {bool(step.ended[i])}",
                    "Set the mask where the episode ended in this step, and nowhere else.",
                )


def check_statistics(base: Record, report: CheckReport) -> None:
    """Whether the environment's episode returns and lengths are the sums of what it handed out."""
    if all(base.steps[t].statistics is None for t, _ in base.ends()):
        report.skipped[STATISTICS] = "info offers no ['episode']" if base.ends() else base.no_ends()
        return
    for t, i in base.ends():
        step = base.steps[t]
        own_return, own_length = float(step.own_return[i]), int(step.own_length[i])
        if step.statistics is None:
            _fail_statistics(report, f"r {own_return:.6g}, l {own_length}", f"step {t}, env {i}: none at this end")
            return
        given_return, given_length = float(step.statistics.returns[i]), int(step.statistics.lengths[i])
        largest = max(1.0, *(abs(float(s.own_return[i])) for s in base.steps[: t + 1]))
        if given_length != own_length or abs(given_return - own_return) > 1e-3 * largest:
            seen = f"step {t}, env {i}: r {given_return:.6g}, l {given_length}"
            _fail_statistics(report, f"r {own_return:.6g}, l {own_length}", seen)
            return


def _fail_statistics(report: CheckReport, expected: str, seen: str) -> None:
    report.fail(
        STATISTICS,
        "info['episode'] at the end of an episode",
        f"the sum of its rewards and the number of its steps: {expected}",
        seen,
        "Count every step of the episode once, the last one too, and start anew at each reset.",
    )


def _second_starts(driver: Driver, seed: int) -> Tree:
    """The first observations of the second episodes, if episodes are numbered by resets alone."""
    driver.reset(seed)
    return snapshot(driver.reset()[0])


def _first_ends(base: Record) -> list[tuple[int, int]]:
    """(step, env) of each env's first end."""
    found: dict[int, int] = {}
    for t, i in base.ends():
        found.setdefault(i, t)
    return [(t, i) for i, t in found.items()]


def _start_episodes(seen: list[tuple[int, Tree]], base: Record, next_starts: Tree) -> bool:
    """Evidence that observations, (env, observation), are the first ones of the envs' second episodes.

    Where all episodes start in the same way, as in many small worlds, there is no evidence.
    """
    pairs = [(one, row(next_starts, i), row(base.start, i)) for i, one in seen]
    tells = any(not trees_equal(second, first) for _, second, first in pairs)
    return tells and all(trees_equal(one, second) for one, second, _ in pairs)


def _fail(report: CheckReport, driver: Driver, expected: str, seen: str, advice: str) -> None:
    name = driver.mode.name if driver.mode else "none"
    report.fail(MODE, f"behaviour as declared, {name}", expected, seen, advice)
