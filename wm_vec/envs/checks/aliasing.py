"""Nothing that an environment returns is used again by it."""

from __future__ import annotations

from typing import Any

from wm_vec.envs.checks.driver import Driver
from wm_vec.envs.checks.record import Record, first_difference
from wm_vec.envs.checks.report import CheckReport
from wm_vec.envs.checks.values import Tree, as_numpy, leaves, overwrite, read_lazy_entries, trees_equal

ALIASING, IN_PLACE = "aliasing", "in_place"
HELD_STEPS = 64


class HoldWatch:
    """Keeps what came back, as it is and as a copy, and tells afterwards what changed."""

    def __init__(self) -> None:
        self._held: list[tuple[str, str, Any, Any]] = []
        self._places = 0

    def __call__(self, where: str, returned: dict[str, Any]) -> None:
        """Keep what came back at `where`, for the first `HELD_STEPS` places."""
        self._places += 1
        if self._places > HELD_STEPS:
            return
        read_lazy_entries(returned["info"])
        for name, value in returned.items():
            if name != "action":
                self._held += [(where, path, leaf, as_numpy(leaf)) for path, leaf in leaves(value, name)]

    def report(self, base: Record, report: CheckReport) -> None:
        """Note what is not any more what it was."""
        advice = "Return new arrays at every step, not a buffer that is filled again."
        expected = "still what it was after later steps"
        for where, path, leaf, copy in self._held:
            if not trees_equal(as_numpy(leaf), copy):
                report.fail(ALIASING, f"{path}, kept", expected, f"that of {where} has changed", advice)
        for t, step in enumerate(base.steps):
            if not step.action_kept:
                advice = "Work on a copy of the action."
                report.fail(ALIASING, "the action handed in", "left as it was", f"changed in step {t}", advice)
                return


class OverwriteWatch:
    """Writes into everything that came back, and into the actions handed in, as a careless caller would."""

    def __call__(self, where: str, returned: dict[str, Any]) -> None:
        """Write other values into every tensor and array."""
        read_lazy_entries(returned["info"])
        overwrite(tuple(returned.values()))


def check_in_place(driver: Driver, base: Record, actions: list[Tree], seed: int, report: CheckReport) -> None:
    """Whether a caller that writes into what it was given changes the environment's future."""
    difference = first_difference(base, driver.rollout(seed, actions, OverwriteWatch()))
    if difference:
        report.fail(
            IN_PLACE,
            "writing into what reset and step returned, and into the actions handed in",
            "the same rollout as without",
            difference,
            "Hand out copies, not views of the own state, and keep no reference to the caller's action.",
        )
