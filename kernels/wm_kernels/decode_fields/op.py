"""`decode_fields`: contract and dispatch."""

from __future__ import annotations

from wm_kernels.decode_fields.reference import decode_fields_reference
from wm_kernels.dispatch import Op, TensorContract

decode_fields = Op(
    "decode_fields",
    decode_fields_reference,
    {
        "sample": TensorContract(("B", "N")),
        "values": TensorContract(("B", "N")),
        "base": TensorContract(("M", "N")),
        "shift": TensorContract(("S", "N")),
        "scale": TensorContract(("S", "N")),
        "low": TensorContract(("N",)),
        "high": TensorContract(("N",)),
    },
)
