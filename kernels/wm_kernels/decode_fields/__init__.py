"""Network samples to field values."""

from wm_kernels.decode_fields.op import decode_fields

__all__ = ["decode_fields"]
