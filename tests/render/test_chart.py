"""Charts of observations: what is seen in the pixels follows the values, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from tests.render.pixels import BLUE, RED, changed, inked, rows_and_columns
from wm_vec.render.frames import FramePainter

UNBOUNDED = Box(-np.inf, np.inf, (3,))


def test_a_bar_grows_with_its_value() -> None:
    painter = FramePainter(Box(-1, 1, (2,)))
    quarter, half, whole = (inked(painter(np.array([x, 0.0])), BLUE).sum() for x in (0.25, 0.5, 1.0))
    assert half / quarter == pytest.approx(2, rel=0.05)
    assert whole / quarter == pytest.approx(4, rel=0.05)


def test_bars_lie_in_order_and_the_negative_ones_red_to_the_left() -> None:
    frame = FramePainter(Box(-1, 1, (2,)))(np.array([0.5, -0.5]))
    _, blue_bottom, blue_left, blue_right = rows_and_columns(inked(frame, BLUE))
    red_top, _, red_left, red_right = rows_and_columns(inked(frame, RED))
    assert blue_bottom < red_top
    assert red_right < blue_left
    assert blue_right - blue_left == pytest.approx(red_right - red_left, abs=1)


def test_bars_start_at_the_end_that_is_nearest_to_zero() -> None:
    painter = FramePainter(Box(10, 20, (1,)))
    assert not inked(painter(np.array([10.0])), BLUE).any()
    assert inked(painter(np.array([20.0])), BLUE).sum() > inked(painter(np.array([15.0])), BLUE).sum() > 0


def test_each_value_has_the_scale_of_its_own_bounds() -> None:
    space = Box(np.array([-1.0, -100.0]), np.array([1.0, 100.0]), dtype=np.float64)
    frame = inked(FramePainter(space)(np.array([0.5, 50.0])), BLUE)
    widths = {int(row.sum()) for row in frame if row.any()}
    assert len(widths) == 1
    # The ends of the second axis are written too, below its bar.
    narrower = Box(np.array([-1.0, -100.0]), np.array([1.0, 500.0]), dtype=np.float64)
    top, _, _, _ = rows_and_columns(changed(*(FramePainter(box)(np.zeros(2)) for box in (space, narrower))))
    assert top > rows_and_columns(frame)[0] + 20


def test_only_bars_and_numbers_move_within_finite_bounds() -> None:
    painter = FramePainter(Box(-1, 1, (4,)), ["speed"] * 4)
    frames = [painter(x) for x in np.random.default_rng(0).uniform(-1, 1, (20, 4))]
    moved = np.any([changed(frames[0], frame) for frame in frames], axis=0)
    _, bottom, left, right = rows_and_columns(moved)
    width = moved.shape[1]
    # Names on the left and the axis below stay.
    assert left > 20
    assert right < width
    bars = np.any([inked(frame, BLUE) | inked(frame, RED) for frame in frames], axis=0)
    assert bottom <= rows_and_columns(bars)[1] + 1
    # Far beyond the bounds the bar ends where the axis ends.
    at_the_end, beyond = (rows_and_columns(inked(painter(np.full(4, x)), BLUE)) for x in (1.0, 50.0))
    assert at_the_end == beyond


def test_numbers_are_written_beside_the_bars() -> None:
    painter = FramePainter(Box(-1, 1, (1,)))
    # Beyond the bounds the bars are alike, only the numbers differ.
    one, other = painter(np.array([50.0])), painter(np.array([60.0]))
    top, bottom, left, _ = rows_and_columns(changed(one, other))
    bar_top, bar_bottom, _, bar_right = rows_and_columns(inked(one, BLUE))
    assert left > bar_right
    assert bar_top <= top < bottom <= bar_bottom


def ends(painter: FramePainter, value: float, rest: float = 0.0) -> tuple[int, int]:
    """Left and right of the first of three bars."""
    frame = painter(np.array([value, rest, rest]))
    return rows_and_columns(inked(frame, RED if value < 0 else BLUE))[2:]


def test_unbounded_values_have_an_axis_that_shows_small_and_large_ones() -> None:
    painter = FramePainter(UNBOUNDED)
    rights = [ends(painter, x)[1] for x in (0.05, 0.2, 1.0, 10.0, 100.0, 999.0)]
    assert (np.diff(rights) > 3).all()
    # On an asinh axis that turns at 0.1, ten times as much is log(10) further: equal steps from 10 on.
    assert rights[4] - rights[3] == pytest.approx(rights[5] - rights[4], abs=2)
    lefts = [ends(painter, -x)[0] for x in (0.05, 0.2, 1.0, 10.0, 100.0, 999.0)]
    middle = (rights[0] + lefts[0]) / 2
    assert np.array(rights) - middle == pytest.approx(middle - np.array(lefts), abs=2)
    assert ends(painter, 1e38) == ends(painter, 1000.0) == ends(painter, np.inf)


def test_a_half_open_axis_starts_at_its_finite_end() -> None:
    painter = FramePainter(Box(5, np.inf, (3,)))
    assert not inked(painter(np.full(3, 5.0)), BLUE).any()
    lefts, rights = zip(*(ends(painter, x, 5.0) for x in (6.0, 60.0, 600.0)), strict=True)
    assert len(set(lefts)) == 1
    assert (np.diff(rights) > 10).all()


def test_values_that_are_no_numbers_are_shown_as_such() -> None:
    painter = FramePainter(UNBOUNDED)
    plain = painter(np.array([0.05, 0.0, 0.0]))
    broken = painter(np.array([np.nan, 0.0, 0.0]))
    top, bottom, _, right = rows_and_columns(inked(plain, BLUE))
    assert not inked(broken, BLUE).any()
    moved = rows_and_columns(changed(painter(np.zeros(3)), broken))
    assert top <= moved[0] < moved[1] <= bottom, "nan is written in its row"
    assert moved[2] > right
    grid = FramePainter(Box(-5, np.inf, (9, 9)))
    gray = (0xBB, 0xBB, 0xBB)
    assert inked(grid(np.full((9, 9), np.nan)), gray).sum() > 10_000
    assert not inked(grid(np.full((9, 9), 1e38)), gray).any()


@pytest.mark.parametrize("size", [25, 376, 5000])
def test_of_many_values_each_has_a_place(size: int) -> None:
    painter = FramePainter(Box(-np.inf, np.inf, (size,)))
    plain = painter(np.zeros(size))
    places = []
    for i in (0, 1, size // 2, size - 1):
        values = np.zeros(size)
        values[i] = 50
        frame = painter(values)
        assert changed(plain, frame).any()
        places.append(np.argwhere(changed(plain, frame)).mean(0).round(1).tolist())
    assert places[0][0] == pytest.approx(places[1][0], abs=1)
    assert places[0][1] < places[1][1]
    assert places[1][0] < places[2][0] < places[3][0]


def test_the_cells_of_a_heat_map_lie_in_rows_and_columns() -> None:
    painter = FramePainter(Box(-1, 1, (6, 8)))
    plain = painter(np.zeros((6, 8)))

    def place(row: int, column: int) -> tuple[int, int, int, int]:
        values = np.zeros((6, 8))
        values[row, column] = 1
        return rows_and_columns(changed(plain, painter(values)))

    corner, right, below, far = place(0, 0), place(0, 1), place(1, 0), place(5, 7)
    tall, wide = corner[1] - corner[0] + 1, corner[3] - corner[2] + 1
    assert (right[0], right[1]) == (corner[0], corner[1])
    assert (below[2], below[3]) == (corner[2], corner[3])
    assert right[2] - corner[2] == pytest.approx(wide, abs=1)
    assert below[0] - corner[0] == pytest.approx(tall, abs=1)
    assert far[0] - corner[0] == pytest.approx(5 * tall, abs=5)
    assert far[2] - corner[2] == pytest.approx(7 * wide, abs=7)


@pytest.mark.parametrize("shape", [(5, 9, 9), (9, 9, 5)])
def test_channels_are_tiles(shape: tuple[int, ...]) -> None:
    painter = FramePainter(Box(-1, 1, shape))
    plain = painter(np.zeros(shape))
    boxes = []
    for channel in range(5):
        values = np.zeros(shape)
        values[(channel,) if shape[0] == 5 else (..., channel)] = 1
        boxes.append(changed(plain, painter(values)))
    assert np.sum(boxes, axis=0).max() == 1
    areas = [box.sum() for box in boxes]
    assert min(areas) > 0.9 * max(areas) > 0


def test_switches_and_classes_are_bars() -> None:
    painter = FramePainter(MultiBinary(20))
    lit = [inked(painter(np.arange(20) < k), BLUE).sum() for k in range(21)]
    assert lit[0] == 0
    assert (np.diff(lit) > 0).all()
    painter = FramePainter(MultiDiscrete([3, 5, 2]))
    plain = painter(np.array([0, 0, 0]))
    rows = [rows_and_columns(changed(plain, painter(np.array(v))))[:2] for v in ([1, 0, 0], [0, 4, 0], [0, 0, 1])]
    assert rows[0][1] < rows[1][0]
    assert rows[1][1] < rows[2][0]


def test_values_without_numbers_are_text() -> None:
    painter = FramePainter(Dict(say=Text(800), turn=Discrete(2)))
    short, long = (painter({"say": words, "turn": np.int64(0)}) for words in ("left", "left, " * 99))
    assert changed(short, long).any()
    np.testing.assert_array_equal(painter({"say": "left, " * 98, "turn": np.int64(0)}), long)


def test_many_classes_are_a_bar() -> None:
    painter = FramePainter(Discrete(500))
    quarter, half = (inked(painter(np.int64(x)), BLUE).sum() for x in (125, 250))
    assert half / quarter == pytest.approx(2, rel=0.05)


def test_every_entry_has_a_panel_of_its_own() -> None:
    space = Dict(
        speed=Box(-1, 1, (2,)),
        mode=Discrete(3),
        lidar=Box(0, 1, (40,)),
        state=Dict(grid=Box(-1, 1, (9, 9)), contact=MultiBinary(4), wheels=Tuple((Box(-1, 1, (1,)), Discrete(300)))),
    )
    rest = {
        "speed": np.zeros(2),
        "mode": np.int64(0),
        "lidar": np.zeros(40),
        "state": {"grid": np.zeros((9, 9)), "contact": np.zeros(4, np.int8), "wheels": (np.zeros(1), np.int64(0))},
    }
    other = [
        {**rest, "speed": np.ones(2)},
        {**rest, "mode": np.int64(2)},
        {**rest, "lidar": np.ones(40)},
        {**rest, "state": {**rest["state"], "grid": np.ones((9, 9))}},
        {**rest, "state": {**rest["state"], "contact": np.ones(4, np.int8)}},
        {**rest, "state": {**rest["state"], "wheels": (np.ones(1), np.int64(0))}},
        {**rest, "state": {**rest["state"], "wheels": (np.zeros(1), np.int64(299))}},
    ]
    painter = FramePainter(space)
    plain = painter(rest)
    assert plain.shape[0] % 2 == plain.shape[1] % 2 == 0
    covered = np.zeros(plain.shape[:2], int)
    for observation in other:
        top, bottom, left, right = rows_and_columns(changed(plain, painter(observation)))
        covered[top : bottom + 1, left : right + 1] += 1
    assert covered.max() == 1, "panels overlap"


def test_rows_are_named_by_keys() -> None:
    one = FramePainter(Dict(a=Box(-1, 1, (2,))))({"a": np.zeros(2)})
    other = FramePainter(Dict(b=Box(-1, 1, (2,))))({"b": np.zeros(2)})
    _, bottom, _, right = rows_and_columns(changed(one, other))
    assert bottom < one.shape[0] / 2
    assert right < 40


def test_names_of_values_are_written() -> None:
    space, values = Box(-1, 1, (2,)), np.array([0.5, -0.5])
    named = FramePainter(space, ["pole angle", "speed"])(values)
    also = FramePainter(space, ["pole angle", "spend"])(values)
    _, _, _, right = rows_and_columns(changed(named, also))
    assert right < rows_and_columns(inked(named, RED))[2]
    with pytest.raises(ValueError, match="1 names"):
        FramePainter(space, ["speed"])
    with pytest.raises(ValueError, match="each value of a Box"):
        FramePainter(Discrete(2), ["a", "b"])
