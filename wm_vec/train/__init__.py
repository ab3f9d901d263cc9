"""Data, training loop, checkpoints and evaluation against the real environment."""

from wm_vec.train.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from wm_vec.train.collect import collect_transitions
from wm_vec.train.data import WorldData, data_from_mapping, data_from_minari, data_from_transitions
from wm_vec.train.loop import TrainConfig, TrainReport, train_model

__all__ = [
    "CheckpointError",
    "TrainConfig",
    "TrainReport",
    "WorldData",
    "collect_transitions",
    "data_from_mapping",
    "data_from_minari",
    "data_from_transitions",
    "read_checkpoint",
    "train_model",
    "write_checkpoint",
]
