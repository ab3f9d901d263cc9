"""Arguments that several commands share. Imports nothing heavy, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class CommandError(Exception):
    """Something that the user can put right; shown as one line, with exit code 2."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            upper = f" and at most {most}" if number > most else ""
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}{upper}, got {text!r}")
        return number

    return parse


positive = whole(1, 2**31 - 1)
size = whole(1, 2**24)
"""Of a batch or of many envs."""


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, as keyword arguments."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object such as '{{\"g\": 9.8}}', got {text!r}")
    return value


def add_common(parser: argparse.ArgumentParser, examples: str, real_env: bool = False) -> None:
    """``--seed``, ``--device``, ``--json``, of commands with a real environment ``--env-kwargs``, and examples."""
    if real_env:
        words = "keyword arguments of the real environment, e.g. '{\"g\": 9.8}'"
        parser.add_argument("--env-kwargs", type=json_object, default={}, metavar="JSON", help=words)
    parser.add_argument("--seed", type=whole(0, 2**62), default=0, metavar="S", help="seeds everything (default: 0)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument(
        "--json", action="store_true", help="JSON alone on standard output, everything else on standard error"
    )
    parser.epilog = "examples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines())


def add_world(parser: argparse.ArgumentParser) -> None:
    """The world of a command that takes one, and ``--denoise-steps``."""
    parser.add_argument("world", metavar="FILE", help="a file that 'wm-vec train' wrote, or a bundled world's name")
    words = "denoiser evaluations (default: the world's)"
    parser.add_argument("--denoise-steps", type=whole(1, 1000), metavar="K", help=words)


def check_writable(path: Path, option: str, picture: bool = False) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        CommandError: A folder, a folder that does not exist, or a picture without matplotlib.
    """
    if path.is_dir():
        raise CommandError(f"{option} {path} is a folder; expected a file.")
    if not path.parent.is_dir():
        raise CommandError(f"{option} {path}: there is no folder {path.parent}. Make it first.")
    if picture:
        try:
            import matplotlib  # noqa: F401 - only to see that it is there
        except ImportError as error:
            raise CommandError(f"{option} {path}: pictures need matplotlib: pip install 'wm_vec[plot]'.") from error
