"""Field values to canvas tokens."""

from wm_kernels.encode_fields.op import encode_fields
from wm_kernels.encode_fields.reference import encode_channels

__all__ = ["encode_channels", "encode_fields"]
