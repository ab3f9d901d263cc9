"""The faces: one public API each over the engine. Imported on first use, so that registering costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wm_vec.envs.checker import CheckError, check_vector_env
    from wm_vec.envs.factory import make_world_model_env
    from wm_vec.envs.multi_vector import MultiAgentTensorDictEnv, MultiAgentVectorEnv
    from wm_vec.envs.parallel import WorldModelParallelEnv as WorldModelParallelEnv
    from wm_vec.envs.pessimism import PessimisticReward, PessimisticVectorReward
    from wm_vec.envs.sb3 import SB3VecEnv as SB3VecEnv
    from wm_vec.envs.scalar import WorldModelEnv
    from wm_vec.envs.torchrl import (
        ImaginationCollector,
        MultiAgentTorchRLEnv,
        StatelessTorchRLEnv,
        TorchRLEnv,
        TransformedEnv,
    )
    from wm_vec.envs.vector import WorldModelVectorEnv

_HOME = {
    "CheckError": "checker",
    "ImaginationCollector": "torchrl",
    "MultiAgentTensorDictEnv": "multi_vector",
    "MultiAgentTorchRLEnv": "torchrl",
    "MultiAgentVectorEnv": "multi_vector",
    "PessimisticReward": "pessimism",
    "PessimisticVectorReward": "pessimism",
    "SB3VecEnv": "sb3",
    "StatelessTorchRLEnv": "torchrl",
    "TorchRLEnv": "torchrl",
    "TransformedEnv": "torchrl",
    "WorldModelEnv": "scalar",
    "WorldModelParallelEnv": "parallel",
    "WorldModelVectorEnv": "vector",
    "check_vector_env": "checker",
    "make_world_model_env": "factory",
}

# Without what cannot be imported where Stable-Baselines3 or PettingZoo is not installed.
__all__ = [name for name in _HOME if name not in ("SB3VecEnv", "WorldModelParallelEnv")]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wm_vec.envs.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wm_vec.envs' has no attribute {name!r}")
