"""Nothing that an environment returns is used again by it."""

from __future__ import annotations

from typing import Any

from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.rollout import Case, Record, first_difference
from wm_vec.envs.checks.values import as_numpy, leaves, overwrite, trees_equal

ALIASING, IN_PLACE = "aliasing", "in_place"
HELD_STEPS = 64
LAZY_ENTRIES = ("obs_dict", "predictions", "model_state")
"""Entries of info that an environment may make when they are first read."""


class HoldWatch:
    """Keeps what came back, as it is and as a copy, and reports afterwards what changed."""

    def __init__(self) -> None:
        self._held: list[tuple[str, str, Any, Any]] = []
        self._places = 0

    def __call__(self, where: str, returned: dict[str, Any]) -> None:
        """Keep what came back at `where`, for the first `HELD_STEPS` places."""
        self._places += 1
        if self._places > HELD_STEPS:
            return
        _read_lazy_entries(returned["info"])
        kept = {name: value for name, value in returned.items() if name != "action"}
        self._held += [(where, path, leaf, as_numpy(leaf)) for name in kept for path, leaf in leaves(kept[name], name)]

    def report(self, base: Record, report: CheckReport) -> None:
        """Note what has changed since."""
        advice = "Return new arrays at every step, not a buffer that is filled again."
        expected = "still what it was after later steps"
        for where, path, leaf, copy in self._held:
            if not trees_equal(as_numpy(leaf), copy):
                report.fail(ALIASING, f"{path}, kept", expected, f"that of {where} has changed", advice)
        changed = [t for t, step in enumerate(base.steps) if not step.action_kept]
        if changed:
            seen, advice = f"changed in step {changed[0]}", "Work on a copy of the action."
            report.fail(ALIASING, "the action handed in", "left as it was", seen, advice)


def check_in_place(case: Case) -> None:
    """Whether a caller that writes into what it was given changes the environment's future."""

    def overwriting(where: str, returned: dict[str, Any]) -> None:
        _read_lazy_entries(returned["info"])
        overwrite(tuple(returned.values()))

    difference = first_difference(case.base, case.driver.rollout(case.seed, case.actions, overwriting))
    if difference:
        what = "writing into what reset and step returned, and into the actions handed in"
        advice = "Hand out copies, not views of the own state, and keep no reference to the caller's action."
        case.report.fail(IN_PLACE, what, "the same rollout as without", difference, advice)


def _read_lazy_entries(info: Any) -> None:
    for name in LAZY_ENTRIES:
        info.get(name)
