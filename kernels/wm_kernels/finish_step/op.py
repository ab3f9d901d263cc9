"""`finish_step`: contract and dispatch. The leaves themselves are checked where states come in."""

from __future__ import annotations

import torch

from wm_kernels.dispatch import Op, TensorContract
from wm_kernels.finish_step.reference import finish_step_reference

finish_step = Op(
    "finish_step",
    finish_step_reference,
    {"reward": TensorContract(("B", "P")), "terminated": TensorContract(("B", "P"), (torch.bool,))},
    first=5,
)
