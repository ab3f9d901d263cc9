"""The info dict of the faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class LazyInfo(dict):
    """A dict some of whose entries are made when they are first read.

    ``info["predictions"]`` and ``"predictions" in info`` work as ever; iterating and copying go over the entries that
    exist, so that wrappers which copy infos pay for nothing that nobody read.
    """

    def __init__(self, entries: Mapping[str, Any], lazy: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__(entries)
        self._lazy = dict(lazy)

    def add_lazy(self, key: str, make: Callable[[], Any]) -> None:
        """Add an entry that `make` makes when it is first read."""
        self._lazy[key] = make

    def __missing__(self, key: str) -> Any:
        if key not in self._lazy:
            raise KeyError(key)
        self[key] = value = self._lazy.pop(key)()
        return value

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._lazy

    def get(self, key: str, default: Any = None) -> Any:
        """As `dict.get`, lazy entries included."""
        return self[key] if key in self else default  # noqa: SIM401 - this is get itself

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)
