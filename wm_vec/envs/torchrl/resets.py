"""Resets of some envs of a batch without a look at which."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from wm_vec.compat import get_entry, set_entry


def known_to_be_running(done: Tensor) -> bool:
    """Whether no env is done, as far as a look at host memory can tell; other devices are not asked."""
    return done.is_cpu and not torch.compiler.is_compiling() and not bool(done.any())


def put_envs(tensordict: TensorDictBase, mask: Tensor, fresh: TensorDictBase) -> TensorDictBase:
    """Put what a reset gives into `tensordict`, for the envs of `mask` alone; all of it where there was nothing before.

    Args:
        tensordict: What was; gets new tensors, its own are not written into.
        mask: Bool, of the batch shape.
        fresh: What a reset gives, of all envs; ``"_reset"`` is left out.
    """
    for key, value in fresh.items():
        if key == "_reset":
            continue
        before = get_entry(tensordict, key)
        if isinstance(before, TensorDictBase):
            put_envs(before, mask, value)
            continue
        if before is not None:
            value = torch.where(mask.reshape(*mask.shape, *(1,) * (value.dim() - mask.dim())), value, before)
        set_entry(tensordict, key, value)
    return tensordict


class MaskedResets(EnvBase):
    """An env whose ``reset`` merges what was reset by a masked select.

    TorchRL's own asks the device whether all is to be reset and whether anything is still done. Entries that a reset
    does not give stay as they were.
    """

    def any_done(self, tensordict: TensorDictBase) -> Any:
        """Whether any env is done, ``()`` bool; nobody has looked at it yet. Writes ``_reset``."""
        done = tensordict.get("done")
        tensordict.set("_reset", done.clone())
        return done.any()

    def _reset_check_done(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> None:
        """Nothing is done after our resets."""

    def _reset_proc_data(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> TensorDictBase:
        """`tensordict` with what was reset."""
        if tensordict is None:
            return tensordict_reset
        mask = tensordict.pop("_reset", None)
        if mask is None:
            return tensordict.update(tensordict_reset.exclude("_reset"))
        return put_envs(tensordict, mask.reshape(tensordict.batch_size), tensordict_reset)
