"""Every form of data that a world learns from."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torchrl.data import ReplayBuffer

from wm_vec.canvas import BoundSchema, EnvSignature, SchemaError
from wm_vec.train.data import DataError, WorldData, data_from_minari, data_from_transitions
from wm_vec.train.sources import data_from_sources, is_source, is_sources


def as_world_data(data: Any, bound: BoundSchema, signature: EnvSignature | None, ticks_per_step: int) -> WorldData:
    """Any form of data that `WorldModel.finetune` takes, as canvas states.

    Args:
        data: See there.
        bound: The world's schema.
        signature: How an environment's spaces lie on it; None for a world that comes from no environment.
        ticks_per_step: Ticks of the fields' periods that a step lasts.

    Raises:
        DataError: It does not fit the world.
        SchemaError: Transitions for a world that comes from no environment.
        TypeError: No data.
    """
    if isinstance(data, WorldData):
        if data.values.shape[1] != (positions := bound.layout.num_positions):
            raise DataError(f"The data are of a world of {data.values.shape[1]} positions, this one has {positions}.")
        return data.within(bound)
    if isinstance(data, TensorDictBase):
        return data_from_transitions(data, bound, _known(signature, "transitions"))
    if is_source(data) or is_sources(data):
        return data_from_sources(data, bound, ticks_per_step)
    if isinstance(data, ReplayBuffer):
        if len(data) == 0:
            raise DataError("The replay buffer is empty.")
        return as_world_data(data[:], bound, signature, ticks_per_step)
    if isinstance(data, (list, tuple)) and data and all(isinstance(part, TensorDictBase) for part in data):
        first, *others = (as_world_data(part, bound, signature, ticks_per_step) for part in data)
        return first.join(*others)
    if hasattr(data, "__iter__"):
        return data_from_minari(data, bound, _known(signature, f"a {type(data).__name__}"))
    raise TypeError(
        f"finetune: cannot learn from a {type(data).__name__}; give a TensorDict of transitions, a Minari dataset, a "
        "mapping of field path -> series, a DataFrame, or a list of these."
    )


def _known(signature: EnvSignature | None, what: str) -> EnvSignature:
    if signature is None:
        raise SchemaError(
            f"This world comes from a schema, not from an environment, so it cannot learn from {what}. "
            "Give a mapping of field path -> series, a DataFrame, a path of a Parquet file, or a list of these; or "
            "make the world with WorldModel.from_env()."
        )
    return signature
