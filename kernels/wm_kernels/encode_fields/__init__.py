"""Field values to canvas tokens."""

from wm_kernels.encode_fields.op import encode_fields
from wm_kernels.encode_fields.reference import ClassInputs, class_rows

__all__ = ["ClassInputs", "class_rows", "encode_fields"]
