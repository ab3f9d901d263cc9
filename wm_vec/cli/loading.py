"""What commands are given by name: worlds, policies, devices, environments."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import torch
from torchrl.record.loggers import Logger, get_logger

from wm_vec.canvas import EnvSignature, SchemaError
from wm_vec.cli.arguments import CommandError
from wm_vec.envs.registration import BUNDLED
from wm_vec.train.collect import Policy
from wm_vec.world_model import WorldModel


def load_world(name: str, device: torch.device) -> WorldModel:
    """A world from a file, or a bundled one by its name."""
    if Path(name).is_file():
        return WorldModel.load(name, device=device)
    bundled = name.removeprefix("wm_vec/")
    if bundled in BUNDLED:
        return WorldModel.bundled(bundled, device=device)
    what = "is a folder" if Path(name).is_dir() else "there is no such file"
    raise CommandError(
        f"{name}: {what}; expected a file that 'wm-vec train' wrote, or a bundled world ({', '.join(BUNDLED)})."
    )


def load_policy(name: str) -> Policy:
    """A policy as ``module:function``, also from the current folder, or ``path/to/file.py:function``.

    It takes a batch of observations and gives a batch of actions; a torch module gets float32 tensors, any
    other callable NumPy arrays.
    """
    module_name, _, attribute = name.rpartition(":")
    if not (module_name and attribute):
        raise CommandError(f"--policy {name}: expected module:function or file.py:function, e.g. my_policies:balance.")
    try:
        found = attrgetter(attribute)(_module(name, module_name))
    except AttributeError as error:
        raise CommandError(f"--policy {name}: {module_name} has no {attribute!r}.") from error
    if not callable(found):
        raise CommandError(f"--policy {name}: expected something callable, got {type(found).__name__}.")
    return found


def _module(name: str, module_name: str) -> Any:
    """The module of the policy `name`; a file's path runs that file."""
    if module_name.endswith(".py"):
        if not Path(module_name).is_file():
            raise CommandError(f"--policy {name}: there is no file {module_name}.")
        return SimpleNamespace(**run_path(module_name))
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise
        raise CommandError(
            f"--policy {name}: there is no module {module_name!r} here or among the installed ones."
        ) from error


def load_logger(kind: str | None, folder: str, name: str) -> Logger | None:
    """TorchRL's logger of that kind, whose files are under ``folder/name``; None for None."""
    try:
        return get_logger(kind, folder, name)
    except Exception as error:  # whatever a service that is not ours may raise
        raise CommandError(f"--logger {kind}: {error}. It needs the package: pip install {kind}.") from error


def load_device(name: str) -> torch.device:
    """A device that this machine has."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"--device {name}: this machine cannot use it ({reason}).") from error
    return device


def load_signature(env_id: str, env_kwargs: Mapping[str, Any]) -> EnvSignature:
    """The spaces of a real environment, which is made once to see that it can be."""
    try:
        return EnvSignature.of_env(env_id, env_kwargs)
    except SchemaError:
        raise
    except Exception as error:  # whatever a constructor that is not ours may raise
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise CommandError(
            f"--env {env_id}: cannot make it ({reason}). Give a registered Gymnasium "
            "id such as CartPole-v1, or package:Name-v0 for one that its package registers."
        ) from error
