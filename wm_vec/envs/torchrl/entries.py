"""What an engine gives and takes, as the entries of TensorDicts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.core import EnvState, StepResult
from wm_vec.core.trees import Tree

OBSERVATION = "observation"
DONE_KEYS = ("done", "terminated", "truncated")
STATE_KEY = "world_state"
"""Where a TensorDict carries the state of the world, an `EnvState`."""


def observation_entries(observation: Tree) -> dict[str, Any]:
    """An observation as the entries of a TensorDict, as `observation_specs` names them."""
    return {OBSERVATION: observation} if isinstance(observation, Tensor) else dict(observation)


def start_entries(observation: Tree, num_envs: int, device: torch.device) -> dict[str, Any]:
    """What B envs show when nothing has ended: the observation, and flags that are down."""
    flags = {key: torch.zeros(num_envs, 1, dtype=torch.bool, device=device) for key in DONE_KEYS}
    return {**observation_entries(observation), **flags}


def step_entries(result: StepResult) -> dict[str, Any]:
    """What a step without autoreset gives, reward and flags ``(B, 1)``."""
    entries = observation_entries(result.final_observation)
    entries["reward"] = result.reward.unsqueeze(1)
    entries["done"] = result.finished.unsqueeze(1)
    entries["terminated"] = result.terminated.unsqueeze(1)
    entries["truncated"] = result.truncated.unsqueeze(1)
    return entries


def read_state(tensordict: TensorDictBase, where: str) -> EnvState:
    """The state that a TensorDict carries, with the same batch size.

    Raises:
        KeyError: It carries none.
        ValueError: What it carries is no state, or that of another number of envs.
    """
    state = tensordict.get(STATE_KEY, None)
    if state is None:
        raise KeyError(
            f"{where} needs {STATE_KEY!r} in the TensorDict, which has {sorted(map(str, tensordict.keys()))}. It comes "
            "from a reset of a StatelessTorchRLEnv or of a TorchRLEnv with expose_state=True, or from "
            f"TensorDict({{{STATE_KEY!r}: engine.state()}}, batch_size=[B])."
        )
    wanted = set(EnvState.__annotations__)
    if not isinstance(state, (TensorDictBase, EnvState)) or set(state.keys()) != wanted:
        got = sorted(state.keys()) if isinstance(state, TensorDictBase) else type(state).__name__
        raise ValueError(f"{where}: {STATE_KEY!r} must be an EnvState's TensorDict with {sorted(wanted)}, got {got}.")
    if state.batch_size != tensordict.batch_size:
        raise ValueError(
            f"{where}: {STATE_KEY!r} is of {tuple(state.batch_size)} envs in a TensorDict of "
            f"{tuple(tensordict.batch_size)}; give both the same batch size."
        )
    return state if isinstance(state, EnvState) else EnvState.from_tensordict(state)


def class_indices(action: Tensor, space: gym.Space) -> Tensor:
    """One-hot actions ``(B, n)`` as class indices ``(B,)``, or ``(B, k)`` of a MultiDiscrete space."""
    if isinstance(space, spaces.MultiDiscrete):
        parts = action.split([int(n) for n in space.nvec], -1)
        return torch.stack([part.to(torch.int8).argmax(-1) for part in parts], -1)
    return action.to(torch.int8).argmax(-1)


def one_hot_actions(action: Tensor, space: gym.Space) -> Tensor:
    """The inverse of `class_indices`."""
    sizes = [int(n) for n in space.nvec] if isinstance(space, spaces.MultiDiscrete) else [int(space.n)]  # type: ignore[attr-defined]
    columns = action.reshape(action.shape[0], len(sizes)).unbind(1)
    hot = [torch.nn.functional.one_hot(column, n) for column, n in zip(columns, sizes, strict=True)]
    return torch.cat(hot, -1).bool()
