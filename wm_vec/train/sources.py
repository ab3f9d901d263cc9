"""Tables of series over time, of one or several sources, on one time line."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from wm_vec.canvas import BoundSchema, UnknownFieldError
from wm_vec.canvas.signature import position_names
from wm_vec.plain import LARGEST_WHOLE, as_path, whole_number
from wm_vec.train.data import ROUNDING, DataError, WorldData, as_array

TICK, EPISODE = "tick", "episode"
"""Columns that place rows in time, unless the schema has fields of these names."""
LAST_TICK = LARGEST_WHOLE // 2
SHOWN = 4
"""Names and rows that a sentence lists."""


class LengthError(DataError):
    """Columns of different lengths.

    Attributes:
        lengths: Rows of each column.
    """

    def __init__(self, lengths: Mapping[Any, int]) -> None:
        self.lengths = lengths
        of = {n: some(repr(path) for path in lengths if lengths[path] == n) for n in sorted({*lengths.values()})}
        listed = ", ".join(f"{length} ({paths})" for length, paths in of.items())
        super().__init__(
            f"the series have different lengths: {listed}. Give series of different frequency as sources of their own, "
            f"each with a {TICK!r} column: finetune([one, two])."
        )


def some(names: Iterable[Any]) -> str:
    """The first of several names."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


@dataclass
class Table:
    """A source of R rows, which covers n positions.

    Attributes:
        name: What errors call it.
        positions: n canvas positions.
        values: ``(R, n)`` float32, NaN where unknown.
        tick: ``(R,)`` int64, in canvas ticks.
        episode: ``(R,)`` int64.
        has_ticks: Whether the ticks are its own; otherwise each row is one step after the row before.
        has_episodes: Whether the episodes are its own; otherwise all rows are of one.
    """

    name: str
    positions: list[int]
    values: np.ndarray
    tick: np.ndarray
    episode: np.ndarray
    has_ticks: bool
    has_episodes: bool


@dataclass
class TimeLine:
    """The rows of all sources, by episode and tick: R rows of N positions.

    Attributes:
        values: ``(R, N)`` float32, NaN where unknown.
        tick: ``(R,)`` int64, in canvas ticks.
        episode: ``(R,)`` int64, counted from 0.
        row: ``(R,)`` int64, which row this is of the only source; of several, the rows are counted here.
        after: ``(R,)`` int64, the row one step later in the same episode; -1 where there is none.
        is_start: ``(R,)`` bool, whether episodes of the world may start there.
    """

    values: np.ndarray
    tick: np.ndarray
    episode: np.ndarray
    row: np.ndarray
    after: np.ndarray
    is_start: np.ndarray


def data_from_sources(sources: Any, bound: BoundSchema, ticks_per_step: int = 1) -> WorldData:
    """Series over time by field path, of one or several sources, as canvas states.

    Columns are field paths, ``"path[0]"``, ``"path[1]"``, ... for single positions, and optionally ``"tick"`` (canvas
    ticks, growing within an episode) and ``"episode"`` (whole numbers), unless the schema has fields of these names.
    Without ticks each row is one step after the row before. Rows exactly one step apart in one episode make a training
    pair.

    Sources with ticks lie on one time line per episode: what one of them lacks, the others may know. Sources without
    are recordings of their own. Within its period a field has one value: where it is known in one row and the period
    is longer than a step, so it is in the others.

    Args:
        sources: A mapping of columns, each ``(R,)``, ``(R, n)`` or ``(R, h, w)``, NaN where nothing was observed; a
            DataFrame; the path of a Parquet file; or a list of these.
        bound: The world's schema.
        ticks_per_step: Ticks of the fields' periods that a step lasts.

    Raises:
        ValueError: `ticks_per_step` is no whole number of at least 1.
        UnknownFieldError: A path that the schema does not have.
        DataError: Lengths that differ, shapes that do not fit the fields, values that are not in them, ticks that do
            not grow, sources that contradict one another, or fewer than two pairs of rows one step apart.
        FileNotFoundError: There is no such file.
        ImportError: pandas is needed for a Parquet file, and missing.
    """
    ticks_per_step = whole_number(ticks_per_step, "ticks_per_step")
    named = sources_by_name(sources).items()
    tables = [read_table(name, source, bound, ticks_per_step) for name, source in named]
    line = time_line(tables, bound, ticks_per_step)
    first = np.flatnonzero(line.after >= 0)
    table = torch.from_numpy(line.values)
    known = ~table.isnan()
    table = torch.where(known, table, 0.0)
    one, two, start = (torch.from_numpy(index) for index in (first, line.after[first], line.is_start))
    tick, episode = (torch.from_numpy(column[first]) for column in (line.tick, line.episode))
    data = WorldData(table[one], table[two], known[one], known[two], tick, episode, table[start], known[start])
    return data.within(bound)


