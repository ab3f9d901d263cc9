"""Transitions of real environments as files."""

from __future__ import annotations

import os

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tensordict import TensorDict, TensorDictBase

from wm_vec.plain import as_path, check_type
from wm_vec.train.checkpoint import check_file, write_file
from wm_vec.train.data import DataError


def save_transitions(transitions: TensorDictBase, path: str | os.PathLike[str]) -> None:
    """Write steps ``(n,)`` as `collect_transitions` gives them: a safetensors file, nested keys joined by ``/``.

    Raises:
        DataError: Another batch shape, or keys that contain ``/``.
        OSError: The file cannot be written there.
    """
    check_file(path)
    check_type(transitions, TensorDictBase, "save_transitions: the transitions")
    if transitions.batch_dims != 1:
        raise DataError(
            f"save_transitions: expected a batch (n,), got {tuple(transitions.shape)}. Give transitions.reshape(-1) "
            "with an 'episode' or 'is_init' that tells where episodes begin."
        )
    keys = [(key,) if isinstance(key, str) else key for key in transitions.keys(True, True)]
    if slashed := [key for key in keys if any("/" in part for part in key)]:
        raise DataError(f"save_transitions: keys must not contain '/', got {slashed}. Rename them first.")
    flat = transitions.detach().cpu().flatten_keys("/")
    write_file(path, save({key: value.contiguous().clone() for key, value in flat.items()}))


def load_transitions(path: str | os.PathLike[str]) -> TensorDict:
    """Read what `save_transitions` wrote, or any safetensors file with its keys. Runs no code of the file.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It is no whole safetensors file, or its tensors are not one row per step.
    """
    path = as_path(path, "load_transitions: the file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no file of transitions here.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise DataError(
            f"{path} is no whole safetensors file ({error}). Write transitions with wm_vec.train.save_transitions."
        ) from error
    steps = {key: tuple(tensor.shape[:1]) for key, tensor in tensors.items()}
    if len(set(steps.values()) - {()}) != 1 or () in steps.values():
        raise DataError(f"{path}: every tensor needs one row per step, as many in all; got {steps}.")
    try:
        return TensorDict(tensors, batch_size=next(iter(steps.values()))).unflatten_keys("/")
    except KeyError as error:
        raise DataError(f"{path}: a key is both a tensor and a group, among {sorted(tensors)}.") from error
