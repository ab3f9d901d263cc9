"""Arguments as people and files give them: of a type, or as plain Python values, NumPy's scalars among them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

LARGEST_WHOLE = 2**53
"""Whole numbers up to here are exact as floats, and have room to be added in int64."""


def whole_number(value: Any, name: str, low: int = 1, high: int = LARGEST_WHOLE) -> int:
    """A whole number, Python's or NumPy's, as a Python int.

    Raises:
        ValueError: Something else, True and 2.0 among them, or one that is not from `low` to `high`.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and low <= value <= high):
        most = f" and at most {high}" if whole and value > high else ""
        raise ValueError(
            f"{name} must be a whole number of at least {low}{most}, got {value!r} ({type(value).__name__})."
        )
    return int(value)


def seed_number(value: Any, name: str) -> int:
    """A seed in [0, 2^63), as `whole_number` has it."""
    return whole_number(value, name, 0, 2**63 - 1)


def env_numbers(value: Any, num_envs: int, name: str) -> list[int]:
    """Numbers of envs, at least one, in a sequence or an array, as Python ints.

    Raises:
        ValueError: Something else, or an env that there is not.
    """
    if not isinstance(value, (Sequence, np.ndarray, torch.Tensor)) or len(value) == 0:
        raise ValueError(f"{name} must be a non-empty list of env numbers, got {value!r}.")
    numbers = value.tolist() if isinstance(value, torch.Tensor) else value
    return [whole_number(number, f"{name}: each", 0, num_envs - 1) for number in numbers]


def real_number(value: Any, name: str, low: float = -1e30, high: float = 1e30) -> float:
    """A number, Python's or NumPy's, as a Python float.

    Raises:
        ValueError: Something else, True and NaN among them, or one that is not from `low` to `high`.
    """
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (real and low <= value <= high):
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r} ({type(value).__name__}).")
    return float(value)


def truth(value: Any, name: str) -> bool:
    """True or False, Python's or NumPy's, as Python's.

    Raises:
        ValueError: Something else, 1 and None among them.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r} ({type(value).__name__}).")
    return bool(value)


def as_path(value: Any, name: str) -> Path:
    """A path, a string or bytes as a path.

    Raises:
        TypeError: Something else.
    """
    try:
        return Path(os.fsdecode(value))
    except TypeError as error:
        raise TypeError(f"{name} must be a path, got {value!r} ({type(value).__name__}).") from error


def as_device(value: Any) -> torch.device:
    """A device that is there, by itself or its name.

    Raises:
        ValueError: Something else, or one that is not there.
    """
    try:
        return torch.empty(0, device=torch.device(value)).device
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be a torch.device that is there or its name, as 'cpu' or 'cuda', got {value!r}."
        ) from error


def check_type(value: Any, kind: type | tuple[type, ...], name: str, advice: str = "") -> None:
    """Refuse what is of no type that there should be.

    Raises:
        TypeError: It is not; the message ends in `advice`.
    """
    if not isinstance(value, kind):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise TypeError(f"{name} must be a {kinds}, got {value!r} ({type(value).__name__}). {advice}".rstrip())


def check_callable(value: Callable[..., Any] | None, name: str) -> None:
    """Refuse what cannot be called; None may be left out.

    Raises:
        TypeError: It cannot.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, got {value!r} ({type(value).__name__}).")


def take_numbers(config: object, ranges: Mapping[str, tuple[Any, Any]]) -> None:
    """Make fields of a frozen dataclass plain numbers within ranges: whole ones where the range's ends are ints.

    Raises:
        ValueError: Something else.
    """
    for name, (low, high) in ranges.items():
        words, value = f"{type(config).__name__}: `{name}`", getattr(config, name)
        plain = whole_number if isinstance(low, int) else real_number
        object.__setattr__(config, name, plain(value, words, low, high))


def printable(text: str) -> str:
    """Text in which what a terminal would obey, such as an escape sequence, is spelled out. Line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def warn_once(text: str) -> None:
    """Warn, but of the same thing once in a process."""
    if text not in _SAID:
        _SAID.add(text)
        warnings.warn(text, stacklevel=3)


_SAID: set[str] = set()
