"""Resets of some envs of a batch without a look at which."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase


def known_to_be_running(done: Tensor) -> bool:
    """Whether no env is done, as far as a look at host memory can tell; other devices are not asked."""
    return done.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(done.any())


def select(mask: Tensor, fresh: TensorDictBase, old: TensorDictBase) -> TensorDict:
    """The entries of `fresh` where `mask` says, those of `old` elsewhere; `fresh`'s where `old` has none.

    Args:
        mask: Bool, of the TensorDicts' batch shape.
        fresh: What a reset gives, of all envs.
        old: What was.
    """
    entries: dict[str, Any] = {}
    for key, value in fresh.items():
        before = old.get(key, None)
        if before is None:
            entries[key] = value
        elif isinstance(value, TensorDictBase):
            entries[key] = select(mask, value, before)
        else:
            entries[key] = torch.where(mask.reshape(*mask.shape, *(1,) * (value.dim() - mask.dim())), value, before)
    return TensorDict(entries, batch_size=fresh.batch_size, device=fresh.device)


class MaskedResets(EnvBase):
    """An env whose ``reset`` merges what was reset by a masked select.

    TorchRL's own asks the device whether all is to be reset and whether anything is still done. Entries that a reset
    does not give stay as they were.
    """

    def _reset_check_done(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> None:
        """Nothing is done after our resets."""

    def _reset_proc_data(self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase) -> TensorDictBase:
        """`tensordict` with what was reset."""
        if tensordict is None:
            return tensordict_reset
        mask = tensordict.pop("_reset", None)
        fresh = tensordict_reset.exclude("_reset")
        if mask is not None:
            fresh = select(mask.reshape(tensordict.batch_size), fresh, tensordict)
        return tensordict.update(fresh)
