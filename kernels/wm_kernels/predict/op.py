"""`predict`, `denoiser_block` and `sampler_update`: contracts and dispatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wm_kernels.dispatch import Op, TensorContract, is_plain_host_tensor
from wm_kernels.predict.cpu import denoiser_block_cpu, predict_cpu
from wm_kernels.predict.reference import denoiser_block_reference, predict_reference, sampler_update_reference

denoiser_block = Op("denoiser_block", denoiser_block_reference, {"tokens": TensorContract(("B", "N", "D"))})

sampler_update = Op(
    "sampler_update",
    sampler_update_reference,
    {name: TensorContract(("B", "N")) for name in ("noisy", "denoised", "before")},
)

predict = Op(
    "predict",
    predict_reference,
    {
        "canvas": TensorContract(("B", "N", "D")),
        "noise": TensorContract(("B", "N")),
        "modulation": TensorContract(("K", "L", 6, "D")),
    },
)


def _no_graph_on_host(tensor: Tensor, other: Tensor, *_: Any, **__: Any) -> bool:
    wants_graph = torch.is_grad_enabled() and (tensor.requires_grad or other.requires_grad)
    return is_plain_host_tensor(tensor) and not wants_graph


def _shared_modulation(tokens: Tensor, modulation: Tensor, *_: Any, **__: Any) -> bool:
    return modulation.dim() == 2 and _no_graph_on_host(tokens, modulation)


predict.register("cpu", _no_graph_on_host)(predict_cpu)
denoiser_block.register("cpu", _shared_modulation)(denoiser_block_cpu)
