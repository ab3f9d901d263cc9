"""Right on this card, and how fast: the gate and the figures of one GPU, in one command of at most six minutes.

Run: ``make gpu``, or ``python -m benchmarks.gpu`` with the checkout and its ``kernels`` on PYTHONPATH.

Two processes. This one watches; a runner goes through `benchmarks.gpu_cases`: it compiles, tests, and measures. A case
that hangs, or breaks the CUDA context, ends the runner; a new one goes on with the next case. A red gate gives no
figures.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_targets import targets

RESULT = Path(__file__).parent / "results" / "gpu.json"
START = "start of the runner"
START_SECONDS = 90.0
LAST_SECONDS = 3.0
"""What would begin later than this before the end is left out."""


@dataclass(frozen=True)
class Case:
    """Something to compile, a check of the gate, or figures.

    Attributes:
        stage: "compile", "gate" or "figures".
        name: Its own.
        run: Gives plain data: ``rows`` of figures, ``ok`` as a verdict. What raises has failed.
        seconds: After these it counts as hanging.
    """

    stage: str
    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float


class Journal:
    """What watcher and runner tell each other, in files of one folder: the plan, the running case, the results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: Any) -> None:
        """Replace a file."""
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(content))
        part.replace(self.folder / name)

    def read(self, name: str) -> Any:
        """What `write` wrote; an empty list before."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else []

    def begin(self, stage: str, name: str, seconds: float) -> None:
        """Note what runs."""
        self.write("current", {"stage": stage, "name": name, "limit": seconds, "since": time.time()})

    def end(self, stage: str, name: str, **result: Any) -> None:
        """Add a result."""
        self.write("results", [*self.read("results"), {"stage": stage, "name": name, **result}])
        print(f"[{stage}] {name}: {json.dumps(result)[:240]}", flush=True)

    def results(self) -> dict[str, dict[str, Any]]:
        """All results by name."""
        return {result["name"]: result for result in self.read("results")}

    def red(self) -> list[str]:
        """What keeps the gate from being green: cases of it that have failed, or have not run."""
        results, plan = self.results(), self.read("plan")
        if START in results or not plan:
            return [START]
        return [name for stage, name in plan if stage == "gate" and not results.get(name, {"ok": False})["ok"]]


def run_cases(cases: Sequence[Case], check_device: Callable[[], Any], journal: Journal, deadline: float) -> None:
    """The runner: the cases that have no result yet, in order.

    Args:
        cases: All of them.
        check_device: Raises where a failed case has broken the device.
        journal: Where plan and results go.
        deadline: In seconds since the epoch.
    """
    journal.write("plan", [(case.stage, case.name) for case in cases])
    done = journal.results()
    for case in (case for case in cases if case.name not in done):
        if time.time() > deadline - LAST_SECONDS or (case.stage == "figures" and journal.red()):
            break
        journal.begin(case.stage, case.name, case.seconds)
        started = time.perf_counter()
        try:
            result = {"ok": True, **case.run()}
        except Exception as error:
            result = {"ok": False, "error": f"{type(error).__name__}: {str(error)[-600:]}"}
        journal.end(case.stage, case.name, seconds=round(time.perf_counter() - started, 2), **result)
        if not result["ok"]:
            check_device()  # what raises here ends this process
        gc.collect()  # cycles hold device memory


def watch(command: Sequence[str], journal: Journal, deadline: float) -> None:
    """Run the runner until it has been through all cases, again after each that ended it.

    Args:
        command: Starts a runner.
        journal: Its journal.
        deadline: When the last runner is killed.
    """
    fault: str | None = ""
    while fault is not None and time.time() < deadline and START not in journal.results():
        journal.begin("gate", START, START_SECONDS)
        runner = subprocess.Popen(command, start_new_session=True)
        fault = _fault(runner, journal, deadline)
        with suppress(ProcessLookupError):  # its own processes, too
            os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
        current = journal.read("current")
        if fault is not None and current["name"] not in journal.results():
            journal.end(current["stage"], current["name"], ok=False, error=fault)


def _fault(runner: subprocess.Popen[bytes], journal: Journal, deadline: float) -> str | None:
    """Wait for a runner; why it did not end by itself, if it did not."""
    while runner.poll() is None:
        time.sleep(0.1)
        current, now = journal.read("current"), time.time()
        if now > deadline:
            return "out of time"
        if now > current["since"] + current["limit"]:
            return f"hangs: killed after {current['limit']:g} s"
    return None if runner.returncode == 0 else f"the runner ended with exit code {runner.returncode}"


def outcome(journal: Journal, seconds: float) -> dict[str, Any]:
    """The result that is written: verdicts, figures and targets."""
    results, red = journal.results(), journal.red()
    stages: dict[str, dict[str, Any]] = {"compile": {}, "gate": {}, "figures": {}}
    for result in results.values():
        stages[result.pop("stage")][result.pop("name")] = result
    figures = [row for result in stages["figures"].values() for row in result.pop("rows", [])]
    return {
        "machine": results.get("machine", {}).pop("machine", None),
        "gate": "red" if red else "green",
        "red": red,
        "seconds": round(seconds, 1),
        "failed": [name for name, result in results.items() if not result["ok"]],
        "left_out": [name for _, name in journal.read("plan") if name not in results],
        "targets": list(targets(figures)),
        "figures": figures,
        "stages": stages,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch, or run, and write the result; returns the exit code: 0 for a green gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run in the interpreter")
    parser.add_argument("--tiny", action="store_true", help="see that everything runs; the figures mean nothing")
    parser.add_argument("--seconds", type=float, default=350.0, help="in all")
    parser.add_argument("--cases", default="benchmarks.gpu_cases", help="the module that has them")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--runner", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.runner:
        module = importlib.import_module(args.cases)
        run_cases(module.cases(args.tiny), module.check_device, Journal(args.runner), args.deadline)
        return 0
    if args.device == "cpu":
        os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        if args.out == RESULT:
            parser.error("a dry run is no result: give --out.")
    else:
        if importlib.util.find_spec("torch") is None or not importlib.import_module("torch").cuda.is_available():
            print(f"make gpu: {sys.executable} has no torch that finds a CUDA device.", file=sys.stderr)
            return 2
    started = time.time()
    deadline = started + args.seconds
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        journal = Journal(Path(folder))
        os.environ["TRITON_CACHE_DIR"] = str(Path(folder) / "triton")  # holds this run's kernels and no others
        given = sys.argv[1:] if arguments is None else arguments
        command = [sys.executable, "-m", "benchmarks.gpu", *given, "--runner", folder, "--deadline", str(deadline)]
        watch(command, journal, deadline)
        result = outcome(journal, time.time() - started)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    words = {True: "met", False: "NOT MET", None: "not measured"}
    for row in result["targets"]:
        print(f"{row['figure']:<64} {row['value'] or 0:12.4g} to be {row['bar']:<12} {words[row['met']]}")
    print(f"Failed: {', '.join(result['failed']) or 'none'}. Left out: {', '.join(result['left_out']) or 'none'}.")
    print(f"The gate is {result['gate']}. {result['seconds']:.0f} s. Written to {args.out}.")
    return 0 if result["gate"] == "green" else 1


if __name__ == "__main__":
    sys.exit(main())
