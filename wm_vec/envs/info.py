"""The info dict of the faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from tensordict import TensorDictBase

from wm_vec.core import Engine, Perspective


class StaleInfoError(RuntimeError):
    """An entry of an info that is made when it is read, after its buffers were written by another step."""


class LazyInfo(dict):
    """A dict some of whose entries are made when they are first read.

    ``info["predictions"]`` and ``"predictions" in info`` work as ever; iterating and copying go over the entries that
    exist, so that wrappers which copy infos pay for nothing that nobody read.

    Args:
        entries: What exists from the start.
        lazy: Key -> what makes the entry; None for none.
        named: Entries too, as `dict` takes them: Gymnasium's ArrayConversion makes infos by ``type(info)(**entries)``.
    """

    def __init__(
        self,
        entries: Mapping[str, Any] | None = None,
        lazy: dict[str, Callable[[], Any]] | None = None,
        /,
        **named: Any,
    ) -> None:
        super().__init__({} if entries is None else entries, **named)
        self._lazy = {} if lazy is None else lazy

    def __missing__(self, key: str) -> Any:
        if key not in self._lazy:
            raise KeyError(key)
        self[key] = value = self._lazy[key]()
        del self._lazy[key]
        return value

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._lazy

    def get(self, key: str, default: Any = None) -> Any:
        """As `dict.get`, lazy entries included."""
        return self[key] if key in self else default  # noqa: SIM401 - this is get itself

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def lazy_entries(engine: Engine, perspective: Perspective, state: TensorDictBase) -> dict[str, Callable[[], Any]]:
    """What is made of a dynamics state ``(B,)`` when it is read, as copies; the state is one step's own."""
    dynamics, made = engine.dynamics, engine.num_steps

    def current() -> TensorDictBase:
        if not engine.config.copy and engine.num_steps != made:
            raise StaleInfoError(
                "This info is of an earlier step, whose buffers were written since (copy=False). Read it before "
                "the next step, or make the environment with copy=True."
            )
        return state

    return {
        "obs_dict": lambda: perspective.named(perspective.observe(dynamics.observe(current()))),
        "predictions": lambda: dict(perspective.everything(dynamics.observe(current()))),
        "model_state": lambda: dynamics.model_state(current()),
    }


def _of_all_entries(method: Callable[..., Any]) -> Any:
    """A dict's method for a `ScalarInfo`, which first makes every entry that it lists."""

    @wraps(method)
    def call(self: ScalarInfo, *arguments: Any) -> Any:
        self.fill()
        return method(self, *arguments)

    return call


class ScalarInfo(LazyInfo):
    """A `LazyInfo` whose entries are also made when somebody looks at all of them: it iterates as a plain dict does.

    The scalar view's: what one env costs to copy is small, but a step that nobody asks should not pay for it. The
    model's state stays out of iteration: checkers compare infos, and a TensorDict has no single answer to ``==``.
    """

    UNLISTED = "model_state"

    def fill(self) -> None:
        """Make every listed entry that has not been read yet."""
        for key in list(self._lazy):
            if key != self.UNLISTED:
                self[key]

    __iter__ = _of_all_entries(dict.__iter__)
    __len__ = _of_all_entries(dict.__len__)
    __eq__ = _of_all_entries(dict.__eq__)
    __repr__ = _of_all_entries(dict.__repr__)
    __hash__ = None  # type: ignore[assignment]
    keys = _of_all_entries(dict.keys)
    values = _of_all_entries(dict.values)
    items = _of_all_entries(dict.items)

    def copy(self) -> dict[str, Any]:
        """A plain dict with all entries."""
        return dict(self.items())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)
