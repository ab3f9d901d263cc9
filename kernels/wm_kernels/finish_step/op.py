"""`finish_step`: contract and dispatch. The leaves themselves are checked where states come in."""

from __future__ import annotations

from typing import Any

import torch

from wm_kernels.dispatch import Op, TensorContract, is_plain_host_tensor
from wm_kernels.finish_step.cpu import finish_step_cpu
from wm_kernels.finish_step.reference import finish_step_reference

finish_step = Op(
    "finish_step",
    finish_step_reference,
    {"reward": TensorContract(("B", "P")), "terminated": TensorContract(("B", "P"), (torch.bool,))},
    first=5,
)


def _plain_rows(*arguments: Any) -> bool:
    reward, autoreset = arguments[5], arguments[13]
    return autoreset == "disabled" and not torch.is_grad_enabled() and is_plain_host_tensor(reward)


finish_step.register("cpu", _plain_rows)(finish_step_cpu)
