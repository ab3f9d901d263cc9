"""Arguments that several commands share. Imports nothing heavy, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import json
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return number


def non_negative(text: str) -> int:
    """A whole number of at least 0."""
    return 0 if text == "0" else positive(text)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, as keyword arguments."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object such as '{{\"g\": 9.8}}', got {text!r}")
    return value


def add_common(parser: argparse.ArgumentParser) -> None:
    """``--seed``, ``--device``, ``--json``."""
    parser.add_argument("--seed", type=non_negative, default=0, metavar="S", help="seeds everything (default: 0)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument(
        "--json", action="store_true", help="JSON alone on standard output, everything else on standard error"
    )


def add_env_kwargs(parser: argparse.ArgumentParser) -> None:
    """``--env-kwargs``."""
    parser.add_argument(
        "--env-kwargs",
        type=json_object,
        default={},
        metavar="JSON",
        help="keyword arguments of the real environment, e.g. '{\"g\": 9.8}'",
    )


def add_examples(parser: argparse.ArgumentParser, examples: str) -> None:
    """Close the help with examples."""
    parser.epilog = "examples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines())