def is_source(data: Any) -> bool:
    """Whether `data` is one source: a mapping, a DataFrame (by its attributes) or a path."""
    if isinstance(data, TensorDictBase):  # a mapping, too
        return False
    return isinstance(data, (Mapping, str, os.PathLike)) or (hasattr(data, "columns") and hasattr(data, "dtypes"))


def is_sources(data: Any) -> bool:
    """Whether `data` is a list of sources."""
    return isinstance(data, (list, tuple)) and len(data) > 0 and all(map(is_source, data))


def sources_by_name(sources: Any) -> dict[str, Any]:
    """One or several sources, by what errors call them."""
    if is_source(sources):
        return {"The data": sources}
    if not is_sources(sources):
        raise DataError(
            f"Sources are mappings of field path -> series, DataFrames, paths of Parquet files, or a list of these; "
            f"got {type(sources).__name__}."
        )
    return {f"Source {i}": source for i, source in enumerate(sources)}


def _columns_of(source: Any) -> dict[Any, Any]:
    """The columns of a source by name."""
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, (str, os.PathLike)):
        source = _read_parquet(source)
    columns = list(source.columns)
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise DataError(f"Columns {twice} stand more than once in the table. Name each field once.")
    levels = getattr(getattr(source, "index", None), "names", ())
    if marks := [level for level in levels if level in (TICK, EPISODE) and level not in columns]:
        source = source.reset_index(marks)
    return {name: source[name] for name in (*marks, *columns)}


def _read_parquet(source: str | os.PathLike[str]) -> Any:
    path = as_path(source, "A file of data")
    if path.suffix != ".parquet":
        raise DataError(
            f"{os.fspath(source)!r}: the files that are read are Parquet, with names that end in '.parquet'."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no file of data here.")
    try:
        import pandas as pd

        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"Parquet files are read by pandas ({error}): pip install 'wm_vec[data]'") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file ({error}).") from error


def read_table(name: str, source: Any, bound: BoundSchema, ticks_per_step: int) -> Table:
    """One source; see `data_from_sources`.

    Raises:
        LengthError: The columns have different lengths.
        DataError: Another fault.
    """
    try:
        return _read_table(name, _columns_of(source), bound, ticks_per_step)
    except (DataError, UnknownFieldError) as error:
        error.args = (f"{name}: {error}",)
        raise


def _read_table(name: str, columns: Mapping[Any, Any], bound: BoundSchema, ticks_per_step: int) -> Table:
    for path, column in columns.items():
        if getattr(getattr(column, "dtype", None), "kind", "") == "M":
            raise DataError(
                f"{path!r} holds dates. Leave them out, and say when a row is by a {TICK!r} column of whole numbers: "
                "canvas ticks since the first row."
            )
    marks = {path for path in (TICK, EPISODE) if path in columns and path not in bound}
    places = {path: _places(path, bound) for path in columns if path not in marks}
    if not places:
        raise DataError(f"there is no series of a field, only {sorted(marks)}. Give at least one, by its path.")
    series = {path: _series(path, columns[path], np.float64 if path in marks else np.float32) for path in columns}
    lengths = {path: len(column) for path, column in series.items()}
    if len({*lengths.values()}) > 1:
        raise LengthError(lengths)
    rows = next(iter(lengths.values()))
    if rows == 0:
        raise DataError("the series are empty. Give at least 3 rows.")
    for path, at in places.items():
        if series[path].size != rows * len(at):
            raise DataError(
                f"{path!r} has {len(at)} positions, so its array must hold {rows} x {len(at)} numbers, got shape "
                f"{series[path].shape}."
            )
    positions = [position for at in places.values() for position in at]
    if twice := [position for position, count in Counter(positions).items() if count > 1]:
        names = position_names({field.path: field.spec for field in bound.bound_fields()})
        raise DataError(
            f"{names[twice[0]]!r} is in two columns. Give a field by its path or by its positions, not by both."
        )
    values = np.concatenate([series[path].reshape(rows, -1) for path in places], 1)
    tick = _whole_numbers(TICK, series[TICK], 0) if TICK in marks else None
    episode = _whole_numbers(EPISODE, series[EPISODE], -LAST_TICK) if EPISODE in marks else np.zeros(rows, np.int64)
    ticks = _ticks(tick, episode, ticks_per_step)
    return Table(name, positions, values, ticks, episode, TICK in marks, EPISODE in marks)


