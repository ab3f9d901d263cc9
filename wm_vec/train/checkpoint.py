"""Checkpoints: one safetensors file, whose header carries the configuration as JSON. Loading never unpickles."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT_VERSION = 2
_KEY = "wm_vec"


class CheckpointError(ValueError):
    """A file that cannot be loaded as a world."""


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write atomically: the file at `path` is the old one or the new one, whole, whenever the run is killed.

    Args:
        path: Where to; its folder must exist.
        tensors: By name.
        config: Plain data; `format_version` is added.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    path = Path(path)
    check_folder(path)
    header = {_KEY: json.dumps({"format_version": FORMAT_VERSION, **config}, allow_nan=False)}
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata=header)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a file whose folder is not there.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}. Make it first, or write elsewhere.")


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `write_checkpoint` wrote.

    Returns:
        Tensors on the CPU, and the configuration.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is cut short, a pickle, of another kind or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no checkpoint here.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        # Asked only here: a safetensors file begins with its header's length, any bytes at all.
        with path.open("rb") as opened:
            is_pickle = opened.read(2).startswith((b"PK", b"\x80"))
        raise CheckpointError(
            f"{path} looks like a pickle (torch.save); wm_vec does not load those, since loading one can run "
            "code. Expected a safetensors file written by WorldModel.save()."
            if is_pickle
            else f"{path} is no whole safetensors file ({error}). It may be cut short; copy or train it again."
        ) from error
    if _KEY not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not a wm_vec checkpoint: its header has no {_KEY!r}.")
    try:
        config = json.loads(metadata[_KEY])
        version = config["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the configuration in its header cannot be read ({error}).") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this wm_vec reads version {FORMAT_VERSION}. "
            + (
                "Update wm_vec."
                if isinstance(version, int) and version > FORMAT_VERSION
                else _train_again(path, config)
            )
        )
    return tensors, config


def _train_again(path: Path, config: Mapping[str, Any]) -> str:
    """How to make a world of an older version anew."""
    signature = config.get("signature")
    env_id = signature.get("env_id") if isinstance(signature, dict) else None
    if not isinstance(env_id, str):
        return "Train it again with WorldModel.finetune() on the data that it was made from."
    return f"Train it again: wm-vec train --env {shlex.quote(env_id)} --out {shlex.quote(str(path))} --overwrite"
