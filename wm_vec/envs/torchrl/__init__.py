"""The TorchRL face: batched environments with TensorDicts in and out."""

from wm_vec.envs.torchrl.env import TorchRLEnv

__all__ = ["TorchRLEnv"]
