"""docs/architecture.md shows the layers and the functions of a step as they are in the source."""

from __future__ import annotations

import multiprocessing
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests import test_layers
from wm_kernels import Op
from wm_vec import WorldModel

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
START = "WorldModelVectorEnv.step"
OP_CALL = Op.__call__.__code__
EVERYWHERE = ("wm_vec/compat.py", "kernels/wm_kernels/dispatch.py")
"""Files whose functions serve all others; the page says so."""


class Call(NamedTuple):
    """A call of one of our functions: its qualified name (an op's own), its file, and the calls around it."""

    name: str
    file: str
    around: tuple[Call, ...]
    is_op: bool = False


class Stop(NamedTuple):
    """A row of the walk."""

    name: str
    place: str
    helpers: frozenset[str]


def walk(page: str) -> list[Stop]:
    rows = re.findall(r"^\| \d+ \| `([^`]+)` \| `([^`]+)` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    return [Stop(name, place, frozenset(re.findall(r"`([^`]+)`", helpers))) for name, place, helpers in rows]


def place_of(file: str) -> Path | None:
    path = Path(file)
    ours = path.is_relative_to(ROOT / "wm_vec") or path.is_relative_to(ROOT / "kernels")
    return path.relative_to(ROOT) if ours else None


def trace(mode: str) -> list[Call]:
    """`calls_of_a_step` in a process of its own: what other tests have compiled shows no calls."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(calls_of_a_step, mode).result()


def calls_of_a_step(mode: str) -> list[Call]:
    """Every call of ours in one step of the bundled world, in order; comprehensions count as their function."""
    envs = WorldModel.bundled("CartPole-v1").to_vector_env(num_envs=3, seed=0, autoreset_mode=mode)
    envs.reset()
    actions = torch.zeros(3, dtype=torch.int64)
    envs.step(actions)  # packs the weights
    calls: list[Call] = []
    stack: list[Call | None] = []

    def profile(frame, event, _):
        code = frame.f_code
        if event == "call":
            path = place_of(code.co_filename)
            call = None
            if path is not None and "<locals>" not in code.co_qualname:
                is_op = code is OP_CALL
                name = frame.f_locals["self"].name if is_op else code.co_qualname
                call = Call(name, path.as_posix(), tuple(c for c in stack if c is not None), is_op)
                calls.append(call)
            stack.append(call)
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(profile)
    try:
        envs.step(actions)
    finally:
        sys.setprofile(None)
    return calls


def faults(stops: list[Stop], calls: list[Call]) -> list[str]:
    """Where the walk and a step differ."""
    named, visited, met, wrong = {stop.name: stop for stop in stops}, [], set(), set()
    for call in calls:
        stop = next((named[outer.name] for outer in reversed(call.around) if outer.name in named), None)
        if call.name in named:
            visited += [call.name] * (call.name not in visited)
            place = named[call.name].place
            if not (place == f"kernels/wm_kernels/{call.name}" if call.is_op else place == call.file):
                wrong.add(f"{call.name} is in {call.file}, not in {place}")
        elif stop is not None and call.name in stop.helpers:
            met.add((stop.name, call.name))
        elif not (
            call.name.startswith("StateLayout.")
            or (not call.is_op and call.file in EVERYWHERE)
            or (call.file.startswith("kernels/") and any(outer.is_op for outer in call.around))
        ):
            wrong.add(f"{call.name} ({call.file}) runs in {stop and stop.name}, and the walk does not say so")
    if visited != [stop.name for stop in stops]:
        wrong.add(f"the order is {visited}")
    wrong |= {f"{name} does not run in {s.name}" for s in stops for name in s.helpers if (s.name, name) not in met}
    return sorted(wrong)


@pytest.fixture(scope="module")
def calls():
    return trace("same_step")


def test_the_walk_is_what_a_step_calls(calls):
    assert calls[0].name == walk(PAGE)[0].name == START
    assert len(walk(PAGE)) == 8
    assert faults(walk(PAGE), calls) == []


def test_next_step_takes_the_same_walk():
    assert faults(walk(PAGE), trace("next_step")) == []


def test_every_name_of_the_walk_is_needed(calls):
    """Without any one of its functions, or in another order, the walk is wrong."""
    stops = walk(PAGE)
    for i, stop in enumerate(stops):
        assert faults(stops[:i] + stops[i + 1 :], calls), stop.name
        for helper in stop.helpers:
            less = stop._replace(helpers=stop.helpers - {helper})
            assert any(helper in fault for fault in faults([*stops[:i], less, *stops[i + 1 :]], calls)), helper
        more = stop._replace(helpers=stop.helpers | {"Engine.fork"})
        assert faults([*stops[:i], more, *stops[i + 1 :]], calls) == [f"Engine.fork does not run in {stop.name}"]
    assert any("the order is" in fault for fault in faults([*stops[:7], stops[8], stops[7], stops[9]], calls))


def test_a_call_that_the_walk_does_not_know_is_found(calls):
    extra = Call("Engine.fork", "wm_vec/core/engine.py", calls[:1])
    assert faults(walk(PAGE), [*calls, extra]) == [
        f"Engine.fork (wm_vec/core/engine.py) runs in {START}, and the walk does not say so"
    ]


def test_the_house_shows_who_imports_whom():
    drawn = {
        name: set() if below == "nothing" else set(below.split(", "))
        for name, below in re.findall(r"^  (\w+) +-> (\w+(?:, \w+)*)  ", PAGE, re.MULTILINE)
    }
    there = {test_layers.layer_of(test_layers.module_of(path)) for path in test_layers.sources()}
    allowed = {
        layer.removeprefix("wm_vec."): {below.removeprefix("wm_vec.") for below in test_layers.BELOW[layer]}
        for layer in test_layers.BELOW
        if layer in there
    }
    assert drawn == allowed


def test_the_house_names_what_composes():
    top = PAGE.split("compose:")[1].split("\n")[0]
    composing = {module.removeprefix("wm_vec.") for module in test_layers.COMPOSE} - {"wm_vec", "__main__"}
    assert {name for name in composing if name in top.split()} == composing