def _places(path: Any, bound: BoundSchema) -> list[int]:
    """Canvas positions of a column: a field, or one position of it."""
    part = re.fullmatch(r"(.*)\[(\d+)\]", path) if isinstance(path, str) and path not in bound else None
    if part is None:
        return bound[path].indices()
    places, number = bound[part[1]].indices(), int(part[2])
    if number >= len(places):
        raise DataError(f"{path!r}: {part[1]!r} has {len(places)} positions, [0] to [{len(places) - 1}].")
    return [places[number]]


def _series(path: Any, given: Any, dtype: type) -> np.ndarray:
    """A column, NaN where unknown."""
    if hasattr(given, "notna"):  # pandas, some of whose missing values are no NaN
        given = given.astype(object).where(given.notna(), np.nan).to_numpy()
    if isinstance(given, np.ndarray) and given.dtype == object and given.ndim == 1:
        arrays = (list, tuple, np.ndarray)
        first = next((row for row in given if isinstance(row, arrays)), None)
        if first is not None:  # a column of arrays
            unknown = np.full(np.shape(first), np.nan)
            given = [row if isinstance(row, arrays) else unknown for row in given]
    series = as_array(path, given, dtype)
    if series.ndim == 0:
        raise DataError(f"{path!r} must be a series over time, got {given!r}.")
    return series


def _whole_numbers(path: str, numbers: np.ndarray, low: int) -> np.ndarray:
    """``(R,)`` int64."""
    if numbers.size != len(numbers):
        raise DataError(f"{path!r} must be one whole number per row, got shape {numbers.shape}.")
    numbers = numbers.reshape(-1)
    wrong = ~((numbers >= low) & (numbers <= LAST_TICK) & (numbers == np.round(numbers)))  # NaN is, too
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{path!r} is {numbers[row]:.9g} in row {row}; it takes whole numbers from {low} to {LAST_TICK}."
        )
    return numbers.astype(np.int64)


def _ticks(tick: np.ndarray | None, episode: np.ndarray, ticks_per_step: int) -> np.ndarray:
    """The ticks given, which must grow within an episode; without any, those of rows one step apart."""
    order = np.argsort(episode, kind="stable")
    same = np.diff(episode[order]) == 0
    if tick is None:
        steps = np.arange(len(order))
        begin = np.maximum.accumulate(np.where(np.append(False, same), 0, steps))
        tick = np.empty_like(episode)
        tick[order] = (steps - begin) * ticks_per_step
    wrong = same & (np.diff(tick[order]) <= 0)
    if wrong.any():
        before, row = order[:-1][wrong][0], order[1:][wrong][0]
        raise DataError(
            f"{TICK!r} must grow within an episode; it is {tick[row]} in row {row} after {tick[before]} in row "
            f"{before}. Sort the rows, or give an {EPISODE!r} column."
        )
    return tick


