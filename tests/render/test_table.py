"""The table of ``render_mode="human"``: plain text in a pipe, rewritten in place on a terminal."""

from __future__ import annotations

import os
import pickle
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box

from wm_vec.adapters import CallableDynamics
from wm_vec.core import Engine, EngineConfig
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


def screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[[?\d]*[A-Za-z]|.", text.replace("\r", ""), re.DOTALL):
        if token == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif token == "\x1b[1A":
            row -= 1
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b"):
            lines[row] += token
    return [line.rstrip() for line in lines if line.strip()]


def read(terminal: int) -> str:
    """Something of what was written to a terminal; nothing when all was read, of one that nobody writes to any more."""
    try:
        return os.read(terminal, 100_000).decode()
    except OSError:
        return ""


def test_a_terminal_has_one_table_that_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    table = ValueTable({})
    with os.fdopen(writes, "w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        for step in range(3):
            table.show(step, {"speed": np.array([float(step)])})
            print("said", step)
        table.close()
        assert sys.stdout is out
    text = "".join(iter(lambda: read(reads), ""))
    os.close(reads)
    assert screen(text) == ["said 0", "said 1", "said 2", "step 2", "field  value  change", "speed      2      +1"]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is back"


def test_an_env_shows_units_and_starts_anew_at_a_reset(capsys: pytest.CaptureFixture[str]) -> None:
    spaces = Box(-np.inf, np.inf, (2,)), Box(-1.0, 1.0, (1,))
    dynamics = CallableDynamics(
        lambda state, action: (state + action, state + action, 0.0), *spaces, initial_observation=np.array([1.0, 2.0])
    )
    agent = replace(dynamics.perspective, obs_fields={"a": slice(0, 1), "b": slice(1, 2)}, units={"a": "m/s"})
    engine = Engine(dynamics, 1, [agent], EngineConfig(autoreset_mode="disabled"))
    env = WorldModelEnv.from_engine(engine, *spaces, render_mode="human")
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
