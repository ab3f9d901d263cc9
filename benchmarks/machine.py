"""Where and on what a figure was measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """Processor or card, threads, versions and commit."""
    changed = "+" if _printed("git", "status", "--porcelain", "-uno") else ""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or None,
        "torch_threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else None,
        "gymnasium": version("gymnasium"),
        "torchrl": version("torchrl"),
        "commit": _printed("git", "rev-parse", "--short", "HEAD") + changed,
    }


def _printed(*command: str) -> str:
    """What a program prints; nothing where there is no such program."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
