"""Right on this card, and how fast: the gate and the figures of one GPU, in one command of at most six minutes.

Run: ``make gpu``, or ``python -m benchmarks.gpu`` with the checkout and its ``kernels`` on PYTHONPATH.

Two processes. This one watches; a runner goes through the cases of `benchmarks.gpu_cases`: it compiles, holds the
kernels to the gate, and measures. A case that hangs, or breaks the CUDA context, ends the runner; a new one goes on
with the next case. A red gate gives no figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_targets import targets

RESULT = Path(__file__).parent / "results" / "gpu.json"
DRY_RESULT = Path("out") / "gpu_dry_run.json"
STAGES = ("compile", "gate", "figures")
START = "start of the runner"
START_SECONDS = 90.0
LAST_SECONDS = 3.0
"""A case that starts later than this before the end is left out."""


@dataclass(frozen=True)
class Case:
    """Something to compile, a check of the gate, or a figure.

    Attributes:
        stage: One of `STAGES`.
        name: Its own.
        run: Gives plain data for the result; ``ok`` among it is the verdict. What raises has failed.
        seconds: After these it counts as hanging.
    """

    stage: str
    name: str
    run: Callable[[], dict[str, Any]]
    seconds: float = 20.0


class Journal:
    """What watcher and runner tell each other, in files of one folder: the plan, the running case, the results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: Any) -> None:
        """Replace a file."""
        part = self.folder / f"{name}.part"
        part.write_text(json.dumps(content))
        part.replace(self.folder / name)

    def read(self, name: str, default: Any) -> Any:
        """What `write` wrote."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else default

    def begin(self, stage: str, name: str, seconds: float) -> None:
        """Note what runs."""
        self.write("current", {"stage": stage, "name": name, "limit": seconds, "since": time.time()})

    def end(self, stage: str, name: str, **result: Any) -> None:
        """Add a result."""
        with (self.folder / "results").open("a") as file:
            file.write(json.dumps({"stage": stage, "name": name, **result}) + "\n")
        print(f"[{stage}] {name}: {json.dumps(result)[:240]}", flush=True)

    def results(self) -> dict[str, dict[str, Any]]:
        """All results by name."""
        path = self.folder / "results"
        lines = path.read_text().splitlines() if path.exists() else []
        return {result["name"]: result for result in map(json.loads, lines)}

    def gate(self) -> list[str]:
        """What is not green: the gate's cases that have failed, or have not run."""
        results, plan = self.results(), self.read("plan", None)
        if plan is None:
            return [START]
        names = [START, *(name for stage, name in plan if stage == "gate")]
        return [name for name in names if not results.get(name, {"ok": name == START})["ok"]]


# -- the runner -------------------------------------------------------------------------------------------------


def run_cases(cases: Sequence[Case], check_device: Callable[[], Any], journal: Journal, deadline: float) -> None:
    """Run the cases that have no result yet, in order.

    Args:
        cases: All of them.
        check_device: Raises where a failed case has broken the device.
        journal: Where plan and results go.
        deadline: In seconds since the epoch; what would begin later is left out.
    """
    journal.write("plan", [(case.stage, case.name) for case in cases])
    done = journal.results()
    for case in cases:
        if case.name in done:
            continue
        if time.time() > deadline - LAST_SECONDS or (case.stage == "figures" and journal.gate()):
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


# -- the watcher ------------------------------------------------------------------------------------------------


def watch(command: Sequence[str], journal: Journal, deadline: float) -> None:
    """Run the runner until it has been through all cases, again after each that ended it.

    Args:
        command: Starts a runner.
        journal: Its journal.
        deadline: When the last runner is killed.
    """
    while True:
        journal.begin("gate", START, START_SECONDS)
        had = len(journal.results())
        runner = subprocess.Popen(command, start_new_session=True)
        fault = _fault(runner, journal, deadline)
        with suppress(ProcessLookupError):  # its own processes, too
            os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
        if fault is None:
            return
        current = journal.read("current", None)
        if current["name"] not in journal.results():
            journal.end(current["stage"], current["name"], ok=False, error=fault)
        if time.time() > deadline or current["name"] == START or len(journal.results()) == had:
            return


