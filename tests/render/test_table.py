"""The table of ``render_mode="human"``: plain text in a pipe, rewritten in place on a terminal."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from wm_vec import Field, WorldModel, compile_schema
from wm_vec.core import ActionSpec, Perspective
from wm_vec.envs import WorldModelEnv
from wm_vec.render.table import ValueTable


def shown(text: str) -> dict[str, list[str]]:
    """Columns by the name of the row; the title is a row too."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def test_rows_have_value_change_and_unit(capsys: pytest.CaptureFixture[str]) -> None:
    table = ValueTable({"revenue": "USD/month"})
    table.show(0, {"revenue": np.array([100.0]), "stress": np.array([0.5, -0.25])})
    start = capsys.readouterr().out
    assert "\x1b" not in start
    assert shown(start) == {
        "step": ["0"],
        "field": ["value", "change", "unit"],
        "revenue": ["100", "USD/month"],
        "stress[0]": ["0.5"],
        "stress[1]": ["-0.25"],
    }
    for _ in range(2):  # the change is since the last step, however often a step is shown
        table.show(1, {"revenue": np.array([110.0]), "stress": np.array([0.5, -1.25])})
        after = shown(capsys.readouterr().out)
        assert after["revenue"] == ["110", "+10", "USD/month"]
        assert after["stress[0]"] == ["0.5", "0"]
        assert after["stress[1]"] == ["-1.25", "-1"]
    table.show(0, {"revenue": np.array([7.0])})
    assert shown(capsys.readouterr().out)["revenue"] == ["7", "USD/month"], "a new episode has no step before it"


def test_bytes_are_subtracted_as_numbers_and_long_fields_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    table = pickle.loads(pickle.dumps(ValueTable({})))
    table.show(0, {"pixels": np.full(300, 9, np.uint8)})
    table.show(1, {"pixels": np.full(300, 4, np.uint8)})
    rows = shown(capsys.readouterr().out)
    assert rows["pixels[7]"] == ["4", "-5"]
    assert rows["pixels[8:]"] == ["292", "more"]
    assert len(rows) == 11


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is printed goes to a terminal; the end that reads it."""
    reads, writes = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(writes, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        yield reads
    os.close(reads)


def test_a_terminal_has_one_table_that_is_rewritten(terminal: int) -> None:
    table, plain = ValueTable({}), sys.stdout
    for step in range(3):
        table.show(step, {"speed": np.array([float(step)])})
        print("said", step)
    table.close()
    assert sys.stdout is plain
    text = os.read(terminal, 100_000).decode()
    # Each one but the last is wiped out again, line by line.
    assert text.count("\x1b[1A\x1b[2K") >= 2 * 3
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is back"
    left: list[str] = []  # what the lines hold in the end: no cursor of these goes elsewhere than up and down
    row = 0
    for line in text.replace("\r\n", "\n").replace("\x1b[1A", "\0").split("\n"):
        row -= line.count("\0")
        words = line.rsplit("\x1b[2K", 1)[-1]
        left[row:] = [words]
        row += 1
    left = [line.replace("\x1b[0m", "").replace("\x1b[3m", "").strip() for line in left]
    assert [line for line in left if line.startswith(("said", "step"))] == ["said 0", "said 1", "said 2", "step 2"]


def test_an_env_shows_units_and_starts_anew_at_a_reset(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="untrained|not been trained|trained"):
        engine = WorldModel(compile_schema({"a": Field(), "b": Field()}, d_model=32)).to_engine(
            1,
            [
                Perspective(
                    ActionSpec("box", (1,), (-1.0,), (1.0,)),
                    obs_index=None,
                    obs_fields={"a": slice(0, 1), "b": slice(1, 2)},
                    units={"a": "m/s"},
                    reward_fn=lambda obs, act, info: obs["a"][0],
                )
            ],
            act_fields=["b"],
            autoreset_mode="disabled",
        )
    from gymnasium.spaces import Box

    env = WorldModelEnv.from_engine(engine, Box(-np.inf, np.inf, (2,)), Box(-1, 1, (1,)), render_mode="human")
    first, _ = env.reset(seed=0)
    start = shown(capsys.readouterr().out)
    assert start["a"] == [f"{first[0]:.4g}", "m/s"]
    second = env.step(np.array([0.5], np.float32))[0]
    step = shown(capsys.readouterr().out)
    assert step["step"] == ["1"]
    assert step["a"][0] == f"{second[0]:.4g}"
    assert float(step["a"][1]) == pytest.approx(second[0] - first[0], rel=1e-3)
    assert step["b"][0] == f"{second[1]:.4g}"
    env.reset()
    assert len(shown(capsys.readouterr().out)["a"]) == 2
