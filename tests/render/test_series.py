"""Time series beside the bars of named fields."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from tests.render.pixels import changed, inked, rows_and_columns
from wm_vec import Field, TrainConfig, WorldModel, compile_schema
from wm_vec.render.chart import SERIES, WIDTH
from wm_vec.render.frames import FramePainter
from wm_vec.render.history import LENGTH, History

BLUE = (0x1F, 0x77, 0xB4)
LINES = slice(WIDTH + 55, None)
"""Columns of the time series alone, right of the numbers."""
PLAIN = Box(-np.inf, np.inf, (2,))


def history_of(rows: np.ndarray) -> History:
    history = History()
    for step, row in enumerate(rows):
        history.add(0, step, row)
    return history


@pytest.fixture(scope="module")
def economy() -> WorldModel:
    """A small world of 24 named fields and one to act on."""
    fields = {f"field_{i}": Field() for i in range(24)} | {"push": Field(is_output=False, low=-1.0, high=1.0)}
    world = WorldModel(compile_schema(fields, d_model=32))
    rng = np.random.default_rng(0)
    world.finetune({name: rng.uniform(-1, 1, (40, 1)) for name in fields}, config=TrainConfig(n_steps=1, batch_size=8))
    return world


def named(num: int = 24) -> dict:
    fields = [f"field_{i}" for i in range(num)]
    return {"obs_fields": fields, "act_fields": ["push"], "reward_fn": lambda obs, act, info: obs["field_0"][0]}


def test_a_series_follows_its_values_and_stays_in_its_row() -> None:
    painter = FramePainter(PLAIN, ["up", "still"], series=True)
    rows = np.stack([np.arange(LENGTH), np.ones(LENGTH)], 1)
    frame = painter(rows[-1], history_of(rows))
    assert frame.shape[1] == WIDTH + SERIES
    line = changed(frame, painter(rows[-1], None))
    top, bottom, left, right = rows_and_columns(line)
    assert left > WIDTH
    assert right - left > SERIES / 2
    x, y = np.nonzero(line.T)
    upper = y < (top + bottom) / 2
    assert np.corrcoef(x[upper], y[upper])[0, 1] < -0.99, "it climbs"
    assert np.ptp(y[~upper]) <= 3, "it is level"
    # In the middle of its bar's row, whose blue reaches the same height.
    bar_top, bar_bottom, _, _ = rows_and_columns(inked(frame[(top + bottom) // 2 :, :WIDTH], BLUE))
    assert abs(np.mean(y[~upper]) - (top + bottom) // 2 - (bar_top + bar_bottom) / 2) < 2


def test_equal_histories_give_equal_frames_and_other_ones_others() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(150, 2))
    painter = FramePainter(PLAIN, ["a", "b"], series=True)
    frame = painter(rows[-1], history_of(rows))
    np.testing.assert_array_equal(painter(rows[-1], history_of(rows)), frame)
    np.testing.assert_array_equal(copy.deepcopy(painter)(rows[-1], history_of(rows)), frame)
    # What is older than the window does not show, the oldest in it does.
    for age, differs in ((LENGTH, False), (LENGTH - 1, True)):
        other = rows.copy()
        other[-1 - age] += 9
        assert changed(frame, painter(rows[-1], history_of(other))).any() == differs


def test_a_history_forgets_other_episodes_and_what_comes_after() -> None:
    history = History()
    for episode, step, value in ((1, 0, 1.0), (1, 1, 2.0), (1, 1, 3.0), (1, 5, 4.0)):
        history.add(episode, step, np.array([value]))
    steps, values = history.series()
    assert steps.tolist() == [-5, -4, 0]
    assert values.ravel().tolist() == [1, 3, 4]
    history.add(1, 2, np.array([7.0]))  # a state restored
    assert history.series()[1].ravel().tolist() == [1, 3, 7]
    history.add(2, 9, np.array([8.0]))
    assert history.series()[1].ravel().tolist() == [8]
    history.add(2, 9 + LENGTH, np.array([9.0]))
    assert history.series()[0].tolist() == [0], "a hundred steps ago is no part of the last hundred"


def test_values_that_are_no_numbers_leave_gaps() -> None:
    painter = FramePainter(PLAIN, ["a", "b"], series=True)
    rows = np.ones((LENGTH, 2))
    rows[40:60, 0] = np.nan
    rows[:, 1] = np.inf
    blank, frame = painter(rows[-1], None), painter(rows[-1], history_of(rows))
    columns = changed(blank, frame)[:, WIDTH:].any(0)
    _, _, left, right = rows_and_columns(changed(blank, frame))
    middle = (left + right) // 2 - WIDTH
    assert not columns[middle - 5 : middle + 5].any()
    assert columns.sum() > SERIES / 3


def test_an_env_of_named_fields_remembers_its_episode(economy: WorldModel) -> None:
    env, twin = (economy.to_env(render_mode="rgb_array", **named(3)) for _ in range(2))
    frames = []
    for seed in (4, 5, 4):
        env.reset(seed=seed)
        for _ in range(8):
            env.step(np.zeros(1, np.float32))
        frames.append(env.render())
    np.testing.assert_array_equal(frames[0], frames[2])
    assert changed(frames[0], frames[1])[:, LINES].any()
    twin.reset(seed=4)
    for _ in range(8):
        twin.step(np.zeros(1, np.float32))
        twin.render()
    np.testing.assert_array_equal(twin.render(), frames[0])
    assert economy.to_env(render_mode="rgb_array", **named(1))._history is not None


def test_the_series_of_a_vector_env_restart_with_each_envs_own_episode(economy: WorldModel) -> None:
    envs = economy.to_vector_env(3, render_mode="rgb_array", max_episode_steps=5, **named(3))
    single = economy.to_env(render_mode="rgb_array", **named(3))
    envs.reset(seed=0)
    single.reset(seed=1)
    for _ in range(4):
        envs.render()
        envs.step(torch.zeros(3, 1))
        single.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(envs.frames([1])[0], single.render())
    envs.step(torch.zeros(3, 1))
    blank = envs.frames([1])[0][:, LINES]
    envs.reset(options={"env_idx": [1]})
    np.testing.assert_array_equal(envs.frames([1])[0][:, LINES], blank)  # one point is no line


def test_ten_frames_a_second_of_24_values(economy: WorldModel) -> None:
    env = economy.to_env(render_mode="rgb_array", **named())
    env.reset(seed=0)
    env.render()  # fonts and layout
    seconds = []
    for _ in range(15):
        env.step(np.zeros(1, np.float32))
        start = time.process_time()
        env.render()
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 0.1
