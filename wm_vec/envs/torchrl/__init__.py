"""The TorchRL face: batched environments with TensorDicts in and out."""

from wm_vec.envs.torchrl.env import TorchRLEnv
from wm_vec.envs.torchrl.transformed import TransformedEnv

__all__ = ["TorchRLEnv", "TransformedEnv"]
