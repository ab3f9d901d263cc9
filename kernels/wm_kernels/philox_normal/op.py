"""`philox_words` and `philox_normal`: contract, dispatch and launch."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from wm_kernels.dispatch import LIBRARY, Op, TensorContract, has_kernels, is_plain_host_tensor, is_plain_tensor
from wm_kernels.philox_normal.cpu import philox_normal_cpu, philox_words_cpu
from wm_kernels.philox_normal.reference import MASK32, philox_normal_reference, philox_words_reference

_CONTRACT = {
    "seed": TensorContract(("B",), (torch.int64,)),
    "episode": TensorContract(("B",), (torch.int64,)),
    "step": TensorContract(("B",), (torch.int64,)),
}


def _on_host(seed: Tensor, *_: Any, **__: Any) -> bool:
    return sys.byteorder == "little" and is_plain_host_tensor(seed)


def _on_device(seed: Tensor, *_: Any, **__: Any) -> bool:
    return has_kernels(seed.device) and is_plain_tensor(seed)


philox_words = Op("philox_words", philox_words_reference, _CONTRACT)
philox_words.register("numpy", _on_host)(philox_words_cpu)

philox_normal = Op("philox_normal", philox_normal_reference, _CONTRACT)
philox_normal.register("numpy", _on_host)(philox_normal_cpu)

LIBRARY.define("philox(Tensor seed, Tensor episode, Tensor step, int num_numbers, int stream, bool normal) -> Tensor")


@philox_words.register("triton", _on_device)
def philox_words_triton(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """`philox_words_reference` in one launch; the same bits."""
    return torch.ops.wm_kernels.philox(seed, episode, step, num_words, stream & MASK32, False)


@philox_normal.register("triton", _on_device)
def philox_normal_triton(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` in one launch."""
    return torch.ops.wm_kernels.philox(seed, episode, step, num_normals, stream & MASK32, True)


@torch.library.register_fake("wm_kernels::philox")
def _numbers(seed: Tensor, episode: Tensor, step: Tensor, num_numbers: int, stream: int, normal: bool) -> Tensor:
    return seed.new_empty(seed.shape[0], num_numbers, dtype=torch.float32 if normal else torch.int64)


@torch.library.impl(LIBRARY, "philox", "CPU")
@torch.library.impl(LIBRARY, "philox", "CUDA")
def _launch(seed: Tensor, episode: Tensor, step: Tensor, num_numbers: int, stream: int, normal: bool) -> Tensor:
    from wm_kernels.philox_normal.kernel import philox_kernel

    out = _numbers(seed, episode, step, num_numbers, stream, normal)
    envs, columns = 32, min(32, max(4, 1 << (num_numbers - 1).bit_length()))
    if out.numel():
        grid = (-(-seed.shape[0] // envs), -(-num_numbers // columns))
        counters = (x.contiguous() for x in (seed, episode, step))
        philox_kernel[grid](
            *counters, out, *out.shape, stream, NORMAL=normal, ENVS=envs, COLUMNS=columns, num_warps=4
        )  # fmt: skip
    return out
