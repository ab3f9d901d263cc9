"""`philox_words`, `philox_normal` and `philox_step`: contract and dispatch."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from wm_kernels.dispatch import Op, TensorContract, is_plain_host_tensor
from wm_kernels.philox_normal.cpu import philox_normal_cpu, philox_step_cpu, philox_words_cpu
from wm_kernels.philox_normal.reference import philox_normal_reference, philox_step_reference, philox_words_reference

_CONTRACT = {
    "seed": TensorContract(("B",), (torch.int64,)),
    "episode": TensorContract(("B",), (torch.int64,)),
    "step": TensorContract(("B",), (torch.int64,)),
}


def _on_host(seed: Tensor, *_: Any, **__: Any) -> bool:
    return sys.byteorder == "little" and is_plain_host_tensor(seed)


philox_words = Op("philox_words", philox_words_reference, _CONTRACT)
philox_words.register("numpy", _on_host)(philox_words_cpu)

philox_normal = Op("philox_normal", philox_normal_reference, _CONTRACT)
philox_normal.register("numpy", _on_host)(philox_normal_cpu)

philox_step = Op("philox_step", philox_step_reference, _CONTRACT)
philox_step.register("numpy", _on_host)(philox_step_cpu)
