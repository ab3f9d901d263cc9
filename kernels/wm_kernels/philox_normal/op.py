"""`philox_words` and `philox_normal`: contract, dispatch and launch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels.dispatch import Launch, Op, TensorContract, has_kernels, is_plain_host_tensor, is_plain_tensor
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


class PhiloxLaunch(Launch):
    """Both over seed, episode and step; the settings are how many numbers, their stream, and whether normals."""

    def outputs(self, tensors: Sequence[Any], *settings: int) -> list[Tensor]:
        """The numbers."""
        num_numbers, _, normal = settings
        return [tensors[0].new_empty(len(tensors[0]), num_numbers, dtype=torch.float32 if normal else torch.int64)]

    def write(self, tensors: Sequence[Any], outputs: list[Tensor], *settings: int) -> None:
        """By programs of 32 envs."""
        from wm_kernels.philox_normal.kernel import philox_kernel

        (out,), (num_numbers, stream, normal), envs = outputs, settings, 32
        columns = min(32, max(4, 1 << (num_numbers - 1).bit_length()))
        philox_kernel[-(-len(out) // envs), -(-num_numbers // columns)](
            *tensors, out, *out.shape, stream, NORMAL=bool(normal), ENVS=envs, COLUMNS=columns, num_warps=4
        )


_PHILOX = PhiloxLaunch()


@philox_words.register("triton", _on_device)
def philox_words_triton(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """`philox_words_reference` in one launch; the same bits."""
    return _PHILOX.over((seed, episode, step), num_words, stream & MASK32, False)[0]


@philox_normal.register("triton", _on_device)
def philox_normal_triton(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` in one launch."""
    return _PHILOX.over((seed, episode, step), num_normals, stream & MASK32, True)[0]
