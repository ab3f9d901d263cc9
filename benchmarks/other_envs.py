"""``wm-vec train`` on environments that nobody tuned it to, and what its worlds are worth. Good or bad.

Each is trained by the command itself with its defaults, then checked by the command. Run:
``python -m benchmarks.other_envs``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

ENVS = (
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Taxi-v3",
)


def measure(env_id: str, folder: Path, extra: list[str]) -> dict[str, Any]:
    """Train and check one environment in processes of their own."""
    world = folder / f"{env_id}.safetensors"
    started = time.perf_counter()
    command = [sys.executable, "-m", "wm_vec.cli"]
    subprocess.run(
        [*command, "train", "--env", env_id, "--out", str(world), "--json", *extra], check=True, capture_output=True
    )
    trained = time.perf_counter() - started
    check = [*command, "check", str(world), "--env", env_id, "--json"]
    report = json.loads(subprocess.run(check, check=True, capture_output=True).stdout)
    return {"train_seconds": trained, **report}


def summary(env_id: str, report: dict[str, Any]) -> str:
    """The one-step figures in a line."""
    step = report["policies"]["random"]["one_step"]
    seen = "R2 " + " ".join(f"{d['r2']:.4f}" if d["r2"] is not None else "constant" for d in step["dimensions"])
    if step["classes"]:
        seen = "class right " + " ".join(f"{c['accuracy']:.4f}" for c in step["classes"])
    end = step["termination"]
    return f"{env_id:<26} {seen}; end recall {end['recall']}, precision {end['precision']}"


def main() -> None:
    """Measure all and write benchmarks/results/other_envs.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("envs", nargs="*", default=list(ENVS))
    parser.add_argument("--transitions", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/other_envs.json"))
    args = parser.parse_args()
    extra = [f"--transitions={args.transitions}"] if args.transitions else []
    extra += [f"--steps={args.steps}"] if args.steps else []
    result: dict[str, Any] = {"machine": machine(), "arguments": extra}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for env_id in args.envs:
            result[env_id] = measure(env_id, Path(folder), extra)
            print(summary(env_id, result[env_id]), flush=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
