"""`encode_fields`: contract and dispatch."""

from __future__ import annotations

import torch

from wm_kernels.dispatch import Op, TensorContract
from wm_kernels.encode_fields.reference import encode_fields_reference

encode_fields = Op(
    "encode_fields",
    encode_fields_reference,
    {
        "values": TensorContract(("B", "N")),
        "known": TensorContract(("M", "N"), (torch.bool,)),
        "center": TensorContract(("N",)),
        "scale": TensorContract(("N",)),
        "weight": TensorContract(("N", "D")),
        "known_bias": TensorContract(("N", "D")),
        "unknown_bias": TensorContract(("N", "D")),
    },
)
