"""Data, training loop, checkpoints and evaluation against the real environment."""

from wm_vec.train.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from wm_vec.train.checks import DataReport, Finding, check_data
from wm_vec.train.collect import collect_transitions
from wm_vec.train.data import WorldData, data_from_minari, data_from_transitions
from wm_vec.train.loop import TrainConfig, TrainReport, train_model
from wm_vec.train.sources import data_from_sources
from wm_vec.train.transitions import load_transitions, save_transitions

__all__ = [
    "CheckpointError",
    "DataReport",
    "Finding",
    "TrainConfig",
    "TrainReport",
    "WorldData",
    "check_data",
    "collect_transitions",
    "data_from_minari",
    "data_from_sources",
    "data_from_transitions",
    "load_transitions",
    "read_checkpoint",
    "save_transitions",
    "train_model",
    "write_checkpoint",
]
