"""The TorchRL face: batched environments with TensorDicts in and out."""

from wm_vec.envs.torchrl.env import TorchRLEnv
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv

__all__ = ["StatelessTorchRLEnv", "TorchRLEnv"]
