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
        "num_bits": TensorContract(("N",), (torch.int64,)),
        "weight": TensorContract(("N", "V", "D")),
        "known_bias": TensorContract(("N", "D")),
        "unknown_bias": TensorContract(("N", "D")),
    },
)