def _fault(runner: subprocess.Popen[bytes], journal: Journal, deadline: float) -> str | None:
    """Wait for a runner; why it did not end by itself, if it did not."""
    while runner.poll() is None:
        time.sleep(0.1)
        current, now = journal.read("current", None), time.time()
        if now > deadline:
            return "out of time"
        if now > current["since"] + current["limit"]:
            return f"hangs: killed after {current['limit']:g} s"
    return None if runner.returncode == 0 else f"the runner ended with exit code {runner.returncode}"


def outcome(journal: Journal, seconds: float) -> dict[str, Any]:
    """The result that is written: verdicts, figures and targets."""
    results, plan, red = journal.results(), journal.read("plan", []), journal.gate()
    stages: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    for name, result in results.items():
        stages[result["stage"]][name] = {key: value for key, value in result.items() if key not in ("stage", "name")}
    figures = [] if red else [row for entry in stages["figures"].values() for row in entry.get("rows", [])]
    return {
        "machine": results.get("machine", {}).get("machine"),
        "gate": "red" if red else "green",
        "red": red,
        "seconds": round(seconds, 1),
        "left_out": [name for _, name in plan if name not in results],
        "stages": stages,
        "figures": figures,
        "targets": list(targets(figures)),
    }


def _lines(result: dict[str, Any]) -> Iterator[str]:
    for row in result["targets"]:
        met = {True: "met", False: "NOT MET", None: "not measured"}[row["met"]]
        bar = f">= {row['at_least']:g}" if row["at_least"] is not None else f"<= {row['at_most']:g}"
        value = "" if row["value"] is None else f"{row['value']:g}"
        yield f"{row['figure']:<64} {value:>12} {bar:>12}  {met}"
    failed = [name for stage in STAGES for name, entry in result["stages"][stage].items() if not entry["ok"]]
    yield f"{len(failed)} failed: {', '.join(failed) or 'none'}; left out: {', '.join(result['left_out']) or 'none'}"
    yield f"The gate is {result['gate']}. {result['seconds']:.0f} s."


def main(argv: Sequence[str] | None = None) -> int:
    """Watch, or run, and write the result; returns the exit code: 0 for a green gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run in the interpreter")
    parser.add_argument("--tiny", action="store_true", help="see that everything runs; the figures mean nothing")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="cases whose name holds one of these, for a dry run")
    parser.add_argument("--seconds", type=float, default=350.0, help="in all")
    parser.add_argument("--cases", default="benchmarks.gpu_cases", help="the module that has them")
    parser.add_argument("--out", type=Path, help=f"{RESULT.name} in the results; on the CPU {DRY_RESULT}")
    parser.add_argument("--runner", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.only and args.device == "cuda":
        parser.error("--only is for dry runs: the gate is all of its cases.")
    if args.runner:
        module = importlib.import_module(args.cases)
        cases = [
            c for c in module.cases(args.device, args.tiny) if not args.only or any(x in c.name for x in args.only)
        ]
        run_cases(cases, module.check_device, Journal(args.runner), args.deadline)
        return 0
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("make gpu: torch finds no CUDA device here; nothing was measured.", file=sys.stderr)
            return 2
    else:
        os.environ["TRITON_INTERPRET"] = "1"
    started = time.time()
    deadline = started + args.seconds
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        arguments = sys.argv[1:] if argv is None else argv
        runner = ["--runner", folder, "--deadline", str(deadline)]
        watch([sys.executable, "-m", "benchmarks.gpu", *arguments, *runner], journal, deadline)
        result = outcome(journal, time.time() - started)
    out = args.out or (RESULT if args.device == "cuda" else DRY_RESULT)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(_lines(result)), f"Written to {out}.", sep="\n")
    return 0 if result["gate"] == "green" else 1


if __name__ == "__main__":
    sys.exit(main())
