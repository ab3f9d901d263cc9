"""Keys of TensorDicts: where a model's inputs and outputs stand in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.adapters.errors import AdapterError, describe

NEXT = "next"
Key = str | tuple[str, ...]
Path = tuple[str, ...]
Encoder = Callable[[Tensor, torch.dtype], Tensor]


def path_of(key: Any) -> Path:
    """A key as a tuple, without ``"next"`` in front.

    Raises:
        AdapterError: No string and no tuple of strings.
    """
    path = (key,) if isinstance(key, str) else key
    if not isinstance(path, tuple) or not path or not all(isinstance(part, str) for part in path):
        raise AdapterError(f"TorchRLDynamics: a key is a string or a tuple of strings, got {describe(key)}.")
    return path[1:] if path[0] == NEXT and len(path) > 1 else path


def shown(path: Path) -> str:
    """A path as users write the key."""
    return repr(path[0] if len(path) == 1 else path)


def find(tensordict: TensorDictBase, path: Path) -> Any:
    """What stands under ``("next", *path)``, or else at the root under `path`; None where there is neither."""
    following = tensordict.get(NEXT, None)
    value = following.get(path, None) if isinstance(following, TensorDictBase) else None
    return tensordict.get(path, None) if value is None else value


def observation_places(space: Any, key: Key | Mapping[str, Any] | None) -> Any:
    """The paths of a space's leaves, in dicts as the space has them.

    Args:
        space: Of the observations.
        key: As `TorchRLDynamics` takes it.

    Raises:
        AdapterError: A key that does not fit the space, or a Tuple space.
    """
    if isinstance(space, spaces.Tuple):
        raise AdapterError("TorchRLDynamics: TensorDicts hold no tuples; give a Dict observation space, not a Tuple.")
    if not isinstance(space, spaces.Dict):
        if isinstance(key, Mapping):
            raise AdapterError(f"TorchRLDynamics: observation_key is a mapping only of Dict spaces, not of {space}.")
        return ("observation",) if key is None else path_of(key)
    if isinstance(key, Mapping):
        if set(key) != set(space.spaces):
            raise AdapterError(
                f"TorchRLDynamics: observation_key must name the keys {sorted(space.spaces)} of the observation space, "
                f"got {sorted(map(str, key))}."
            )
        return {name: observation_places(part, key[name]) for name, part in space.spaces.items()}
    front = () if key is None else path_of(key)
    return {name: observation_places(part, (*front, name)) for name, part in space.spaces.items()}


def paths_in(places: Any) -> list[Path]:
    """All paths of `observation_places`."""
    return [path for part in places.values() for path in paths_in(part)] if isinstance(places, dict) else [places]


def one_hot_encoder(space: gym.Space) -> Encoder:
    """Turns actions ``(B,)`` of a Discrete or ``(B, k)`` of a MultiDiscrete space into one-hot vectors ``(B, n)``.

    Raises:
        AdapterError: Another space.
    """
    if isinstance(space, spaces.Discrete):
        return partial(_one_hot, [(int(space.start), int(space.n))])
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return partial(_one_hot, list(zip(space.start.tolist(), space.nvec.tolist(), strict=True)))
    raise AdapterError(f"TorchRLDynamics: one_hot needs a Discrete or MultiDiscrete action space, got {space}.")


def _one_hot(classes: list[tuple[int, int]], actions: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B,)`` or ``(B, k)`` int64 -> ``(B, n)``, side by side; `classes` has each column's first and number."""
    columns = zip(actions.reshape(actions.shape[0], -1).unbind(1), classes, strict=True)
    encoded = [
        column.unsqueeze(1) == torch.arange(first, first + number, device=actions.device)
        for column, (first, number) in columns
    ]
    return torch.cat(encoded, 1).to(dtype)
