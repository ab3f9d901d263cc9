"""The TorchRL face: batched environments with TensorDicts in and out."""

from wm_vec.envs.torchrl.collector import ImaginationCollector
from wm_vec.envs.torchrl.env import TorchRLEnv
from wm_vec.envs.torchrl.gym_wrapper import ForGymWrapper
from wm_vec.envs.torchrl.multi import MultiAgentTorchRLEnv
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv
from wm_vec.envs.torchrl.transformed import TransformedEnv

__all__ = [
    "ForGymWrapper",
    "ImaginationCollector",
    "MultiAgentTorchRLEnv",
    "StatelessTorchRLEnv",
    "TorchRLEnv",
    "TransformedEnv",
]
