"""Where episodes end: autoreset modes, final observations, masks and statistics, read off rollouts."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode

from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.rollout import Case, Record, first_difference
from wm_vec.envs.checks.values import Tree, mix_envs, one_env, snapshot, trees_equal

MODE, FINAL_OBS, MASKS, STATISTICS = "mode", "final_obs", "masks", "statistics"


def check_mode(case: Case) -> None:
    """Whether the environment resets when its metadata says so."""
    base, mode = case.base, case.driver.mode
    if not base.ends():
        case.report.skipped[MODE] = base.no_ends()
        return
    if mode is AutoresetMode.SAME_STEP:
        _check_same_step(case)
        return
    if any(step.masks.get("_final_obs", np.zeros(1, bool)).any() for step in base.steps):
        advice = "Only SAME_STEP replaces the last observation; declare it, or return the last observation."
        _fail(case, "no final_obs: the observation itself is the last one", "_final_obs is set", advice)
    next_starts = case.driver.second_starts(case.seed)
    if _start_episodes([(i, one_env(base.steps[t].observation, i)) for t, i in _first_ends(base)], base, next_starts):
        early = "the next episode's first observation"
        advice = "Return the last observation of the episode, or declare SAME_STEP and give final_obs."
        _fail(case, "an end returns the episode's own last observation", early, advice)
    elif mode is AutoresetMode.NEXT_STEP:
        _check_next_step(case)
    else:
        _check_disabled(case, next_starts)


def _check_same_step(case: Case) -> None:
    base, ends = case.base, case.base.ends()
    if all(not step.final and "_final_obs" not in step.masks for step in base.steps):
        seen = f"step {ends[0][0]}, env {ends[0][1]}: no final_obs"
        advice = "Reset in the same step and put the last observation in info, or declare the mode you have."
        _fail(case, "info['final_obs'] where an episode ended", seen, advice)
        return
    followed = [(t, i) for t, i in ends if t + 1 < len(base.steps)]
    expected = "ended envs are reset in the same step"
    if followed and all(base.steps[t + 1].ended[i] for t, i in followed):
        _fail(case, expected, "each of them ends again in the next step", "Reset them.")
        return
    first_ends = [(t, i) for t, i in _first_ends(base) if t + 1 < len(base.steps)]
    late = [(i, one_env(base.steps[t + 1].observation, i)) for t, i in first_ends]
    if _start_episodes(late, base, case.driver.second_starts(case.seed)):
        _fail(case, expected, "they are reset one step later", "Declare NEXT_STEP.")


def _check_next_step(case: Case) -> None:
    steps, actions = case.base.steps, case.actions
    followed = [(t, i) for t, i in case.base.ends() if t + 1 < len(steps)]
    for t, i in followed:
        reward, ended = steps[t + 1].reward[i], steps[t + 1].ended[i]
        if reward != 0 or ended:
            seen = f"step {t + 1}, env {i}: reward {reward}, ended {ended}"
            _fail(case, "reward 0 and no flags in the step after an end", seen, "Spend that step on the reset.")
            return
    pairs = [(one_env(steps[t + 1].observation, i), one_env(steps[t].observation, i)) for t, i in followed]
    if pairs and all(trees_equal(after, last) for after, last in pairs):
        seen = f"after all {len(followed)} ends the observation stayed as it was"
        _fail(case, "a fresh episode in the step after an end", seen, "Reset the env in that step.")
    others = case.driver.actions(len(actions), case.seed + 77)
    kept = zip(steps[:-1], others[1:], actions[1:], strict=True)
    changed = [actions[0], *(mix_envs(step.ended, other, action) for step, other, action in kept)]
    difference = first_difference(case.base, case.driver.rollout(case.seed, changed))
    if difference:
        advice = "Ignore the action in the step that resets."
        _fail(case, "the action of the step after an end changes nothing", difference, advice)


def _check_disabled(case: Case, next_starts: Tree) -> None:
    """Step on over the first end, and see whether the env resets by itself."""
    driver, first = case.driver, case.base.ends()[0][0]
    driver.rollout(case.seed, case.actions[:first])
    try:
        driver.env.step(driver.hand_in(case.actions[first]))
        after = snapshot(driver.env.step(driver.hand_in(case.actions[first]))[0])
    except Exception:
        # Refusing to step an episode that is over is what the mode asks for.
        return
    ended = np.flatnonzero(case.base.steps[first].ended)
    if _start_episodes([(int(i), one_env(after, i)) for i in ended], case.base, next_starts):
        seen = f"step {first + 1}: the next episode's first observation, without a reset"
        _fail(case, "ended envs wait for reset(options={'reset_mask': ...})", seen, "Declare NEXT_STEP.")


def check_final_observations(case: Case) -> None:
    """Whether ``final_obs`` is the last observation of the episode that ended (SAME_STEP alone)."""
    base, report, ends = case.base, case.report, case.base.ends()
    if case.driver.mode is not AutoresetMode.SAME_STEP:
        report.skipped[FINAL_OBS] = "outside SAME_STEP the observation itself is the last one"
        return
    if not ends:
        report.skipped[FINAL_OBS] = base.no_ends()
        return
    if report.failed(MODE):
        return

    def fail(what: str, expected: str, seen: str) -> None:
        advice = "Copy the observation of the env's last step into info['final_obs'] before the reset."
        report.fail(FINAL_OBS, what, expected, seen, advice)

    single = case.driver.env.single_observation_space
    for t, i in ends:
        final = base.steps[t].final.get(i)
        if final is None:
            expected = "the last observation of each env that ended"
            fail("final_obs at every end", expected, f"step {t}, env {i}: none")
            return
        if not single.contains(final):
            fail("membership of final_obs", f"an element of {single}", f"step {t}, env {i}: {final}")
    finals = [base.steps[t].final[i] for t, i in ends]

    def all_finals_are(observations: list[Tree]) -> bool:
        pairs = zip(finals, observations, ends, strict=True)
        return all(trees_equal(final, one_env(observation, i)) for final, observation, (_, i) in pairs)

    if not base.moves():
        report.skipped[f"{FINAL_OBS}, values"] = "the observation never changes"
    elif all_finals_are([base.steps[t].observation for t, _ in ends]):
        seen = f"the same as the observation returned beside it, at all {len(ends)} ends"
        fail("final_obs against the reset observation", "the last observation before the reset", seen)
    elif all_finals_are([base.before(t) for t, _ in ends]):
        seen = f"the observation before the last action, at all {len(ends)} ends"
        fail("final_obs against the observation before", "the observation after the last action", seen)
    elif len(finals) > 2 and all(trees_equal(final, finals[0]) for final in finals[1:]):
        fail("final_obs of different ends", "each episode's own", f"the same at all {len(ends)} ends: {finals[0]}")


def check_masks(case: Case) -> None:
    """Whether ``_final_obs``, ``_final_info`` and ``_episode`` say which episodes ended."""
    steps = case.base.steps
    if not case.base.ends():
        case.report.skipped[MASKS] = case.base.no_ends()
    names = sorted({name for step in steps for name in step.masks})
    for t, step, name in ((t, step, name) for t, step in enumerate(steps) for name in names):
        mask = step.masks.get(name, np.zeros_like(step.ended))
        if (mask != step.ended).any():
            i = int((mask != step.ended).argmax())
            seen = f"step {t}, env {i}: {bool(mask[i])} where ended is {bool(step.ended[i])}"
            advice = "Set the mask where the episode ended in this step, and nowhere else."
            case.report.fail(MASKS, f"info[{name!r}]", "terminated | truncated of the same step", seen, advice)


def check_statistics(record: Record, mode: AutoresetMode | None, report: CheckReport) -> None:
    """Whether the environment's episode returns and lengths are the sums of what it handed out."""
    if all(record.steps[t].statistics is None for t, _ in record.ends()):
        report.skipped[STATISTICS] = "info offers no ['episode']" if record.ends() else record.no_ends()
        return
    num_envs = len(record.steps[0].ended)
    returns, largest = np.zeros(num_envs), np.ones(num_envs)
    lengths, counted = np.zeros(num_envs, int), np.ones(num_envs, bool)
    for t, step in enumerate(record.steps):
        returns = returns + np.where(counted, step.reward, 0.0)
        lengths = lengths + counted
        largest = np.maximum(largest, np.abs(returns))
        for i in np.flatnonzero(step.ended):
            seen = f"step {t}, env {i}: none at this end"
            if step.statistics is not None:
                given_return, given_length = float(step.statistics[0][i]), int(step.statistics[1][i])
                if given_length == lengths[i] and abs(given_return - returns[i]) <= 1e-3 * largest[i]:
                    continue
                seen = f"step {t}, env {i}: r {given_return:.6g}, l {given_length}"
            sums = f"r {returns[i]:.6g}, l {lengths[i]}"
            expected = f"the sum of its rewards and the number of its steps: {sums}"
            advice = "Count every step of the episode once, the last one too, and start anew at each reset."
            report.fail(STATISTICS, "info['episode'] at the end of an episode", expected, seen, advice)
            return
        fresh = step.ended | step.restarted_envs
        returns, lengths = np.where(fresh, 0.0, returns), np.where(fresh, 0, lengths)
        # In NEXT_STEP mode the step after an end is spent on the reset and belongs to no episode.
        counted = ~(step.ended & ~step.restarted_envs & (mode is AutoresetMode.NEXT_STEP))


def _first_ends(base: Record) -> list[tuple[int, int]]:
    """(step, env) of each env's first end."""
    return [(t, i) for i, t in {i: t for t, i in reversed(base.ends())}.items()]


def _start_episodes(seen: list[tuple[int, Tree]], base: Record, next_starts: Tree) -> bool:
    """Evidence that observations, (env, observation), are the first ones of the envs' second episodes.

    Where all episodes start in the same way, as in many small worlds, there is no evidence.
    """
    pairs = [(one, one_env(next_starts, i), one_env(base.start, i)) for i, one in seen]
    distinct = any(not trees_equal(second, first) for _, second, first in pairs)
    return distinct and all(trees_equal(one, second) for one, second, _ in pairs)


def _fail(case: Case, expected: str, seen: str, advice: str) -> None:
    name = case.driver.mode.name if case.driver.mode else "none"
    case.report.fail(MODE, f"behaviour as declared, {name}", expected, seen, advice)
