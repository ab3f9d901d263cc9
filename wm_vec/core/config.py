"""An engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict, get_args

import torch
from gymnasium.vector import AutoresetMode

from wm_vec.core.state import as_autoreset_mode
from wm_vec.plain import seed_number, truth, whole_number

Backend = Literal["auto", "torch", "triton"]
Capture = Literal["auto"] | bool


@dataclass(frozen=True)
class EngineConfig:
    """How an engine runs its envs, whatever their world.

    Attributes:
        max_episode_steps: Horizon: steps after which an episode is truncated; None for no limit.
        autoreset_mode: Gymnasium's, or its name: ``"same_step"``, ``"next_step"``, ``"disabled"``.
        seed: Seed of the first reset; None takes entropy from the operating system.
        bank_size: Initial states that are made where none are given, and that the bank has room for: a larger bank
            that is loaded later takes a new buffer.
        exact_rows: Run envs through the network in chunks of a fixed size, so that an env's bits do not depend on B.
        validate: Also check the values of actions, and warn of envs whose world broke down, which reads the host.
        backend: ``"torch"`` runs steps in torch, ``"triton"`` by kernels, ``"auto"`` by kernels on CUDA where the world
            has some.
        dtype: Of the network in kernels, bfloat16 or float32; None for bfloat16 on CUDA. States, noise and rewards are
            float32 in any case.
        capture: Whether steps and rollouts are replayed as CUDA graphs: ``"auto"`` where they can be; True raises where
            they cannot.
        copy: Whether what a step returns is its own. False hands out views of buffers that the next step may overwrite.
        mode: `autoreset_mode` as Gymnasium's enum; not given.

    Raises:
        ValueError: A number that must be whole and is not, or is out of its range; another backend or dtype.
    """

    max_episode_steps: int | None = None
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP
    seed: int | None = None
    bank_size: int = 1024
    exact_rows: bool = False
    validate: bool = False
    backend: Backend = "auto"
    dtype: torch.dtype | None = None
    capture: Capture = "auto"
    copy: bool = True

    mode: AutoresetMode = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", as_autoreset_mode(self.autoreset_mode))
        if self.capture != "auto":
            object.__setattr__(self, "capture", truth(self.capture, "capture"))
        for name in ("exact_rows", "validate", "copy"):
            object.__setattr__(self, name, truth(getattr(self, name), name))
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {self.backend!r}.")
        if self.dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32, torch.bfloat16 or None, got {self.dtype!r}.")
        if self.max_episode_steps is not None:
            object.__setattr__(self, "max_episode_steps", whole_number(self.max_episode_steps, "max_episode_steps"))
        if self.seed is not None:
            object.__setattr__(self, "seed", seed_number(self.seed, "seed"))
        object.__setattr__(self, "bank_size", whole_number(self.bank_size, "bank_size"))


class EngineKeywords(TypedDict, total=False):
    """The fields of `EngineConfig` as keywords of what makes environments."""

    max_episode_steps: int | None
    autoreset_mode: AutoresetMode | str
    seed: int | None
    bank_size: int
    exact_rows: bool
    validate: bool
    backend: Backend
    dtype: torch.dtype | None
    capture: Capture
    copy: bool
