"""Write the rollouts of the code as it is: ``python -m tests.golden.freeze``, from the root of a clean checkout.

Done once, before a change that must not alter them; to run it after such a change hides what the change did. Where a
change is meant to alter some cases, ``python -m tests.golden.freeze PREFIX`` writes those whose names begin so, and
leaves the others as they are.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from tests.golden.cases import CASES
from tests.golden.worlds import SCHEMA_WORLD, save_port

ROLLOUTS = Path(__file__).parent / "rollouts.npz"
ORIGIN = ROLLOUTS.with_suffix(".json")
SOURCE = "wm_vec", "kernels"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def main(prefix: str = "") -> None:
    """Roll the cases out whose names begin with `prefix`, and write the arrays and which code made them."""
    torch.set_num_threads(1)
    if _git("status", "--porcelain", "--", *SOURCE):
        raise SystemExit(f"{', '.join(SOURCE)} differ from the last commit: commit first, so that it can be named.")
    if not SCHEMA_WORLD.exists():
        save_port()
    chosen = {name: case for name, case in CASES.items() if name.startswith(prefix)}
    arrays, origin = {}, {}
    if prefix:
        arrays = {key: value for key, value in np.load(ROLLOUTS).items() if not key.startswith(prefix)}
        origin = json.loads(ORIGIN.read_text())
    arrays |= {f"{name}|{key}": value for name, case in chosen.items() for key, value in case().arrays().items()}
    np.savez_compressed(ROLLOUTS, **arrays)
    origin |= {
        f"commit of {prefix}" if prefix else "commit": _git("log", "-1", "--format=%H", "--", *SOURCE),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cases": len(CASES),
    }
    ORIGIN.write_text(json.dumps(origin, indent=2) + "\n")
    print(f"{len(chosen)} cases, {len(arrays)} arrays, {ROLLOUTS.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
