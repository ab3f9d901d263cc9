"""Train agents inside a learned world: thousands of imagined rollouts at a time, as tensors.

Importing it registers the bundled worlds with Gymnasium, and nothing more: names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wm_vec.envs.registration import register_worlds

if TYPE_CHECKING:
    from wm_vec.adapters import AdapterError
    from wm_vec.agents import AgentSpec
    from wm_vec.canvas import BoundSchema, Field, compile_schema
    from wm_vec.core import AutoresetMode, Engine, EnvState, batched, captured, spawn_seeds
    from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv, check_vector_env
    from wm_vec.factory import make_env
    from wm_vec.general import GeneralUnifiedWorldModel
    from wm_vec.model import ModelConfig
    from wm_vec.train import TrainConfig, check_data, collect_transitions
    from wm_vec.world_model import WorldModel

__version__ = "0.1.0"

_HOME = {
    "AdapterError": "adapters",
    "AgentSpec": "agents",
    "AutoresetMode": "core",
    "BoundSchema": "canvas",
    "Engine": "core",
    "EnvState": "core",
    "Field": "canvas",
    "GeneralUnifiedWorldModel": "general",
    "ModelConfig": "model",
    "TrainConfig": "train",
    "WorldModel": "world_model",
    "WorldModelEnv": "envs",
    "WorldModelVectorEnv": "envs",
    "batched": "core",
    "captured": "core",
    "check_data": "train",
    "check_vector_env": "envs",
    "collect_transitions": "train",
    "compile_schema": "canvas",
    "make_env": "factory",
    "spawn_seeds": "core",
}

__all__ = [*_HOME]

register_worlds()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wm_vec.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wm_vec' has no attribute {name!r}")
