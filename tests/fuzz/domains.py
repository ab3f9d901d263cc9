"""Bad values for arguments, by what an argument takes.

A domain draws a value and its meaning: the plain value that the call may take it for, or `REFUSED` where there is none.
A call that takes a value is right only if it does what its meaning does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

REFUSED = object()
"""The meaning of what no call may take."""
Drawn = tuple[Any, Any]
Domain = Callable[[np.random.Generator, Any], Drawn]


class Anything:
    """An object that no argument expects."""


def choose(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of the options, as it is."""
    return options[int(rng.integers(len(options)))]


def strangers() -> list[Any]:
    """Values that only an argument which takes anything takes."""
    return [
        Anything(),
        b"bytes",
        1j,
        {"a": 1},
        [None],
        np.array([Anything()]),
        torch.nn.Linear(1, 1),
        TensorDict({}, []),
        set(),
    ]


def refused(values: Sequence[Any]) -> list[Drawn]:
    """Every value without a meaning."""
    return [(value, REFUSED) for value in values]


def whole(low: int | None = 1, optional: bool = False, high: int | None = None) -> Domain:
    """A whole number of at least `low`."""

    def draw(rng: np.random.Generator, good: Any) -> Drawn:
        number = 1 if good is None else good
        drawn = refused(
            [
                *strangers(),
                number + float(rng.uniform(0.1, 0.9)),
                np.nan,
                np.inf,
                -np.inf,
                str(number),
                [number],
                (),
                torch.tensor([1, 2]),
                np.array([]),
                torch.tensor(0.5),
                np.float32(number + 0.5),
            ]
        )
        drawn += [
            (np.int64(number), number),
            (np.uint8(number), number),
            (float(number), number),
            (np.array(number), number),
            (torch.tensor(number), number),
            (True, 1),
        ]
        if low is not None:
            drawn += refused([low - int(rng.integers(1, 1000)), low - 1, np.int64(low - 1), -(10**30)])
        if high is not None:
            drawn += refused([high + 1, high + int(rng.integers(1, 1000)), 10**30])
        if not optional:
            drawn += refused([None])
        return choose(rng, drawn)

    return draw


def real(low: float = -np.inf, high: float = np.inf, optional: bool = False) -> Domain:
    """A finite number from `low` to `high`."""

    def draw(rng: np.random.Generator, good: Any) -> Drawn:
        number = 0.5 if good is None else good
        drawn = refused(
            [*strangers(), np.nan, str(number), [number] * 3, torch.tensor([1.0, 2.0, 3.0]), (), np.array([])]
        )
        drawn += [
            (np.float64(number), number),
            (np.array(number), number),
            (torch.tensor(number, dtype=torch.float64), number),
        ]
        if np.isfinite(low):
            drawn += refused([low - float(rng.exponential()) - 1e-3, -np.inf, -(10**400)])
        if np.isfinite(high):
            drawn += refused([high + float(rng.exponential()) + 1e-3, np.inf, 10**400])
        if not optional:
            drawn += refused([None])
        return choose(rng, drawn)

    return draw


def flag(rng: np.random.Generator, good: Any) -> Drawn:
    """True or False; Python's own truth is what anything else means, except what has none."""
    return choose(
        rng,
        [
            (np.array([True, False]), REFUSED),
            (torch.tensor([1, 0]), REFUSED),
            (np.bool_(good), good),
            (int(good), good),
            (torch.tensor(good), good),
            (None, False),
            ("no", True),
        ],
    )


def choice(rng: np.random.Generator, good: Any) -> Drawn:
    """One of a few names."""
    return choose(rng, refused([*strangers(), "nonsense", "", 3, -1, 2.5, ["same"], torch.float16, np.nan]))


def text(rng: np.random.Generator, good: Any) -> Drawn:
    """A name that is free to choose."""
    return choose(rng, refused([*strangers(), 3, 2.5, None, ["same"], np.nan]))


def indices(size: int) -> Domain:
    """Numbers of envs below `size`, in a list or alone."""

    def draw(rng: np.random.Generator, good: Any) -> Drawn:
        wrong = [size, -size - 1, [0, size], 10**30, 2.5, [0.5], ["x"], "nonsense", [[0, 1]], np.nan, [None]]
        return choose(rng, [*refused([*strangers(), *wrong]), (tuple(good), good), (np.array(good), good)])

    return draw


def present(domain: Domain) -> Domain:
    """As `domain`, of an argument for which None is nothing bad."""

    def draw(rng: np.random.Generator, good: Any) -> Drawn:
        value, meaning = domain(rng, good)
        return draw(rng, good) if value is None else (value, meaning)

    return draw


def thing(rng: np.random.Generator, good: Any) -> Drawn:
    """An object of one class."""
    return choose(rng, refused([*strangers()[:-2], 3, -1, 2.5, "nonsense", "", None, lambda: 0, type, np.nan]))


