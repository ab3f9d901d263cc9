"""What the figures of one H100 are held to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
CARTPOLE, STEP, RATE = "CartPole-v1", "step in a graph", "env_steps_per_s"
FLAT = (16_384, 65_536, 1_048_576)
"""Numbers of envs between which the cost of an env step is flat."""


class Target(NamedTuple):
    """A bar for one figure.

    Attributes:
        where: Subject, world and number of envs of the figure's row; None where it is of several numbers.
        figure: Its key in the row.
        bar: What it must reach, at `k` passes of the network; at others in proportion.
        prototype: What a prototype reached.
        least: Whether the bar is a lower one.
        k: None where passes make no difference.
    """

    where: tuple[str, str, int | None]
    figure: str
    bar: float
    prototype: float | None
    least: bool = True
    k: int | None = 3


TARGETS = [
    Target((STEP, CARTPOLE, 65_536), RATE, 105e6, 109e6),
    Target((STEP, CARTPOLE, 4096), RATE, 95e6, 98e6),
    Target((STEP, CARTPOLE, 64), "us", 25.0, 25.0, least=False),
    Target((STEP, "tiny", 65_536), RATE, 46e6, 47e6),
    Target((STEP, "small", 1024), RATE, 0.55e6, 0.57e6, k=5),
    Target(("policy and env", CARTPOLE, 4096), RATE, 50e6, 50e6),
    Target(("PPO", CARTPOLE, 4096), RATE, 5e6, 0.32e6),
    Target(("vector env, copy", CARTPOLE, 1_048_576), "gib", 1.0, 0.81, least=False, k=None),
    Target(("flatness", CARTPOLE, None), "share", 0.1, None, least=False, k=None),
    Target(("cost of classes", "tiny", 65_536), "share", 0.1, None, least=False, k=None),
]


def targets(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Every target beside its figure, at every K that was measured; ``met`` is None where none was.

    Args:
        rows: The figures.
    """
    rows = [*rows, *_flatness(rows)]
    for where, figure, at_k, prototype, least, its_k in TARGETS:
        found = [row for row in rows if (row["subject"], row["world"], row.get("num_envs")) == where]
        for row in found or [{"k": its_k or 3}]:
            value, slower = row.get(figure), row["k"] / its_k if its_k else 1.0
            bar = at_k / slower if least else at_k * slower
            yield {
                "figure": ", ".join([*map(str, filter(None, where)), f"K = {row['k']}", figure]),
                "value": value,
                "bar": f"{'>=' if least else '<='} {bar:g}",
                "met": None if value is None else value >= bar if least else value <= bar,
                "prototype": prototype,
            }


def _flatness(rows: Sequence[Row]) -> Iterator[Row]:
    """By how much the costliest env step is above the cheapest, for each world and K."""
    steps = [row for row in rows if row["subject"] == STEP and row["num_envs"] in FLAT]
    for world, k in dict.fromkeys((row["world"], row["k"]) for row in steps):
        each = [row["us"] / row["num_envs"] for row in steps if (row["world"], row["k"]) == (world, k)]
        if len(each) == len(FLAT):
            yield {"subject": "flatness", "world": world, "k": k, "share": max(each) / min(each) - 1}
