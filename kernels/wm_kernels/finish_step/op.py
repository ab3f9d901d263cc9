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


def _one_row_on_host(*arguments: Any) -> bool:
    reward, terminated, autoreset = arguments[5], arguments[6], arguments[13]
    return (
        reward.shape[0] == 1
        and terminated.shape == reward.shape
        and terminated.dtype is torch.bool
        and autoreset == "disabled"
        and not torch.is_grad_enabled()
        and is_plain_host_tensor(reward)
    )


finish_step.register("cpu", _one_row_on_host)(finish_step_cpu)
finish_step.trusted.add(finish_step_cpu)
