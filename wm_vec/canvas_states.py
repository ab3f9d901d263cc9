"""States of a canvas world: from values that people give, filled in by the model, as banks that episodes start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_vec.adapters import CanvasDynamics
from wm_vec.adapters.canvas import denoise_steps
from wm_vec.canvas import BoundField
from wm_vec.core import CounterRNG, Engine
from wm_vec.core.resets import make_bank
from wm_vec.core.rng import STREAM_BANK, seed_list
from wm_vec.model import CanvasModel
from wm_vec.train import WorldData

MAX_BANK = 1024
"""Initial states that a checkpoint keeps."""
FUNCTION_BANK = 256
"""Initial states that are filled from a user's `initial_obs_fn`, which is called once for each."""
FILL_WORK, LEAST_FILLED = 2**35, 16
"""Operations that filling in a bank takes at most, about a second of two cores; and states that it has all the same."""


def field_values(field: BoundField, value: Any, where: str) -> Tensor:
    """A field's values in its own units, ``(n,)`` float32; one number stands for all of its n positions.

    Raises:
        ValueError: No numbers, another number of values, values that are not finite, or no class of the field.
    """
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float32).numpy()
    try:
        given = np.asarray(value)
    except (ValueError, RuntimeError):  # nested lists of unequal lengths, TensorDicts
        given = np.empty(0, object)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{where}: {field.path!r} takes numbers, got {value!r}.")
    array = torch.as_tensor(given, dtype=torch.float32).reshape(-1)
    if array.numel() == 1:
        array = array.expand(field.num_positions)
    if array.numel() != field.num_positions:
        raise ValueError(f"{where}: {field.path!r} has {field.num_positions} positions, got {array.numel()} values.")
    if not bool(torch.isfinite(array).all()):
        raise ValueError(f"{where}: {field.path!r} must be finite, got {array.tolist()}.")
    classes = field.spec.num_classes
    if classes is not None and not bool(((array >= 0) & (array < classes) & (array == array.round())).all()):
        raise ValueError(f"{where}: {field.path!r} takes classes from 0 to {classes - 1}, got {array.tolist()}.")
    return array


def fill_in(
    model: CanvasModel, values: Tensor, known: Tensor, seed: int = 0, n_denoise_steps: int | None = None
) -> Tensor:
    """States ``(M, N)`` in which what is not `known`, ``(M, N)`` bool, is sampled: state i at the seed ``seed + i``."""
    seeds = torch.tensor(seed_list(seed, len(values)), dtype=torch.int64, device=values.device)
    dtype = model.codec.mean.dtype
    noise = CounterRNG.from_seeds(seeds).normal(model.noise_size, STREAM_BANK, dtype)
    return model.fill_in(values.to(dtype), known, noise, denoise_steps(model, n_denoise_steps))


def num_filled(model: CanvasModel, most: int, n_denoise_steps: int | None = None) -> int:
    """How many states of a bank the network fills in: `most`, or fewer where one of a large canvas takes long."""
    layout, config = model.bound.layout, model.config
    width, passes = layout.d_model, denoise_steps(model, n_denoise_steps) * config.num_blocks * config.num_loops
    operations = layout.num_positions * passes * (24 * width**2 + 4 * layout.num_positions * width)
    return min(most, max(LEAST_FILLED, FILL_WORK // operations))


def bank_from_data(model: CanvasModel, data: WorldData, seed: int) -> Tensor:
    """Up to `MAX_BANK` of the data's starts, what was not observed filled in by the model, see `num_filled`."""
    chosen = torch.randperm(len(data.starts), generator=torch.Generator().manual_seed(seed))[:MAX_BANK]
    values, known = (t[chosen].to(model.codec.mean.device) for t in (data.starts, data.starts_known))
    read = model.codec.is_input & model.codec.is_output
    if bool(known[:, read].all()):
        return torch.where(known, values, 0.0)
    count = num_filled(model, MAX_BANK)
    return fill_in(model, values[:count], known[:count])


def bank_from_function(model: CanvasModel, initial_obs_fn: Callable[[], Mapping[str, Any]]) -> Tensor:
    """Up to `FUNCTION_BANK` states from a user's function, what it does not name filled in, see `num_filled`."""
    values = torch.zeros(num_filled(model, FUNCTION_BANK), model.bound.layout.num_positions, dtype=torch.float32)
    known = torch.zeros_like(values, dtype=torch.bool)
    for i in range(len(values)):
        given = initial_obs_fn()
        if not isinstance(given, Mapping):
            raise TypeError(
                f"initial_obs_fn must return a mapping of field path -> values, got {type(given).__name__}."
            )
        for path, value in given.items():
            field = model.bound[path]
            values[i, field.indices()] = field_values(field, value, "initial_obs_fn")
            known[i, field.indices()] = True
    device = model.codec.mean.device
    return fill_in(model, values.to(device), known.to(device))


def load_bank(engines: Iterable[Engine], bank: Tensor | None) -> None:
    """Start episodes of engines over a canvas world from other states ``(M, N)``; None samples them from the model."""
    for engine in engines:
        dynamics = engine.dynamics
        assert isinstance(dynamics, CanvasDynamics)
        dynamics.replace_bank(bank)
        count = num_filled(dynamics.model, MAX_BANK, dynamics.n_denoise_steps)
        states = make_bank(dynamics, count) if dynamics.bank is None else dynamics.bank  # as an engine does
        engine.load_bank(states)