def time_line(tables: Sequence[Table], bound: BoundSchema, ticks_per_step: int) -> TimeLine:
    """Tables joined by episode and tick; those without ticks are recordings of their own.

    Raises:
        DataError: Two of them say different things of one field at one tick, fewer than two rows have another one step
            later, or nothing is known.
    """
    if len({table.has_episodes for table in tables if table.has_ticks}) > 1:
        raise DataError(
            f"Of the sources with a {TICK!r} column some have an {EPISODE!r} column and some not: give it in all of "
            "them, so that their rows meet."
        )
    sizes = [len(table.tick) for table in tables]
    recording = np.repeat([0 if table.has_ticks else 1 + i for i, table in enumerate(tables)], sizes)
    given, number = np.unique(np.concatenate([table.episode for table in tables]), return_inverse=True)
    episodes, episode = np.unique(recording * len(given) + number, return_inverse=True)
    of = episodes // len(given)
    by_episode = np.bincount(of)[of] > 1  # whether there are others of its recording
    # One whole number for each episode and tick, which sorts by both.
    ticks, rank = np.unique(np.concatenate([table.tick for table in tables]), return_inverse=True)
    keys, first, place = np.unique(episode * len(ticks) + rank, return_index=True, return_inverse=True)
    numbers, ranks = np.divmod(keys, len(ticks))
    later = np.searchsorted(ticks, ticks[ranks] + ticks_per_step).clip(max=len(ticks) - 1)
    after = np.searchsorted(keys, numbers * len(ticks) + later).clip(max=len(keys) - 1)
    one_step = (numbers[after] == numbers) & (ticks[ranks[after]] == ticks[ranks] + ticks_per_step)
    line = TimeLine(
        values=np.full((len(keys), bound.layout.num_positions), np.nan, np.float32),
        tick=ticks[ranks],
        episode=numbers,
        row=first if len(tables) == 1 else np.arange(len(keys)),
        after=np.where(one_step, after, -1),
        is_start=np.append(True, np.diff(numbers) != 0) | ~by_episode[numbers],
    )
    names = position_names({field.path: field.spec for field in bound.bound_fields()})
    for table, rows in zip(tables, np.split(place, np.cumsum(sizes)[:-1]), strict=True):
        _write(line, table, rows, names)
    _fill_periods(line, bound, ticks_per_step)
    if (pairs := int((line.after >= 0).sum())) < 2:
        raise DataError(_too_few_pairs(line, pairs, ticks_per_step))
    if np.isnan(line.values).all():
        raise DataError("Every value is unknown (NaN): there is nothing to learn.")
    return line


def _write(line: TimeLine, table: Table, rows: np.ndarray, names: list[str]) -> None:
    """Put a table's values on the time line, in place."""
    where = np.ix_(rows, np.array(table.positions))
    there, new = line.values[where], table.values
    with np.errstate(invalid="ignore"):  # infinities are refused later
        clash = np.abs(there - new) > ROUNDING * np.maximum(np.abs(there), 1.0)
    if clash.any():
        row, at = (int(index[0]) for index in clash.nonzero())
        raise DataError(
            f"{table.name}: {names[table.positions[at]]!r} is {new[row, at]:.9g} at tick {table.tick[row]} of episode "
            f"{table.episode[row]} (row {row}); another source says {there[row, at]:.9g}. Leave one of them out there "
            "(NaN)."
        )
    line.values[where] = np.where(np.isnan(new), there, new)


def _fill_periods(line: TimeLine, bound: BoundSchema, ticks_per_step: int) -> None:
    """Give fields that are slower than a step their one value in all rows of a period, in place."""
    rows = np.arange(len(line.tick))[:, None]
    for period, positions in slow_positions(bound, ticks_per_step).items():
        block = line.values[:, positions]
        known = ~np.isnan(block)
        if known.all() or not known.any():
            continue
        begins = np.append(True, ~same_period(line.tick, line.episode, period))
        begin = np.maximum.accumulate(np.where(begins[:, None], rows, 0))
        last = np.maximum.accumulate(np.where(known, rows, -1))
        following = np.minimum.accumulate(np.where(known, rows, len(rows))[::-1])[::-1].clip(max=len(rows) - 1)
        source = np.where(last >= begin, last, np.where(begin[following, 0] == begin, following, rows))
        line.values[:, positions] = np.take_along_axis(block, source, 0)


def slow_positions(bound: BoundSchema, ticks_per_step: int) -> dict[int, list[int]]:
    """Period -> positions of the fields whose period is longer than a step."""
    slow: dict[int, list[int]] = {}
    for field in bound.bound_fields():
        if field.spec.period > ticks_per_step:
            slow.setdefault(field.spec.period, []).extend(field.indices())
    return slow


def same_period(tick: np.ndarray, episode: np.ndarray, period: int) -> np.ndarray:
    """``(R - 1,)`` bool, whether the next row is of the same episode and the same period."""
    return (np.diff(tick // period) == 0) & (np.diff(episode) == 0)


def _too_few_pairs(line: TimeLine, pairs: int, ticks_per_step: int) -> str:
    """What to do about rows that are not one step apart."""
    rows = f"Of {len(line.tick)} rows, {pairs} have a row one step ({ticks_per_step} ticks) later; at least 2 must."
    apart = np.diff(line.tick)[np.diff(line.episode) == 0]
    if len(apart) < 2:
        return f"{rows} Give at least 3 rows of one episode."
    usual = Counter(apart.tolist()).most_common(1)[0][0]
    return (
        f"{rows} Most rows are {usual} ticks apart: make the world with ticks_per_step={usual}, or give rows that are "
        f"{ticks_per_step} apart."
    )
