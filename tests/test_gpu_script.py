"""What `make gpu` does where things go wrong, with cases that stand in for those that need a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_targets import CARTPOLE, STEP, TARGETS, targets

ROOT = Path(__file__).parents[1]
CASES = """
import os, time
from benchmarks.gpu import Case

def figure(num_envs, us):
    row = {"subject": "step in a graph", "world": "CartPole-v1", "k": 3, "num_envs": num_envs, "us": us}
    return lambda: {"rows": [row | {"env_steps_per_s": num_envs / us * 1e6}]}

def fails():
    raise ValueError("wrong numbers")

def check_device():
    if os.path.exists("broken"):
        os.remove("broken")
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

def breaks():
    open("broken", "w").close()
    fails()

def cases(tiny):
    found = [
        Case("compile", "machine", lambda: {"machine": {"card": "a card"}}, 5),
        Case("gate", "one", lambda: {"error": 1e-7}, 5),
        Case("gate", "two", lambda: {"ok": True}, 5),
        Case("figures", "small", figure(64, 20.0), 5),
        Case("figures", "middle", figure(4096, 50.0), 5),
        Case("figures", "large", figure(65536, 600.0), 5),
    ]
    changed = CHANGED
    return [Case(c.stage, c.name, *changed.get(c.name, (c.run, c.seconds))) for c in found]
"""
HANG = '"{}": (lambda: time.sleep(60), 0.5)'
CRASH = '"{}": (lambda: os._exit(9), 5)'


def run(folder, changed="", *arguments, cases="stand_ins"):
    """The exit code, the result, and what was printed."""
    (folder / "stand_ins.py").write_text(CASES.replace("CHANGED", f"{{{changed}}}"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(folder)])}
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--cases", cases, "--out", "gpu.json"]
    done = subprocess.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    path = folder / "gpu.json"
    return done.returncode, json.loads(path.read_text()) if path.exists() else None, done.stdout + done.stderr


def test_a_green_gate_gives_all_figures_beside_the_targets(tmp_path):
    code, result, printed = run(tmp_path)
    assert code == 0, printed
    assert {
        "gate": "green",
        "red": [],
        "failed": [],
        "left_out": [],
        "machine": {"card": "a card"},
    }.items() <= result.items()
    assert [row["num_envs"] for row in result["figures"]] == [64, 4096, 65_536]
    assert [*result["stages"]] == ["compile", "gate", "figures"]
    assert result["stages"]["gate"]["one"] | {"seconds": 0} == {"ok": True, "error": 1e-7, "seconds": 0}
    met = {row["figure"]: row["met"] for row in result["targets"]}
    assert len(met) == len(TARGETS)
    assert met[f"{STEP}, {CARTPOLE}, 64, K = 3, us"] is True
    assert met[f"{STEP}, {CARTPOLE}, 4096, K = 3, env_steps_per_s"] is False
    assert met[f"PPO, {CARTPOLE}, 4096, K = 3, env_steps_per_s"] is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ('"one": (fails, 5)', "ValueError: wrong numbers"),
        ('"one": (lambda: {"ok": False}, 5)', None),
        (HANG.format("one"), "hangs: killed after 0.5 s"),
        (CRASH.format("one"), "exit code 9"),
    ],
)
def test_a_red_gate_gives_no_figures(tmp_path, fault, said):
    code, result, _ = run(tmp_path, fault)
    assert code == 1
    assert result["gate"] == "red"
    assert result["red"] == ["one"]
    assert result["figures"] == []
    assert result["left_out"] == ["small", "middle", "large"]
    assert result["stages"]["gate"]["two"]["ok"], "the others still say what they find"
    assert said is None or said in result["stages"]["gate"]["one"]["error"]


@pytest.mark.parametrize("fault", [HANG, CRASH, '"{}": (breaks, 5)', '"{}": (fails, 5)'])
def test_figures_go_on_after_one_that_fails(tmp_path, fault):
    code, result, _ = run(tmp_path, fault.format("middle"))
    assert code == 0
    assert result["failed"] == ["middle"]
    assert [row["num_envs"] for row in result["figures"]] == [64, 65_536]


def test_what_there_is_is_written_when_time_is_out(tmp_path):
    code, result, _ = run(tmp_path, '"middle": (lambda: time.sleep(60), 50)', "--seconds", "5")
    assert code == 0
    assert result["stages"]["figures"]["middle"]["error"] == "out of time"
    assert result["left_out"] == ["large"]
    assert len(result["figures"]) == 1
    assert result["seconds"] < 10


def test_a_gate_that_time_runs_out_in_is_red(tmp_path):
    code, result, _ = run(tmp_path, '"one": (lambda: time.sleep(60), 50)', "--seconds", "4.5")
    assert code == 1
    assert result["red"] == ["one", "two"]


def test_a_runner_that_does_not_start_is_red(tmp_path):
    code, result, printed = run(tmp_path, cases="no_such_module")
    assert code == 1
    assert result["red"] == ["start of the runner"]
    assert "no_such_module" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_nothing_is_written(tmp_path):
    code, result, printed = run(tmp_path, "", "--device", "cuda")
    assert code == 2
    assert result is None
    assert printed == f"make gpu: {sys.executable} has no torch that finds a CUDA device.\n"


def test_a_dry_run_is_no_result(tmp_path):
    from benchmarks.gpu import RESULT

    code, result, printed = run(tmp_path, "", "--out", str(RESULT))
    assert code == 2
    assert result is None
    assert "give --out" in printed


def test_targets_scale_with_the_passes_and_flatness_is_of_three_sizes():
    sizes = {16_384: 1.0, 65_536: 4.0, 1_048_576: 66.0}
    where = {"subject": STEP, "world": CARTPOLE, "k": 6}
    rows = [where | {"num_envs": n, "us": us, "env_steps_per_s": n / us * 1e6} for n, us in sizes.items()]
    found = {row["figure"]: row for row in targets(rows)}
    assert found[f"{STEP}, {CARTPOLE}, 65536, K = 6, env_steps_per_s"]["bar"] == ">= 5.25e+07"
    assert found[f"{STEP}, {CARTPOLE}, 64, K = 3, us"]["bar"] == "<= 25"
    flat = found[f"flatness, {CARTPOLE}, K = 6, share"]
    assert flat["value"] == pytest.approx(66 / 64 - 1)
    assert flat["met"]


@pytest.mark.long
def test_every_case_runs_in_host_memory(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--seconds", "1200"]
    out = tmp_path / "gpu.json"
    subprocess.run([*command, "--out", str(out)], cwd=ROOT, env=environment, check=True)
    result = json.loads(out.read_text())
    assert (result["gate"], result["failed"], result["left_out"]) == ("green", [], [])
    json.dumps(result, allow_nan=False)
    subjects = {row["subject"] for row in result["figures"]}
    assert {
        STEP,
        "policy and env",
        "PPO",
        "vector env, no copy",
        "cost of classes",
        "TorchRL's WorldModelEnv",
    } <= subjects
