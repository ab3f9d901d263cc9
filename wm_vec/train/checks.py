"""Faults of data that raise no error, found before training and told in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from wm_vec.canvas import BoundSchema, UnknownFieldError
from wm_vec.canvas.schema import check_paths
from wm_vec.canvas.signature import position_names
from wm_vec.train.data import DataError, WorldData, limits, nearest_values
from wm_vec.train.forms import as_world_data
from wm_vec.train.sources import (
    LengthError,
    TimeLine,
    is_source,
    is_sources,
    read_table,
    same_period,
    some,
    sources_by_name,
    time_line,
)

UNREADABLE, LENGTH, RANGE, CONSTANT, PERIOD = "unreadable", "length", "range", "constant", "period"
REPEATED, RESET, ACTIONS, UNKNOWN, GAP = "repeated", "reset", "actions", "unknown", "gap"
NOTES = (UNKNOWN, GAP)
"""Kinds of findings that are no faults: a world learns from what is known."""
FIT_ROWS, FIT_COLUMNS, FIT_PATTERNS = 5_000, 64, 64
"""What linear fits take at most: rows, columns of the state, and patterns of what is known of the changes."""
FEWEST_ROWS = 50
"""Rows below which nothing is fitted."""
LARGE, FAR = 2.0, 8.0
"""A reset is a change so many times the usual one, and misses a linear fit by so many times its usual error."""
MANY_CLASSES = 64
"""Classes up to which each has a column in a fit."""
CLEARLY = 0.9
"""Share of the unexplained that the actions of another row leave at most, if a row's own are to be the wrong ones."""
CONTINUOUS = 0.3
"""Share of a column's values that are distinct, from which on it does not repeat itself by chance."""


