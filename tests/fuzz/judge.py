"""What a call does with a bad value: one of `CLASSES`."""

from __future__ import annotations

import dataclasses
import linecache
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from tests.fuzz.domains import REFUSED, Domain
from tests.fuzz.targets import NOTHING, Target

CLASSES = ("right", "wrong", "clear", "internal", "changed", "hang")
SECONDS = 20.0
OURS = tuple(f"/{package}/" for package in ("wm_vec", "wm_kernels", "gymnasium"))
INTERNAL = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    UnicodeError,
)


@dataclass(frozen=True)
class Call:
    """A public call that works.

    Attributes:
        name: Its name.
        run: Makes it: target and arguments -> what can be compared.
        good: Arguments that work; those without a domain stay as they are.
        domains: What an argument takes, by its name.
        target: What it is made on.
    """

    name: str
    run: Callable[..., Any]
    good: Mapping[str, Any]
    domains: Mapping[str, Domain]
    target: Target = NOTHING

    def outcome(self, **changed: Any) -> tuple[Any, Any]:
        """Result, and what the target does next."""
        torch.manual_seed(0)
        target = self.target.make()
        return self.run(target, **{**self.good, **changed}), self.target.go_on(target)


class NoInputError(Exception):
    """The value does not even become an input, such as an entry of a TensorDict of another batch size."""


class HangError(BaseException):
    """A call took too long."""


@dataclass
class Verdicts:
    """How many inputs fell into each class, and those that went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, call: Call, name: str, value: Any, verdict: str, why: str) -> None:
        """Count one input."""
        self.counts[verdict] += 1
        if verdict not in ("right", "clear"):
            self.faults.append(f"{verdict}: {call.name}({name}={short(value)}): {why}")


def judge(call: Call, name: str, rng: np.random.Generator) -> tuple[Any, str, str]:
    """Draw a bad value for one argument, make the call with it, and classify what happens.

    Returns:
        The value, the class and what was seen.
    """
    value, meaning = call.domains[name](rng, call.good[name])
    torch.manual_seed(0)
    target = call.target.make()
    try:
        with limited(SECONDS):
            result = call.run(target, **{**call.good, name: value})
    except HangError:
        return value, "hang", f"more than {SECONDS} s"
    except SystemExit as error:
        return value, "wrong" if error.code == 0 else "clear", f"exit {error.code}"
    except NoInputError:
        return judge(call, name, rng)
    except Exception as error:
        if is_internal(error):
            return value, "internal", described(error)
        if not same(call.target.go_on(target), untouched(call.target)):
            return value, "changed", described(error)
        return value, "clear", described(error)
    if meaning is REFUSED:
        return value, "wrong", f"accepted: {short(result)}"
    expected = call.outcome(**{name: meaning})
    after = call.target.go_on(target)
    return value, "right" if same((result, after), expected) else "wrong", f"not what {short(meaning)} gives"


def is_internal(error: Exception) -> bool:
    """Whether an error comes from the inside: not one that this package or Gymnasium raises for what it was given."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    raised = linecache.getline(last.filename, last.lineno or 0).lstrip().startswith("raise")
    ours = any(package in last.filename for package in OURS)
    noted = bool(getattr(error, "__notes__", ()))  # of which of the user's functions it is
    return isinstance(error, INTERNAL) and not (ours and raised) and not noted


@cache
def untouched(target: Target) -> Any:
    """What a target does that nobody has touched."""
    return target.go_on(target.make())


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `HangError` inside after so long."""

    def stop(*_: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, NaN included, whatever holds them."""
    if type(one) is not type(other):
        return False
    if isinstance(one, TensorDictBase):
        one, other = dict(one.items()), dict(other.items())
    elif dataclasses.is_dataclass(one) and not isinstance(one, type):
        one, other = vars(one), vars(other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(one == other or one != one)


def short(value: Any) -> str:
    """A value in a line."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:
        text = f"<{type(value).__name__}: {error}>"
    return text if len(text) < 90 else f"{text[:87]}..."


def described(error: Exception) -> str:
    """An error in a line, and where it comes from."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = "/".join(last.filename.split("/")[-2:])
    return f"{type(error).__name__} at {where}:{last.lineno}: {short(str(error))}"
