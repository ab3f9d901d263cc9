"""Fields, their projection onto a canvas, the layout, and the topology."""

from wm_vec.canvas.field import Field, as_field, is_field
from wm_vec.canvas.layout import CanvasLayout
from wm_vec.canvas.schema import BoundField, BoundSchema, SchemaError, UnknownFieldError, compile_schema
from wm_vec.canvas.signature import EnvSignature, UnsupportedSpaceError
from wm_vec.canvas.topology import Tiles, Topology

__all__ = [
    "BoundField",
    "BoundSchema",
    "CanvasLayout",
    "EnvSignature",
    "Field",
    "SchemaError",
    "Tiles",
    "Topology",
    "UnknownFieldError",
    "UnsupportedSpaceError",
    "as_field",
    "compile_schema",
    "is_field",
]