def thing_or_none(rng: np.random.Generator, good: Any) -> Drawn:
    """An object of one class, or None."""
    return choose(rng, refused([*strangers()[:-2], 3, -1, 2.5, "nonsense", lambda: 0, type, np.nan]))


def device(rng: np.random.Generator, good: Any) -> Drawn:
    """Where tensors live."""
    return choose(
        rng, refused([*strangers(), "nonsense", "", "cuda:99", -1, 2.5, torch.float16, ["cpu"], np.nan, "cpu:x"])
    )


def fields(rng: np.random.Generator, good: Any) -> Drawn:
    """Paths of fields, in order."""
    first = good[0]
    drawn = refused(
        [
            *strangers()[:-1],
            ["nonsense"],
            [first, first],
            [first, 3],
            [None],
            3,
            2.5,
            first,
            "",
            [[first]],
            [first + "."],
            [first.encode()],
            np.nan,
        ]
    )
    return choose(rng, [*drawn, (tuple(good), good), (np.array(good), good)])


def groups(rng: np.random.Generator, good: Any) -> Drawn:
    """Paths of fields or groups of them, in a list or alone."""
    value, meaning = fields(rng, good)
    return (value, [value]) if isinstance(value, str) and value == good[0] else (value, meaning)


def path(rng: np.random.Generator, good: Any) -> Drawn:
    """A file to read or to write."""
    there = good.parent
    drawn = refused(
        [
            Anything(),
            1j,
            {"a": 1},
            [None],
            [good],
            2.5,
            torch.tensor(1),
            np.nan,
            there,
            str(there),
            there / "no" / "such",
            "",
            "a\0b",
            there / "text.txt" / "x",
        ]
    )
    return choose(rng, [*drawn, (str(good), good), (str(good).encode(), good)])


def function(*wrong: Callable[..., Any]) -> Domain:
    """A callable; `wrong` ones give what the call cannot use."""

    def draw(rng: np.random.Generator, good: Any) -> Drawn:
        return choose(rng, refused([3, "nonsense", [], {}, 2.5, Anything(), np.nan, (), *wrong, *wrong]))

    return draw


def numbers(below: int | None = None, clips: bool = False, gaps: bool = False) -> Domain:
    """An array of the good one's shape and dtype, a tensor or NumPy, whose values are checked.

    Args:
        below: The number of classes; None for finite numbers.
        clips: Whether other whole numbers are taken for the nearest class, as by envs that read no values.
        gaps: Whether NaN stands for what was not observed, and any number of rows will do.
    """

    def draw(rng: np.random.Generator, good: Any) -> Drawn:
        tensor = torch.as_tensor(good)
        host = tensor.numpy()

        def like(array: Any) -> Any:
            return torch.as_tensor(array) if isinstance(good, torch.Tensor) else np.asarray(array)

        def with_one(value: Any) -> Any:
            broken = host.astype(np.int64 if below else host.dtype)
            broken[tuple(rng.integers(size) for size in host.shape)] = value
            return like(broken)

        drawn = refused(
            [
                *strangers(),
                None,
                "nonsense",
                like(np.stack([host] * 2)),
                host.astype(complex),
                host.astype(str),
                host.astype(bytes),
                lambda: 0,
                tensor.to("meta"),
                1e300,
            ]
        )
        drawn += [
            (like(host[..., None]), good),
            (like(host[None, None]), good),
            (tensor.clone(), good),
            (np.array(host, order="F"), good),
            (tensor.expand(1, *host.shape)[0], good),
        ]
        if host.ndim:
            drawn += refused([like(host[:0]), [*host.tolist(), None]])
            drawn += [] if gaps else refused([like(np.concatenate([host, host]))])
            drawn += [(tensor.repeat_interleave(2, 0)[::2], good), (host.tolist(), good)]
        if host.dtype == bool:
            drawn += refused([like(host.astype(np.float32)), like(host.astype(np.int64)), like(host[1:])])
        elif below:
            wrong = [-1, below, 10**6, -int(rng.integers(2, 1000)), below + int(rng.integers(1000))]
            others = [with_one(value) for value in wrong] * 2
            drawn += (
                [(other, like(np.clip(np.asarray(other), 0, below - 1))) for other in others]
                if clips
                else refused(others)
            )
            drawn += refused([like(host + 0.5), like(np.full(host.shape, np.nan))])
            drawn += [(like(host.astype(np.int32)), good)]
        elif host.dtype.kind == "i":
            drawn += [*refused([like(host + 0.5)] * 2), (like(host.astype(np.int32)), good)]
        else:
            drawn += refused([*map(with_one, [np.inf, -np.inf, *([] if gaps else [np.nan])])] * 3)
            drawn += [(like(host.astype(np.float64)), good)]
        return choose(rng, drawn)

    return draw
