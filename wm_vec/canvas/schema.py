"""From nested dataclasses of fields to a bound schema."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_vec.canvas.field import WORDS, Field, as_field, is_field
from wm_vec.canvas.layout import CanvasLayout


class SchemaError(ValueError):
    """A schema cannot be compiled."""


class UnknownFieldError(SchemaError, KeyError):
    """A field path that the schema does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class BoundField:
    """A field with its place on the canvas.

    Attributes:
        path: The field's full name, ``"firm_acme.financials.revenue"``.
        spec: The field itself.
        start: Its first position.
    """

    path: str
    spec: Field
    start: int

    @property
    def num_positions(self) -> int:
        """Number of positions, ``h * w``."""
        return self.spec.num_positions

    def indices(self) -> list[int]:
        """The field's positions on the canvas, row-major."""
        return list(range(self.start, self.start + self.num_positions))


class BoundSchema:
    """Fields by path, laid out on a canvas.

    ``bound["a.b.c"]`` gives a `BoundField`; iteration and ``len`` go over the paths.

    Attributes:
        layout: Where each field lies.
    """

    def __init__(self, fields: Mapping[str, Field], d_model: int) -> None:
        if not isinstance(fields, Mapping) or not all(isinstance(field, Field) for field in fields.values()):
            raise SchemaError(f"A schema is made of a mapping from paths to fields, got {fields!r}.")
        if not fields:
            raise SchemaError("The schema has no fields. Give at least one Field, or widen `include`.")
        if wrong := [path for path in fields if not (isinstance(path, str) and path.isprintable())]:
            raise SchemaError(
                f"Field names must be printable text, got {', '.join(map(ascii, wrong[:3]))}. Rename them."
            )
        self.layout = CanvasLayout.of(fields, d_model)
        self._fields = {path: BoundField(path, field, self.layout.starts[path]) for path, field in fields.items()}

    @property
    def field_names(self) -> list[str]:
        """All field paths, in canvas order."""
        return list(self._fields)

    def __getitem__(self, path: str) -> BoundField:
        if not isinstance(path, str) or path not in self._fields:
            raise UnknownFieldError(self._unknown(path))
        return self._fields[path]

    def __contains__(self, path: object) -> bool:
        return path in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundSchema):
            return NotImplemented
        # The order counts too: the same fields at other positions are another canvas.
        return self.layout.d_model == other.layout.d_model and self.bound_fields() == other.bound_fields()

    def __repr__(self) -> str:
        return f"BoundSchema({len(self)} fields, {self.layout.num_positions} positions, d_model={self.layout.d_model})"

    def bound_fields(self) -> list[BoundField]:
        """All fields with their places, in canvas order."""
        return list(self._fields.values())

    def indices(self, paths: Iterable[str]) -> list[int]:
        """Canvas positions of several fields, in the order given."""
        if isinstance(paths, (str, bytes)) or not isinstance(paths, Iterable):
            raise SchemaError(f"indices: give a list of field paths, got {paths!r}.")
        return [index for path in paths for index in self[path].indices()]

    def to_dict(self, words: bool = True) -> dict[str, Any]:
        """The schema as plain data for a checkpoint; without `words` it is the same for equal schemas."""

        def kept(spec: Field) -> dict[str, Any]:
            values = dataclasses.asdict(spec).items()
            return {name: _plain(value) for name, value in values if name not in WORDS or (words and value)}

        return {
            "d_model": self.layout.d_model,
            "fields": {path: kept(bound.spec) for path, bound in self._fields.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BoundSchema:
        """Inverse of `to_dict`.

        Raises:
            SchemaError: No such data.
        """
        try:
            fields = {
                path: Field(**{name: value if name in WORDS else _from_plain(value) for name, value in field.items()})
                for path, field in data["fields"].items()
            }
            return cls(fields, d_model=data["d_model"])
        except (AttributeError, LookupError, TypeError) as error:
            raise SchemaError(f"These are no data of a schema ({type(error).__name__}: {error}).") from error

    def _unknown(self, path: object) -> str:
        names = self.field_names
        close = difflib.get_close_matches(str(path), names, n=3, cutoff=0.4)
        inside = [name for name in names if name.startswith(f"{path}.")]
        if inside:
            hint = f"It is a group; name one of its fields: {', '.join(inside[:5])}."
        elif close:
            hint = f"Closest: {', '.join(close)}."
        else:
            hint = f"The schema has: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}."
        return f"Unknown field path {path!r}. {hint}"


def compile_schema(
    root: Any = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    entities: Mapping[str, Any] | None = None,
    d_model: int = 64,
) -> BoundSchema:
    """Project a world's description onto a canvas.

    Args:
        root: A dataclass (instance, or class with defaults) whose attributes are fields or further dataclasses; a
            mapping works as well. None for a world of entities alone.
        include: Paths to keep, each a field or a group of them; None keeps all of `root`.
        exclude: Paths to leave out, taken after `include`.
        entities: Further dataclasses by name, always kept (`exclude` still applies). A name is an identifier, or
            several with dots between them.
        d_model: Width of a position's latent row, a multiple of 32.

    Returns:
        The bound schema, entities last. Fields are in the order of their declaration, but for those of one group (paths
        alike but for the last part), which lie together.

    Raises:
        SchemaError: An object that is neither field nor group, two fields or groups of one name, an entity's name that
            is no identifier, or nothing left.
        UnknownFieldError: An `include` or `exclude` that matches nothing.
    """
    fields = {} if root is None else _fields(root, "")
    wanted = fields if include is None else _matching(fields, include, "include")
    entities = {} if entities is None else entities
    if not isinstance(entities, Mapping):
        raise SchemaError(f"entities must be a mapping of names to dataclasses of fields, got {entities!r}.")
    for name, entity in entities.items():
        if not (isinstance(name, str) and all(part.isidentifier() for part in name.split("."))):
            raise SchemaError(f"An entity is called {name!r}; use letters, digits and _, as in 'firm_acme'.")
        # Also a group that `include` leaves out: one path would mean two things.
        if taken := next((path for path in fields if _under(path, name) or _under(name, path)), None):
            raise SchemaError(
                f"The entity {name!r} collides with {taken!r}, which is there already. Rename the entity."
            )
        found = _fields(entity, name)
        fields, wanted = {**fields, **found}, {**wanted, **found}
    if exclude is not None:
        left_out = _matching(wanted, exclude, "exclude")
        wanted = {path: field for path, field in wanted.items() if path not in left_out}
    groups: dict[str, dict[str, Field]] = {}
    for path, field in wanted.items():
        groups.setdefault(path.rpartition(".")[0], {})[path] = field
    return BoundSchema({path: field for group in groups.values() for path, field in group.items()}, d_model=d_model)


def _plain(value: Any) -> Any:
    """As JSON has it, which knows neither tuples nor infinities."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(part) for part in value)
    return float(value) if isinstance(value, str) else value


def _fields(node: Any, path: str) -> dict[str, Field]:
    """What `_walk` finds, by path."""
    fields: dict[str, Field] = {}
    for found, field in _walk(node, path):
        if found in fields:
            raise SchemaError(f"Two fields are called {found!r}. Rename one of them.")
        fields[found] = field
    return fields


def _walk(node: Any, path: str) -> Iterator[tuple[str, Field]]:
    if isinstance(node, type) and dataclasses.is_dataclass(node):
        try:
            node = node()
        except TypeError as error:
            raise SchemaError(f"{node.__name__} at {path or 'the root'!r} needs arguments: {error}.") from error
    if is_field(node):
        if not path:
            raise SchemaError("A field without a name: put it into a dataclass or a mapping, {'name': Field()}.")
        try:
            yield path, as_field(node)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"Field {path!r}: {error}") from error
        return
    if dataclasses.is_dataclass(node):
        children: Iterable[tuple[str, Any]] = ((f.name, getattr(node, f.name)) for f in dataclasses.fields(node))
    elif isinstance(node, Mapping):
        children = ((str(k), v) for k, v in node.items())
    else:
        raise SchemaError(
            f"{path or 'The root'!r} is a {type(node).__name__}; a schema is made of Field objects (h, w, period, "
            "loss_weight, is_output) and dataclasses or mappings of them."
        )
    for name, child in children:
        yield from _walk(child, f"{path}.{name}" if path else name)


def _matching(fields: Mapping[str, Field], patterns: Sequence[str], argument: str) -> dict[str, Field]:
    """Fields under any of the paths, in the order of `fields`; each pattern must match something."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    check_paths(argument, patterns)
    for pattern in patterns:
        if not any(_under(path, pattern) for path in fields):
            groups = sorted({path.rsplit(".", n)[0] for path in fields for n in range(path.count(".") + 1)})
            close = difflib.get_close_matches(pattern, groups, n=3, cutoff=0.4)
            hint = f" Closest: {', '.join(close)}." if close else ""
            if argument == "include":
                hint += " Entities are kept anyway; leave out parts of them by `exclude`."
            raise UnknownFieldError(f"`{argument}`: no field or group is called {pattern!r}.{hint}")
    return {path: field for path, field in fields.items() if any(_under(path, p) for p in patterns)}


def check_paths(role: str, paths: Any) -> None:
    """Check what is given as a list of field paths; `role` names it.

    Raises:
        SchemaError: No list, an empty one, something else than paths in it, or one that stands more than once.
    """
    listed = isinstance(paths, (Sequence, np.ndarray)) and not isinstance(paths, (str, bytes)) and len(paths) > 0
    if not listed or not all(isinstance(path, str) for path in paths):
        raise SchemaError(f"{role} must be a non-empty list of field paths, got {paths!r}.")
    if twice := sorted({path for path in paths if list(paths).count(path) > 1}):
        raise SchemaError(f"{role} overlap: {', '.join(twice)} stands more than once. Name each field once.")


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}.")
