"""Where a user's torch model is, and in which mode."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from wm_vec.adapters.errors import AdapterError


def warn_of_training_mode(model: Any) -> None:
    """Dropout and batch normalisation in a model that is still in training mode change what it says."""
    if not isinstance(model, nn.Module):
        return
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    found = {type(part).__name__ for part in model.modules() if part.training and isinstance(part, kinds)}
    if found:
        warnings.warn(
            f"The world model is in training mode and has {', '.join(sorted(found))}: every step would be noisy, or "
            "change the model. Call model.eval() first.",
            stacklevel=4,
        )


def device_of(model: Any, device: torch.device | str | None) -> torch.device:
    """Where the model is.

    Raises:
        AdapterError: It is somewhere else than it was said to be.
    """
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if device is None:
        return torch.device("cpu") if first is None else first.device
    wanted = torch.empty(0, device=device).device
    if first is not None and first.device != wanted:
        raise AdapterError(
            f"The model is on {first.device}, device is {wanted}. Move it with model.to({str(wanted)!r})."
        )
    return wanted
