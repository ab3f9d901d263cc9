"""What the figures of one H100 are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Target(NamedTuple):
    """A bar for one figure, at three passes of the network.

    Attributes:
        where: What the row of the figure must hold.
        figure: Its key in the row.
        bar: What it must reach.
        prototype: What a prototype reached on an H100.
        least: Whether the bar is a lower one.
        scales: Whether the work grows with the passes.
    """

    where: dict[str, Any]
    figure: str
    bar: float
    prototype: float | None
    least: bool = True
    scales: bool = True


def _at(subject: str, world: str, num_envs: int) -> dict[str, Any]:
    return {"subject": subject, "world": world, "num_envs": num_envs}


RATE = "env_steps_per_s"
CARTPOLE = "CartPole-v1"
STEP = "step in a graph"
FLAT = (16_384, 65_536, 1_048_576)
"""Numbers of envs between which the cost of an env step is flat."""

TARGETS = [
    Target(_at(STEP, CARTPOLE, 65_536), RATE, 105e6, 109e6),
    Target(_at(STEP, CARTPOLE, 4096), RATE, 95e6, 98e6),
    Target(_at(STEP, CARTPOLE, 64), "us", 25.0, 25.0, least=False),
    Target(_at(STEP, "tiny", 65_536), RATE, 46e6, 47e6),
    Target(_at(STEP, "small", 1024), RATE, 0.55e6, 0.57e6, scales=False),
    Target(_at("policy and env", CARTPOLE, 4096), RATE, 50e6, 50e6),
    Target(_at("PPO", CARTPOLE, 4096), RATE, 5e6, 0.32e6),
    Target(_at("memory", CARTPOLE, 1_048_576), "gib", 1.0, 0.81, least=False, scales=False),
    Target({"subject": "flatness", "world": CARTPOLE}, "share", 0.1, None, least=False, scales=False),
    Target({"subject": "cost of classes", "world": "tiny"}, "share", 0.1, None, least=False, scales=False),
]


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Every target beside its figure; ``met`` is None where that was not measured.

    Those that scale are held at every K that was measured, three passes being the prototypes'.

    Args:
        rows: The figures.
    """
    rows = [*rows, *_flatness(rows)]
    for target in TARGETS:
        found = [row for row in rows if all(row.get(key) == value for key, value in target.where.items())]
        for row in found or [{"k": 3, **target.where}]:
            k, value = row.get("k", 3), row.get(target.figure)
            slower = k / 3 if target.scales else 1.0
            bar = target.bar / slower if target.least else target.bar * slower
            met = None if value is None else value >= bar if target.least else value <= bar
            envs = f", {row['num_envs']:,} envs" if "num_envs" in row else ""
            yield {
                "figure": f"{row['world']}: {row['subject']}{envs}, K = {k}: {target.figure}",
                "value": value,
                "at_least": bar if target.least else None,
                "at_most": None if target.least else bar,
                "met": met,
                "prototype": target.prototype,
            }


def _flatness(rows: Sequence[Row]) -> Iterator[Row]:
    """By how much the costliest env step is above the cheapest, for each world and K."""
    steps = [row for row in rows if row["subject"] == STEP and row["num_envs"] in FLAT]
    for world, k in dict.fromkeys((row["world"], row["k"]) for row in steps):
        each = [row["us"] / row["num_envs"] for row in steps if (row["world"], row["k"]) == (world, k)]
        if len(each) == len(FLAT):
            yield {"subject": "flatness", "world": world, "k": k, "share": max(each) / min(each) - 1}