@dataclass(frozen=True)
class Finding:
    """Something about the data.

    Attributes:
        kind: ``"unreadable"``, ``"length"``, ``"range"``, ``"constant"``, ``"period"``, ``"repeated"``, ``"reset"`` or
            ``"actions"``; or a note that is no fault: ``"unknown"`` or ``"gap"``.
        fields: Paths of the fields.
        rows: Rows of the source, or steps of the transitions, counted from 0; of several sources, of their time line.
        text: What was found, and what to do.
    """

    kind: str
    fields: tuple[str, ...]
    rows: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found; as text, one line per finding.

    Attributes:
        findings: All of them.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault; unknown values and gaps are none."""
        return all(finding.kind in NOTES for finding in self.findings)

    def __str__(self) -> str:
        lines = [f"{finding.kind}: {finding.text}" for finding in self.findings]
        return "\n".join(lines or ["No faults found."])


@dataclass
class _Steps:
    """R rows of N positions, NaN where unknown, and where they lead.

    Attributes:
        values: ``(R, N)`` float32.
        next_values: ``(R, N)`` float32, one step later.
        after: ``(R,)`` int64, the row that is one step later; -1 where there is none.
        tick: ``(R,)`` int64.
        episode: ``(R,)`` int64.
        row: ``(R,)`` int64, what a finding calls a row.
        of_series: Whether they are of series over time, rather than transitions.
        by_tick: Whether a sentence calls a row by its tick and episode, since it is of several sources.
    """

    values: np.ndarray
    next_values: np.ndarray
    after: np.ndarray
    tick: np.ndarray
    episode: np.ndarray
    row: np.ndarray
    of_series: bool
    by_tick: bool

    @property
    def before(self) -> np.ndarray:
        """``(R,)`` int64, the inverse of `after`."""
        before = np.full_like(self.after, -1)
        before[self.after[self.after >= 0]] = np.flatnonzero(self.after >= 0)
        return before


def check_data(data: Any, world: Any, *, act_fields: Sequence[str] | None = None) -> DataReport:
    """Look for faults in data before a world learns from them; nothing is trained or changed.

    Finds actions that belong to the row before or after, resets inside what is given as one episode, constant columns,
    values beyond their fields' bounds, repeated rows, fields that change within their period, series of different
    lengths, and what `WorldModel.finetune` would refuse; notes unknown values and gaps in ticks.

    Args:
        data: Anything that `WorldModel.finetune` takes.
        world: The `WorldModel` that is to learn from them.
        act_fields: Paths of the actions; None for those of the world's environment, or the fields that are no output.

    Raises:
        SchemaError: `act_fields` is no list of paths, or names fields that there are not.
        TypeError: `world` is no world, or `data` no data.
        FileNotFoundError: `data` is a path where there is no file.
        ImportError: pandas is needed for a Parquet file, and missing.
    """
    if not all(hasattr(world, name) for name in ("bound", "signature", "model")):
        raise TypeError(f"check_data: world must be a WorldModel, got {world!r} ({type(world).__name__}).")
    bound, ticks_per_step = world.bound, world.model.config.ticks_per_step
    if act_fields is not None:
        check_paths("check_data: act_fields", act_fields)
    elif world.signature is not None:
        act_fields = list(world.signature.action_fields)
    else:
        act_fields = [field.path for field in bound.bound_fields() if not field.spec.is_output]
    acts, wide = bound.indices(act_fields), _without_bounds(bound)
    findings: list[Finding] = []
    try:
        if is_source(data) or is_sources(data):
            tables = []
            for name, source in sources_by_name(data).items():
                try:
                    tables.append(read_table(name, source, wide, ticks_per_step))
                except LengthError as error:
                    findings.append(_lengths(error, act_fields))
                except (DataError, UnknownFieldError) as error:
                    findings.append(Finding(UNREADABLE, (), (), str(error)))
            if not tables:
                return DataReport(tuple(findings))
            steps = _of_line(time_line(tables, wide, ticks_per_step), len(tables) > 1)
        else:
            steps = _of_data(as_world_data(data, wide, world.signature, ticks_per_step), acts)
    except (DataError, UnknownFieldError) as error:
        return DataReport((*findings, Finding(UNREADABLE, (), (), str(error))))
    return DataReport((*findings, *_Checks(steps, bound, acts, ticks_per_step).findings()))


def _without_bounds(bound: BoundSchema) -> BoundSchema:
    """The same canvas, which takes any number anywhere."""
    free: dict[str, Any] = {"low": -math.inf, "high": math.inf, "num_classes": None, "max_values": 0, "leads": False}
    fields = {field.path: replace(field.spec, **free) for field in bound.bound_fields()}
    return BoundSchema(fields, bound.layout.d_model)


def _lengths(error: LengthError, act_fields: Sequence[str]) -> Finding:
    longest, shortest = max(error.lengths.values()), min(error.lengths.values())
    odd = tuple(path for path, length in error.lengths.items() if length != longest)
    acts = {path for path in error.lengths if path.split("[")[0] in act_fields}
    text = str(error)
    if longest - shortest == 1 and acts == {*odd}:
        text += (
            " Here the actions have one row less, since none follows the last observation: append one NaN to them, or "
            "cut the last row of the others."
        )
    elif longest - shortest == 1 and acts == {*error.lengths} - {*odd}:
        text += " Here there is one action more than observations: cut the last one, which led to no observation."
    return Finding(LENGTH, odd, (), text)


def _of_line(line: TimeLine, several: bool) -> _Steps:
    next_values = np.where(line.after[:, None] >= 0, line.values[line.after], np.float32(np.nan))
    return _Steps(line.values, next_values, line.after, line.tick, line.episode, line.row, True, several)


def _of_data(data: WorldData, acts: list[int]) -> _Steps:
    order = data.episode.cpu().argsort(stable=True)  # several envs may take turns
    values, next_values, known, next_known, tick, episode = (
        getattr(data, name).cpu()[order].numpy()
        for name in ("values", "next_values", "known", "next_known", "tick", "episode")
    )
    values, next_values = (np.where(k, v, np.float32(np.nan)) for k, v in ((known, values), (next_known, next_values)))
    next_values[:, acts] = np.nan  # what was done is no outcome
    unknown = np.isnan(values[1:]) | np.isnan(next_values[:-1])
    follows = ((values[1:] == next_values[:-1]) | unknown).all(1) & ~unknown.all(1) & (episode[1:] == episode[:-1])
    after = np.append(np.where(follows, np.arange(1, len(values)), -1), -1)
    return _Steps(values, next_values, after, tick, episode, order.numpy(), False, False)


class _Checks:
    """Checks of R rows.

    Args:
        steps: The rows.
        bound: The world's schema.
        acts: Positions of the actions.
        ticks_per_step: See `wm_vec.model.ModelConfig`.
    """

    def __init__(self, steps: _Steps, bound: BoundSchema, acts: list[int], ticks_per_step: int) -> None:
        # Infinities are found beyond bounds; for all else they are unknown.
        self.given, self.bound = steps, bound
        self.steps = replace(steps, values=_finite(steps.values), next_values=_finite(steps.next_values))
        fields = bound.bound_fields()
        self.names = position_names({field.path: field.spec for field in fields})
        self.owner = [field.path for field in fields for _ in field.indices()]
        specs = [field.spec for field in fields for _ in field.indices()]
        self.classes = np.array([spec.num_classes or 0 for spec in specs])
        self.period = np.array([spec.period for spec in specs])
        self.is_state = np.array([spec.is_input for spec in specs])
        self.is_state[acts] = False
        self.acts = [at for at in acts if not np.isnan(self.steps.values[:, at]).all()]
        self.ticks_per_step = ticks_per_step
        # The outcome of a step that no row shows: the last of an episode, and what is no input.
        seen = (steps.after[:, None] >= 0) & ~np.isnan(steps.values[steps.after])
        self.outcome = np.where(seen, np.float32(np.nan), steps.next_values)

    def findings(self) -> Iterator[Finding]:
        """All that is found."""
        # Transitions lack what is no observation by nature.
        notes = (self.unknown, self.gaps) if self.steps.of_series else ()
        faults = self.beyond, self.constant, self.periods, self.repeated, self.resets, self.shifted_actions
        for check in (*notes, *faults):
            yield from check()

    def unknown(self) -> Iterator[Finding]:
        missing = np.isnan(self.given.values)
        shares = {field.path: missing[:, field.indices()].mean() for field in self.bound.bound_fields()}
        if listed := some(f"{share:.1%} of {path!r}" for path, share in shares.items() if share):
            at, where = np.flatnonzero(missing.any(0)).tolist(), np.flatnonzero(missing.any(1))
            yield self._finding(UNKNOWN, at, where, f"Unknown (NaN) is {listed}.")

    def gaps(self) -> Iterator[Finding]:
        steps, step = self.steps, self.ticks_per_step
        ends = steps.tick[np.append(np.diff(steps.episode) > 0, True)][steps.episode]
        where = np.flatnonzero((steps.after < 0) & (steps.tick + step <= ends))
        if len(where):
            text = (
                f"There is nothing one step ({step} ticks) after {len(where)} of {len(ends)} rows, though their "
                f"episode goes on: {self._rows(where)}. No step is learned from there."
            )
            yield self._finding(GAP, [], where, text)

    def beyond(self) -> Iterator[Finding]:
        tables = self.given.values, self.outcome
        first, second = (
            nearest_values(torch.from_numpy(table), self.bound)[1].numpy() & ~np.isnan(table) for table in tables
        )
        low, high, _ = limits(self.bound)
        for at in np.flatnonzero((first | second).any(0)).tolist():
            where = self._in_order(np.flatnonzero(first[:, at] | second[:, at]))
            value = tables[0 if first[where[0], at] else 1][where[0], at]
            text = (
                f"{self.names[at]!r} takes {'whole' if self.classes[at] else 'finite'} numbers from {low[at]:g} to "
                f"{high[at]:g}; {len(where)} of {len(first)} rows are beyond, first in {self._rows(where[:1])}: "
                f"{value:g}. Clip them, or make the world with wider bounds."
            )
            yield self._finding(RANGE, [at], where, text)

    def constant(self) -> Iterator[Finding]:
        both = np.concatenate((self.steps.values, _finite(self.outcome)))
        known = ~np.isnan(both)
        low, high = np.where(known, both, np.inf).min(0), np.where(known, both, -np.inf).max(0)
        could = (self.is_state | np.isin(np.arange(len(self.names)), self.acts)) & (self.classes != 1)
        could &= (self.period <= self.ticks_per_step) | (np.ptp(self.steps.tick) >= self.period)
        still = np.flatnonzero(could & (low == high) & (known.sum(0) > 1)).tolist()
        if still:
            listed = some(f"{self.names[at]!r} ({low[at]:g})" for at in still)
            be = "is" if len(still) == 1 else "are"
            text = f"{listed} {be} the same in all rows: nothing can be learned of that."
            yield self._finding(CONSTANT, still, [], text)

    def periods(self) -> Iterator[Finding]:
        steps = self.steps
        for period in np.unique(self.period[self.period > self.ticks_per_step]).tolist():
            positions = np.flatnonzero(self.period == period)
            block = steps.values[:, positions]
            moved = ~np.isnan(block[1:]) & ~np.isnan(block[:-1]) & (block[1:] != block[:-1])
            moved &= same_period(steps.tick, steps.episode, period)[:, None]
            if moved.any():
                where, changing = np.flatnonzero(moved.any(1)) + 1, positions[moved.any(0)].tolist()
                text = (
                    f"{some(repr(self.names[at]) for at in changing)} of a period of {period} ticks change within it "
                    f"in {len(where)} of {len(block)} rows, first in {self._rows(where[:1])}; a world holds them "
                    "there. Give one value per period, or make the fields' period shorter."
                )
                yield self._finding(PERIOD, changing, where, text)

    def repeated(self) -> Iterator[Finding]:
        values, following = self.steps.values[:-1], self.steps.values[1:]
        both = ~np.isnan(values) & ~np.isnan(following)
        rich = np.array([self._is_continuous(column) for column in self.steps.values.T])
        told = (both & rich & self._due(self.steps.tick[:-1], np.diff(self.steps.tick))).any(1)
        where = np.flatnonzero(told & (~both | (values == following)).all(1)) + 1
        if len(where):
            text = (
                f"{len(where)} rows are equal to the row before in everything that is known: {self._rows(where)}. "
                "Leave out what was recorded twice; a world that is at rest may look so, too."
            )
            yield self._finding(REPEATED, [], where, text)

    def _is_continuous(self, column: np.ndarray) -> bool:
        known = column[:FIT_ROWS][~np.isnan(column[:FIT_ROWS])]
        return len(known) > 2 and len(np.unique(known)) >= CONTINUOUS * len(known)

    def _due(self, tick: np.ndarray, ticks: np.ndarray | int) -> np.ndarray:
        """``(R, N)`` bool, what can change within the next ticks; where no ticks are counted, all."""
        if not self.steps.tick.any():
            return np.ones((len(tick), len(self.period)), bool)
        return (tick + ticks)[:, None] // self.period > tick[:, None] // self.period

    def resets(self) -> Iterator[Finding]:
        steps = self.steps
        rows = np.flatnonzero(~np.isnan(steps.next_values).all(1))
        if len(rows) < FEWEST_ROWS:
            return
        numbers = np.flatnonzero(self.is_state & (self.classes == 0))
        change = self._change(rows, numbers)
        numbers, change = self._fitting(numbers, change, (np.abs(change) > 0).mean(0) > 0.1)
        if len(numbers) < 2:
            return
        sample = np.random.default_rng(0).permutation(len(rows))[:FIT_ROWS]
        inputs = self._inputs([*self._best_known(rows[sample]), *self.acts], rows)
        for _ in range(2):  # the second time without what may be resets
            error = np.abs(change - inputs @ _solve(inputs[sample], change[sample]))
            worst = np.nan_to_num(error[sample] / np.nanmedian(error, 0).clip(min=1e-30)).max(1)
            sample = sample[worst <= np.quantile(worst, 0.9)]
        usual = np.array([np.median(np.abs(column[np.abs(column) > 0])) for column in change.T])
        far = (np.abs(change) > LARGE * usual) & (error > LARGE * usual)
        far &= error > FAR * 1.48 * np.nanmedian(error, 0)
        jumps = np.flatnonzero((far.sum(1) >= 2) & (far.sum(1) > (~np.isnan(change)).sum(1) / 2))
        if not len(jumps):
            return
        landed = np.where(steps.after[rows[jumps]] >= 0, steps.after[rows[jumps]], rows[jumps])
        text = (
            f"{len(jumps)} times most fields jump at once, up to {np.nanmax(np.abs(change[jumps]) / usual):.0f} times "
            f"their usual change, inside of what is given as one episode: at {self._rows(landed)}. If episodes begin "
            "there, say so in an 'episode' column (of transitions in 'episode' or 'is_init'): a reset is no step to "
            "learn."
        )
        yield self._finding(RESET, numbers[far[jumps].any(0)], landed, text)

    def shifted_actions(self) -> Iterator[Finding]:
        steps, acts = self.steps, self.acts
        lags = {-1: steps.before, 0: np.arange(len(steps.after)), 1: steps.after}
        rows = np.flatnonzero((steps.before >= 0) & (steps.after >= 0))
        for where in lags.values():
            rows = rows[~np.isnan(steps.values[np.ix_(where[rows], np.array(acts, np.int64))]).any(1)]
        rows = np.random.default_rng(0).permutation(rows)[:FIT_ROWS]
        if len(rows) < FEWEST_ROWS or not acts:
            return
        held_out = np.arange(len(rows)) % 3 == 0
        read = self._best_known(rows)
        seen, following = self._inputs(read, rows), self._inputs(read, steps.after[rows])
        inputs = {lag: self._inputs(acts, where[rows]) for lag, where in lags.items()}
        # A policy acts on the state that a step leads to: what this says of the next action is no cause of the step.
        inputs[1] = inputs[1] - following @ _solve(following[~held_out], inputs[1][~held_out])
        targets = np.flatnonzero(self.is_state)
        change = self._change(rows, targets)
        targets, change = self._fitting(targets, change, _varies(change[held_out]) & _varies(change[~held_out]))
        if not len(targets):
            return

        def left(inputs: np.ndarray) -> np.ndarray:
            """Of each held-out change the share that a linear fit does not explain."""
            error = change[held_out] - inputs[held_out] @ _solve(inputs[~held_out], change[~held_out])
            return np.nanmean(error**2, 0) / np.nanvar(change[held_out], 0)

        blind, rest = left(seen), {lag: left(np.concatenate((seen, part), 1)) for lag, part in inputs.items()}
        nats = {lag: 0.5 * held_out.sum() * np.log((rest[0] + 1e-4) / (rest[lag] + 1e-4)).sum() for lag in (-1, 1)}
        lag = -1 if nats[-1] > nats[1] else 1
        moved = blind - np.minimum(rest[lag], rest[0]) > 0.02
        chance = 20.0 + 3.0 * math.sqrt(len(targets) * inputs[0].shape[1])
        if nats[lag] < chance or not moved.any() or rest[lag][moved].mean() > CLEARLY * rest[0][moved].mean():
            return
        others, shift = ("before", "later") if lag < 0 else ("after", "earlier")
        text = (
            f"The actions of the row {others} explain the changes of "
            f"{some(repr(self.names[at]) for at in targets[moved])} better than the row's own: held-out R2 "
            f"{1 - rest[lag][moved].mean():.2f} against {1 - rest[0][moved].mean():.2f}. A row holds the action that "
            f"is taken in it: move {some(repr(self.names[at]) for at in acts)} one row {shift}. (Or what is observed "
            "lacks velocities.)"
        )
        yield self._finding(ACTIONS, acts, [], text)

    def _change(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """``(rows, positions)`` float64, what a step changes; NaN where that is unknown or not due."""
        where = np.ix_(rows, positions)
        change = self.steps.next_values[where].astype(np.float64) - self.steps.values[where]
        return np.where(self._due(self.steps.tick[rows], self.ticks_per_step)[:, positions], change, np.nan)

    def _fitting(self, positions: np.ndarray, change: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the positions wanted those of the `FIT_PATTERNS` that most have in common, and their changes."""
        positions, change = positions[wanted], change[:, wanted]
        pattern = _patterns(change)
        common = np.isin(pattern, np.argsort(-np.bincount(pattern), kind="stable")[:FIT_PATTERNS])
        return positions[common], change[:, common]

    def _best_known(self, rows: np.ndarray) -> list[int]:
        """The positions of the state that a fit on these rows reads."""
        known = np.where(self.is_state, (~np.isnan(self.steps.values[rows])).sum(0), 0)
        best = np.argsort(-known, kind="stable")[: min(FIT_COLUMNS, len(rows) // 8)]
        return best[known[best] > 0].tolist()

    def _inputs(self, positions: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """What a fit reads of rows: a constant, numbers in standard units, few classes one by one; 0 where unknown."""
        columns = [np.ones((len(rows), 1))]
        for at in positions:
            column = self.steps.values[:, at].astype(np.float64)
            known = column[~np.isnan(column)]
            if 0 < self.classes[at] <= MANY_CLASSES:
                columns.append((column[rows, None] == np.arange(self.classes[at])).astype(np.float64))
            else:
                columns.append(np.nan_to_num((column[rows, None] - known.mean()) / (known.std() or 1.0)))
        return np.concatenate(columns, 1)

    def _in_order(self, where: np.ndarray) -> np.ndarray:
        """Some rows in the order of their numbers."""
        return where[np.argsort(self.steps.row[where])]

    def _rows(self, where: np.ndarray) -> str:
        """What rows are called, those that follow one another as ``first-last``."""
        steps = self.steps
        if steps.by_tick:
            return some(f"tick {steps.tick[at]} of episode {steps.episode[at]}" for at in where)
        rows = np.sort(steps.row[where])
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        listed = some(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
        return f"row{'s' * (len(rows) > 1)} {listed}"

    def _finding(self, kind: str, positions: Iterable[int], where: Sequence[int] | np.ndarray, text: str) -> Finding:
        fields = tuple(dict.fromkeys(self.owner[at] for at in positions))
        where = self._in_order(np.asarray(where, np.int64))
        return Finding(kind, fields, tuple(self.steps.row[where].tolist()), text)


def _solve(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights of the least squares of each target, on the rows in which it is known."""
    weights, pattern = np.zeros((inputs.shape[1], targets.shape[1])), _patterns(targets)
    for i in np.unique(pattern):
        of = pattern == i
        rows = ~np.isnan(targets[:, of.argmax()])
        read, ridge = inputs[rows], 1e-9 * max(1, rows.sum()) * np.eye(inputs.shape[1])
        weights[:, of] = np.linalg.solve(read.T @ read + ridge, read.T @ targets[np.ix_(rows, of)])
    return weights


def _patterns(table: np.ndarray) -> np.ndarray:
    """``(columns,)`` int64, equal for columns that are known in the same rows."""
    return np.unique(np.packbits(~np.isnan(table), axis=0), axis=1, return_inverse=True)[1].reshape(-1)


def _finite(table: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(table), np.float32(np.nan), table)


def _varies(change: np.ndarray) -> np.ndarray:
    """Which columns are known often enough to be fitted, and not the same throughout."""
    known = ~np.isnan(change)
    low, high = np.where(known, change, np.inf).min(0), np.where(known, change, -np.inf).max(0)
    return (known.sum(0) >= FEWEST_ROWS / 4) & (low < high)
