"""Checkpoints: one safetensors file, whose header carries the configuration as JSON. Loading never unpickles."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shlex
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from wm_vec.plain import as_path, printable

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 2
MAX_HEADER = 2 * 2**20
"""Bytes: parsed, a header takes many times its size."""
FLOATS = ("F32", "F64", "BF16")
OTHERS = {torch.int64: "I64", torch.bool: "BOOL", torch.uint8: "U8"}
_KEY = "wm_vec"


class CheckpointError(ValueError):
    """A file that cannot be loaded as a world. What it quotes of the file never steers a terminal."""

    def __str__(self) -> str:
        return printable(super().__str__())


class CheckpointFile:
    """A file that `write_checkpoint` wrote, of which the header is read: no tensor is before `tensors` is called.

    Args:
        path: Where it is.

    Attributes:
        path: Likewise.
        config: The configuration.
        shapes: Name -> shape of the tensors.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is cut short, a pickle, of another kind or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path = as_path(path, "A checkpoint")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no checkpoint here.")
        with path.open("rb") as opened:
            first, brace = opened.read(8), opened.read(1)
        length = int.from_bytes(first, "little")
        if MAX_HEADER < length <= path.stat().st_size - len(first):
            raise CheckpointError(f"{path} has a header of {length} bytes; at most {MAX_HEADER} are read.")
        try:
            self._file = safe_open(path, framework="pt")
            metadata = self._file.metadata() or {}
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            # Asked only here: a safetensors file begins with its header's length, any bytes at all, and a brace.
            raise CheckpointError(
                f"{path} looks like a pickle (torch.save); wm_vec does not load those, since loading one can run "
                "code. Expected a safetensors file written by WorldModel.save()."
                if first.startswith((b"PK", b"\x80")) and brace != b"{"
                else f"{path} is no whole safetensors file ({error}). It may be cut short; copy or train it again."
            ) from error
        self.shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        self._dtypes = {name: part.get_dtype() for name, part in slices.items()}
        if _KEY not in metadata:
            words = f"but not a wm_vec checkpoint: its header has no {_KEY!r}"
            raise CheckpointError(f"{path} is a safetensors file, {words}.")
        try:
            self.config: dict[str, Any] = json.loads(metadata[_KEY], parse_constant=_no_constant)
            version = self.config["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}: the configuration in its header cannot be read ({error}).") from error
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            raise CheckpointError(
                f"{path} has format version {version}; this wm_vec reads version {FORMAT_VERSION}. "
                + ("Update wm_vec." if newer else _train_again(path, self.config))
            )

    def check_tensors(self, like: Mapping[str, Tensor]) -> None:
        """Refuse a file whose tensors differ from `like` in names, shapes or kinds of dtypes; reads none of them.

        Raises:
            CheckpointError: They differ.
        """
        wrong = sorted(self.shapes.keys() ^ like.keys()) or [
            name
            for name, tensor in like.items()
            if self.shapes[name] != tensor.shape or self._dtypes[name] not in _dtypes_for(tensor)
        ]
        if wrong:
            raise CheckpointError(
                f"{self.path}: the tensors do not fit its own configuration; missing, unexpected or of another shape "
                f"or dtype: {', '.join(wrong[:6])}."
            )

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, on the CPU."""
        return {name: self._file.get_tensor(name) for name in self.shapes}


def _dtypes_for(tensor: Tensor) -> tuple[str, ...]:
    """What a tensor may be in a file, by safetensors' names."""
    return FLOATS if tensor.is_floating_point() else (OTHERS[tensor.dtype],)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of a configuration")


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a checkpoint as `write_file` does.

    Args:
        path: Where to; its folder must exist.
        tensors: By name.
        config: Plain data; `format_version` is added.

    Raises:
        OSError: The file cannot be written there, see `check_file`.
        ValueError: The configuration takes more than `MAX_HEADER`, or is no plain data.
    """
    header = {_KEY: json.dumps({"format_version": FORMAT_VERSION, **config}, allow_nan=False)}
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata=header)
    if (length := int.from_bytes(data[:8], "little")) > MAX_HEADER:
        raise ValueError(f"{path}: a header takes at most {MAX_HEADER} bytes, got {length}. Shorten the fields' names.")
    write_file(path, data)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write atomically: the file at `path` is the old one or the new one, whole, whenever the run is killed.

    A file that is there keeps its mode; a link stays, and what it points to is replaced.

    Raises:
        OSError: The file cannot be written there, see `check_file`.
    """
    check_file(path)
    path = Path(os.path.realpath(as_path(path, "path")))
    _remove_left(path)
    file, temporary = _temporary(path)
    try:
        with file:
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":
                file.close()  # open files are not renamed there; elsewhere it is held until it has its name
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> tuple[IO[bytes], Path]:
    """A new file beside `path`, held by this process; its mode follows the umask."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        _lock(file, wait=True)
        if temporary.exists():  # else another save took it for one that was left, before it was held
            return file, temporary
        file.close()


def _lock(file: IO[bytes], wait: bool = False) -> bool:
    """Hold a file while it is open. False where another process does, or where files cannot be held."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove_left(path: Path) -> None:
    """Remove what killed saves left beside `path`: files that no living process holds."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError), left.open("rb") as file:
            if _lock(file):
                left.unlink()


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what no file can be written to.

    Raises:
        FileNotFoundError: There is no such folder.
        IsADirectoryError: It is a folder itself.
        PermissionError: The folder cannot be written to.
    """
    given, path = path, as_path(path, "A file to write")
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir() or os.fsdecode(given).endswith(("/", os.sep)):
        raise IsADirectoryError(f"{path} is a folder; expected a file.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}. Make it first, or write elsewhere.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: the folder {folder} cannot be written to.")


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `write_checkpoint` wrote.

    Returns:
        Tensors on the CPU, and the configuration.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is cut short, a pickle, of another kind or of another version.
    """
    file = CheckpointFile(path)
    return file.tensors(), file.config


def _train_again(path: Path, config: Mapping[str, Any]) -> str:
    """How to make a world of an older version anew."""
    signature = config.get("signature")
    env_id = signature.get("env_id") if isinstance(signature, dict) else None
    if not isinstance(env_id, str) or ":" in env_id:  # which would import a module that the file names
        return "Train it again with WorldModel.finetune() on the data that it was made from."
    return f"Train it again: wm-vec train --env {shlex.quote(env_id)} --out {shlex.quote(str(path))} --overwrite"
