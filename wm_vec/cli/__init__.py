"""The ``wm-vec`` command. One module per command, imported when it is the one that was called."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from wm_vec.cli.arguments import CommandError
from wm_vec.plain import printable

COMMANDS = {
    "train": "learn a world from a real environment",
    "check": "compare a world with its real environment",
    "rollout": "imagine many episodes at once: returns, and imagined steps per second",
    "demo": "everything in a few minutes: imagine CartPole, train a policy inside, try it for real",
}
EXAMPLES = """\
examples:
  wm-vec demo
  wm-vec train --env Acrobot-v1 --policy sticky --out acrobot.safetensors
  wm-vec check acrobot.safetensors --out-png acrobot.png
  wm-vec rollout CartPole-v1 --num-envs 4096       (a bundled world, by its name)
  wm-vec check CartPole-v1 --json > figures.json

'wm-vec COMMAND --help' says more about each.
"""
INTERRUPTED, USER_ERROR = 130, 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Without the program's name; None for the process's own.

    Returns:
        The exit code: 0, 2 where the user has to change something, 130 after an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal's encoding does not have
    parser = _Parser(
        prog="wm-vec",
        description="Learned worlds as thousands of imagined environments.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    chosen = next((a for a in arguments if not a.startswith("-")), None)
    module = import_module(f"wm_vec.cli.{chosen}") if chosen in COMMANDS else None
    for name, summary in COMMANDS.items():
        described = module.__doc__ if module is not None and name == chosen else summary
        command = commands.add_parser(
            name, help=summary, description=described, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if module is not None and name == chosen:
            module.add_arguments(command)
    args = parser.parse_args(arguments)
    if args.version:
        from wm_vec import __version__

        print(f"wm-vec {__version__}")
        return 0
    if module is None:
        parser.print_help()
        return USER_ERROR
    try:
        return module.run(args) or 0
    except KeyboardInterrupt:
        print("wm-vec: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and " memory" in str(error)):
            error = CommandError(f"there is not enough memory for such sizes. Ask for less. ({error})")
        if not isinstance(error, _user_errors()):
            raise
        message = printable(" ".join(str(error).split()))
        print(f"wm-vec {args.command}: error: {message or type(error).__name__}", file=sys.stderr)
        return USER_ERROR


def _user_errors() -> tuple[type[Exception], ...]:
    """What the library raises for things that the user can put right."""
    import gymnasium as gym

    from wm_vec.canvas import SchemaError
    from wm_vec.train.checkpoint import CheckpointError
    from wm_vec.train.data import DataError
    from wm_vec.train.evaluation import EvaluationError

    diverged = FloatingPointError  # in training: another learning rate or other data help
    ours = CommandError, CheckpointError, DataError, EvaluationError, SchemaError
    return (*ours, OSError, gym.error.Error, diverged)
