"""What a rollout gave, and where two rollouts part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wm_vec.envs.checks.values import (
    Tree,
    as_numpy,
    leaves,
    map_leaves,
    row,
    rows,
    rows_differ,
    snapshot,
    trees_equal,
)


@dataclass
class Statistics:
    """Episode statistics as the environment gives them, ``(B,)`` each; the mask if there is one."""

    returns: np.ndarray
    lengths: np.ndarray
    mask: np.ndarray | None


@dataclass
class Step:
    """One step, in NumPy copies.

    Attributes:
        observation: Batched tree.
        reward: ``(B,)``.
        terminated: ``(B,)``.
        truncated: ``(B,)``.
        masks: ``_final_obs``, ``_final_info`` and ``_episode`` where info has them, ``(B,)``.
        final: Env -> its final observation, for envs whose episode ended and for which there is one.
        statistics: The environment's own, or None.
        own_return: ``(B,)``, our own sum of the episode's rewards up to this step.
        own_length: ``(B,)``, our own count of the episode's steps.
        restarted: What a masked reset after this step returned; None without one.
        restarted_rows: ``(B,)`` bool, the envs that it reset.
        action_kept: Whether the action handed in was left as it was.
    """

    observation: Tree
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    masks: dict[str, np.ndarray]
    final: dict[int, Tree]
    statistics: Statistics | None
    own_return: np.ndarray
    own_length: np.ndarray
    action_kept: bool
    restarted: Tree | None = None
    restarted_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @property
    def ended(self) -> np.ndarray:
        """``(B,)`` bool: the episodes that ended here."""
        return self.terminated | self.truncated

    @property
    def answered(self) -> Tree:
        """The observation that the next action answers to."""
        return self.observation if self.restarted is None else self.restarted


@dataclass
class Record:
    """A rollout: the first observation and the steps."""

    start: Tree
    steps: list[Step]

    def ends(self) -> list[tuple[int, int]]:
        """(step, env) of every end."""
        return [(t, int(i)) for t, step in enumerate(self.steps) for i in np.flatnonzero(step.ended)]

    def before(self, t: int) -> Tree:
        """The observation that the action of step t answered to."""
        return self.start if t == 0 else self.steps[t - 1].answered

    def moves(self) -> bool:
        """Whether any observation differs from the first."""
        return any(not trees_equal(step.observation, self.start) for step in self.steps)

    def no_ends(self) -> str:
        """Why checks of ends were skipped."""
        return f"no episode ended in {len(self.steps)} steps; give more num_steps or a shorter horizon"


def take_down(returned: tuple[Any, ...]) -> Step:
    """What `step` returned, in NumPy copies."""
    observation, reward, terminated, truncated, info = returned
    flags = [as_numpy(flag).astype(bool) for flag in (terminated, truncated)]
    final = {}
    if "final_obs" in info:
        for i in np.flatnonzero(flags[0] | flags[1]):
            one = row(info["final_obs"], int(i))
            if one is not None:
                final[int(i)] = snapshot(one)
    names = ("_final_obs", "_final_info", "_episode")
    return Step(
        observation=snapshot(observation),
        reward=as_numpy(reward).astype(np.float64),
        terminated=flags[0],
        truncated=flags[1],
        masks={name: as_numpy(info[name]).astype(bool) for name in names if name in info},
        final=final,
        statistics=_statistics(info),
        own_return=np.zeros(0),
        own_length=np.zeros(0),
        action_kept=True,
    )


def _statistics(info: Any) -> Statistics | None:
    for home in (info, info.get("final_info")):
        episode = home.get("episode") if isinstance(home, Mapping) else None
        if isinstance(episode, Mapping) and "r" in episode and "l" in episode:
            mask = home.get("_episode")
            return Statistics(
                as_numpy(episode["r"]),
                as_numpy(episode["l"]),
                None if mask is None else as_numpy(mask).astype(bool),
            )
    return None


def first_difference(
    a: Record,
    b: Record,
    *,
    rows_a: Any = slice(None),
    rows_b: Any = slice(None),
    num_steps: int | None = None,
    tolerance: float = 1e-5,
) -> str | None:
    """Where two rollouts part, in words; None if they do not.

    Args:
        a: A rollout.
        b: Another.
        rows_a: The envs of `a` to look at.
        rows_b: The envs of `b` that should agree with them, in the same order.
        num_steps: How many steps to look at; None for all.
        tolerance: Allowed difference of numbers, see `rows_differ`.
    """
    names = np.arange(len(next(leaf for _, leaf in leaves(a.start, ""))))[rows_a]
    others = np.arange(len(next(leaf for _, leaf in leaves(b.start, ""))))[rows_b]

    def compare(where: str, x: Tree, y: Tree) -> str | None:
        x, y = rows(x, rows_a), rows(y, rows_b)
        differ = rows_differ(x, y, tolerance)
        if not differ.any():
            return None
        i = int(differ.argmax())
        return f"{where}, env {names[i]}: {_short(row(x, i))} against {_short(row(y, i))}"

    found = compare("reset, observation", a.start, b.start)
    if found:
        return found
    for t, (x, y) in enumerate(zip(a.steps[:num_steps], b.steps[:num_steps], strict=False)):
        for name in ("terminated", "truncated", "reward", "observation"):
            found = compare(f"step {t}, {name}", getattr(x, name), getattr(y, name))
            if found:
                return found
        for i, j in zip(names, others, strict=True):
            if int(i) in x.final and int(j) in y.final:
                one, other = (map_leaves(lambda leaf: leaf[None], f) for f in (x.final[int(i)], y.final[int(j)]))
                if rows_differ(one, other, tolerance).any():
                    return f"step {t}, final_obs, env {i}: {_short(one)} against {_short(other)}"
    return None


def _short(tree: Tree) -> str:
    text = " ".join(np.array2string(np.asarray(leaf), precision=6, threshold=8) for _, leaf in leaves(tree, ""))
    return (text or str(tree)).replace("\n", " ")
