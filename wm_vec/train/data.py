"""Training data of a world: pairs of canvas states."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import MultiBinary
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.canvas import BoundSchema, EnvSignature
from wm_vec.canvas.signature import REWARD, TERMINATED
from wm_vec.compat import tree_leaves, tree_map
from wm_vec.core.trees import Tree, as_entry, is_nested, observation_in, observation_keys
from wm_vec.spaces import Path, classes_of, dotted, map_leaves

HELD_OUT_FRACTION = 0.1
TRAJECTORY, PADDING_MASK = ("collector", "traj_ids"), ("collector", "mask")
"""Where TorchRL's collectors write to which episode a step belongs, and which steps are no padding."""
FEW_ENDS = 20
"""Terminal steps below which a world hardly learns when episodes end."""


class DataError(ValueError):
    """Data that does not fit the world."""


@dataclass
class WorldData:
    """M steps of a world with N positions, and S starts of episodes.

    Values are float32 in the fields' own units, class indices as whole numbers, and 0 where nothing is known.

    Attributes:
        values: ``(M, N)``, before the step, the action written.
        next_values: ``(M, N)``, after it.
        known: ``(M, N)`` bool, what of `values` was observed.
        next_known: ``(M, N)`` bool, what of `next_values` was observed.
        tick: ``(M,)`` int64, steps since the start of the recording, which periods count from.
        episode: ``(M,)`` int64, which episode a step belongs to; held-out data are whole episodes.
        starts: ``(S, N)``, states at the start of episodes; of a recording without episodes, all of its states.
        starts_known: ``(S, N)`` bool.
    """

    values: Tensor
    next_values: Tensor
    known: Tensor
    next_known: Tensor
    tick: Tensor
    episode: Tensor
    starts: Tensor
    starts_known: Tensor

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, index: Tensor) -> WorldData:
        """Some of the steps, all of the starts."""
        steps = {f.name: getattr(self, f.name)[index] for f in fields(self) if not f.name.startswith("starts")}
        return WorldData(**steps, starts=self.starts, starts_known=self.starts_known)

    def to(self, device: torch.device | str) -> WorldData:
        """A copy on another device."""
        return WorldData(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def split(self, fraction: float = HELD_OUT_FRACTION, seed: int = 0) -> tuple[WorldData, WorldData]:
        """Training and held-out steps: whole episodes, or the end of the recording where there is only one."""
        episodes = self.episode.unique()
        if len(episodes) > 1:
            shuffled = episodes[torch.randperm(len(episodes), generator=torch.Generator().manual_seed(seed))]
            held_out = torch.isin(self.episode, shuffled[: max(1, round(fraction * len(episodes)))])
        else:
            held_out = torch.arange(len(self)) >= len(self) - max(1, round(fraction * len(self)))
        if bool(held_out.all()):
            raise DataError(f"There are {len(self)} steps; at least 2 are needed to train and to hold out.")
        return self[~held_out], self[held_out]

    def join(self, other: WorldData) -> WorldData:
        """Both together; episodes stay apart."""
        shifted = other.episode + self.episode.max() + 1
        joined = {f.name: torch.cat((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)}
        joined["episode"] = torch.cat((self.episode, shifted))
        return WorldData(**joined)

    def fingerprint(self) -> str:
        """A hash of all values: a run resumes on the data it began with, or not at all."""
        digest = hashlib.sha256()
        for f in fields(self):
            digest.update(getattr(self, f.name).cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def data_from_transitions(transitions: TensorDictBase, bound: BoundSchema, signature: EnvSignature) -> WorldData:
    """Steps of an environment, in TorchRL's layout, as canvas states.

    Args:
        transitions: ``observation``, ``action``, and under ``next`` ``observation``, ``reward``, ``terminated``, as
            TorchRL's collectors give them; of any batch shape whose last axis is time. Observations of several parts
            stand under ``("observation", key)``, or those of a Dict under its keys. Optionally ``is_init`` or
            ``step_count``, which mark where episodes start, ``episode`` or ``("collector", "traj_ids")``, which number
            them, and ``("collector", "mask")``, which marks steps that are no padding. What of these is missing
            is inferred from the ends of episodes and from steps that do not follow one another.
        bound: The world's schema.
        signature: How the environment's spaces lie on it.

    Raises:
        DataError: A missing key, an empty batch, shapes that do not fit the spaces, or values that are not finite.
    """
    found = set(transitions.keys(True))
    space, nested = signature.observation_space, is_nested(transitions, signature.observation_space)
    seen: list[Any] = observation_keys(space, nested)
    after = [("next", *((key,) if isinstance(key, str) else key)) for key in seen]
    missing = [k for k in (*seen, "action", *after, ("next", "reward"), ("next", "terminated")) if k not in found]
    if missing:
        there = sorted(map(str, transitions.keys(True, True)))
        raise DataError(f"The transitions lack {missing}; they have {there}.{_hint(missing, found)}")
    if transitions.batch_size.numel() == 0 or (PADDING_MASK in found and not bool(transitions[PADDING_MASK].any())):
        raise DataError("The transitions are empty.")
    flat = transitions.reshape(-1).detach().cpu()
    begins = torch.arange(flat.shape[0]) % (transitions.shape[-1] if transitions.batch_dims else 1) == 0
    if PADDING_MASK in found:
        real = flat[PADDING_MASK].reshape(-1).bool()
        flat, begins = flat[real], begins[real]
    steps = flat.shape[0]
    values = torch.zeros(steps, bound.layout.num_positions, dtype=torch.float32)
    next_values = torch.zeros_like(values)
    observation, action, reward, terminated = (
        bound.indices(paths)
        for paths in (signature.observation_fields, signature.action_fields, [REWARD], [TERMINATED])
    )
    values[:, observation] = flat_values(space, observation_in(flat, space, nested), "observation").float()
    values[:, action] = flat_values(signature.action_space, flat["action"], "action").float()
    next_values[:, action] = values[:, action]
    following = observation_in(flat["next"], space, nested)
    next_values[:, observation] = flat_values(space, following, "next observation").float()
    next_values[:, reward] = flat["next", "reward"].reshape(steps, 1).float()
    next_values[:, terminated] = flat["next", "terminated"].reshape(steps, 1).float()
    for name, table in (("current", values), ("next", next_values)):
        if not bool(torch.isfinite(table).all()):
            row = int((~torch.isfinite(table)).any(1).nonzero()[0])
            raise DataError(f"The transitions' {name} values are not finite at step {row}: {table[row].tolist()}.")
    is_init, episode = _episodes(flat, begins, (values[1:, observation] == next_values[:-1, observation]).all(1))
    known = torch.zeros_like(values, dtype=torch.bool)
    known[:, observation] = True
    starts_known = known[is_init]
    starts = torch.where(starts_known, values[is_init], 0.0)
    known[:, action] = True
    tick, next_known = torch.zeros(steps, dtype=torch.int64), torch.ones_like(known)
    return WorldData(values, next_values, known, next_known, tick, episode, starts, starts_known)


def few_ends(data: WorldData, bound: BoundSchema) -> str | None:
    """A warning about steps that hold too few ends of episodes, or None where there are enough."""
    steps, ends = len(data), int(data.next_values[:, bound[TERMINATED].indices()].sum())
    remedy = "collect with a policy that reaches ends, e.g. policy='sticky' (--policy sticky), or more transitions"
    if ends == 0:
        return (
            f"none of {steps:,} transitions ends an episode: the imagined world will never end by itself. That is "
            f"right for environments that only a time limit ends, like Pendulum-v1; for others {remedy}."
        )
    if ends < FEW_ENDS:
        return (
            f"only {ends} of {steps:,} transitions end an episode: the imagined world will hardly learn when episodes "
            f"end; {remedy}."
        )
    return None


def _hint(missing: list[Any], found: set[Any]) -> str:
    """How to supply what the transitions lack."""
    if "observation" in missing and "pixels" in found:
        return " A canvas takes no pixels: let the environment observe numbers, or encode the pixels to some."
    if "observation" in missing:
        return (
            " Observations under other keys are joined by TorchRL's CatTensors(in_keys=[...], "
            "out_key='observation'), and one is renamed by RenameTransform."
        )
    if ("next", "observation") in missing:
        return " A collector that leaves out the next observations (compact_obs) must be told to keep them."
    if missing == [("next", "terminated")] and ("next", "done") in found:
        return " Write whether an episode ended by itself, rather than by a time limit, under ('next', 'terminated')."
    return ""


def _episodes(flat: TensorDictBase, begins: Tensor, follows: Tensor) -> tuple[Tensor, Tensor]:
    """``(M,)`` bool, which steps start an episode, and ``(M,)`` int64, which episode each belongs to.

    Args:
        flat: Steps ``(M,)``.
        begins: ``(M,)`` bool, the first steps of its rows.
        follows: ``(M - 1,)`` bool, whether the observation that a step leads to is the next step's.
    """
    steps, keys = flat.shape[0], set(flat.keys(True))
    ended = torch.zeros(steps, dtype=torch.bool)
    for name in ("terminated", "truncated", "done"):
        if ("next", name) in keys:
            ended |= flat["next", name].reshape(steps).bool()
    after_end = begins.clone()
    after_end[1:] |= ended[:-1]
    torn = ~follows & ~after_end[1:]
    cut = after_end.clone()
    cut[1:] |= torn
    is_init = torch.zeros(steps, dtype=torch.bool)
    if "is_init" in keys:
        is_init = flat["is_init"].reshape(steps).bool()
    elif "step_count" in keys:
        is_init = flat["step_count"].reshape(steps) == 0
    if not bool(is_init.any()):
        # Where most steps lead somewhere else, they were shuffled: what comes after an end starts nothing.
        shuffled = 2 * int(torn.sum()) > int((~after_end[1:]).sum())
        is_init = torch.ones_like(is_init) if shuffled else after_end
    for key in ("episode", TRAJECTORY):
        if key in keys:
            return is_init, flat[key].reshape(steps)
    return is_init, (cut | is_init).cumsum(0)


def data_from_mapping(series: Mapping[str, Any], bound: BoundSchema) -> WorldData:
    """Arrays over time by field path, as canvas states.

    Args:
        series: Path -> ``(T,)``, ``(T, n)`` or ``(T, h, w)`` array, NaN where nothing was observed. Fields that are
            left out are unknown throughout.
        bound: The world's schema.

    Raises:
        UnknownFieldError: A path that the schema does not have.
        DataError: Lengths that differ, shapes that do not fit the fields, infinities, or fewer than two steps.
    """
    if not series:
        raise DataError("The mapping is empty: give at least one field path with its array over time.")
    arrays = {path: _as_array(path, array) for path, array in series.items()}
    lengths = {path: len(array) if array.ndim else 0 for path, array in arrays.items()}
    length = next(iter(lengths.values()))
    if len(set(lengths.values())) != 1 or length < 3:
        raise DataError(f"All arrays need one common length of at least 3 time steps, got {lengths}.")
    table = torch.full((length, bound.layout.num_positions), float("nan"), dtype=torch.float32)
    for path, array in arrays.items():
        field = bound[path]
        if array.size != length * field.num_positions:
            raise DataError(
                f"{path!r} has {field.num_positions} positions, so its array must hold {length} x "
                f"{field.num_positions} numbers, got shape {array.shape}."
            )
        column = torch.from_numpy(array.reshape(length, -1).copy())
        if bool(torch.isinf(column).any()):
            raise DataError(f"{path!r} holds infinities; write NaN where nothing was observed.")
        classes = field.spec.num_classes
        if classes is not None:
            seen = column[~column.isnan()]
            if bool(((seen < 0) | (seen >= classes) | (seen != seen.round())).any()):
                raise DataError(f"{path!r} is categorical: its values must be whole numbers from 0 to {classes - 1}.")
        table[:, field.indices()] = column
    known = ~table.isnan()
    table, tick = table.nan_to_num(), torch.arange(length - 1)
    return WorldData(table[:-1], table[1:], known[:-1], known[1:], tick, torch.zeros_like(tick), table, known)


def _as_array(path: str, array: Any) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            return np.asarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path!r} must be an array of numbers over time: {error}.") from error


def data_from_minari(dataset: Any, bound: BoundSchema, signature: EnvSignature) -> WorldData:
    """The episodes of a Minari dataset (or of anything that iterates over such episodes), as canvas states."""
    episodes = [_minari_episode(number, episode, type(dataset).__name__) for number, episode in enumerate(dataset)]
    if not episodes:
        raise DataError("The dataset has no episodes.")
    return data_from_transitions(torch.cat(episodes), bound, signature)


def _minari_episode(number: int, episode: Any, source: str) -> TensorDict:
    """One episode in TorchRL's layout."""
    if not hasattr(episode, "observations"):
        raise DataError(
            f"Element {number} of the {source} is no episode but a {type(episode).__name__}. Of TorchRL's collectors "
            "give what they yield: a TensorDict, a list of them, or a replay buffer."
        )
    if isinstance(episode.actions, (dict, tuple)):
        raise DataError(
            f"Episode {number} has actions of several parts (a {type(episode.actions).__name__}); a canvas takes one "
            "array of them. Flatten them first."
        )
    length, given = len(episode.actions), episode.observations
    parts = given if isinstance(given, (dict, tuple)) else np.asarray(given)
    observations = tree_map(lambda part: torch.as_tensor(np.asarray(part)), parts)
    for part in tree_leaves(observations):
        if len(part) != length + 1:
            raise DataError(
                f"Episode {number} has {length} actions and {len(part)} observations; expected {length + 1}."
            )
    following = {
        "observation": as_entry(tree_map(lambda part: part[1:], observations)),
        "reward": torch.as_tensor(np.asarray(episode.rewards, np.float32)),
        "terminated": torch.as_tensor(np.asarray(episode.terminations, bool)),
    }
    steps = {
        "observation": as_entry(tree_map(lambda part: part[:-1], observations)),
        "action": torch.as_tensor(np.asarray(episode.actions)),
        "is_init": torch.arange(length) == 0,
        "episode": torch.full((length,), number),
    }
    return TensorDict({**steps, "next": following}, batch_size=[length])


def flat_values(space: gym.Space, batch: Tree, name: str) -> Tensor:
    """A batch ``(M, ...)`` of a space's elements as ``(M, positions)`` float64, classes counted from 0.

    Args:
        space: The space.
        batch: Tensors or arrays in its structure; classes also as one-hot vectors, as TorchRL writes them.
        name: What they are, for the errors.

    Raises:
        DataError: Another shape, or no classes of the space.
    """
    columns: list[Tensor] = []

    def flatten(path: Path, leaf: gym.Space, part: Any) -> None:
        columns.append(_flatten(leaf, part, dotted(name, *path)))

    map_leaves(flatten, space, batch)
    return torch.cat(columns, 1)


def _flatten(leaf: gym.Space, part: Any, name: str) -> Tensor:
    if not isinstance(part, (Tensor, np.ndarray)):
        raise DataError(f"Each {name} must be one tensor ({leaf}), got a {type(part).__name__} of several.")
    batch, size, classes = torch.as_tensor(part), math.prod(leaf.shape or ()), classes_of(leaf)
    steps = batch.shape[0]
    if classes is not None and not isinstance(leaf, MultiBinary):
        counts = classes[0].ravel().tolist()
        if batch.dim() == 2 and size < batch.shape[1] == sum(counts):
            hot = batch.to(torch.int64).split(counts, 1)
            return torch.stack([one.argmax(1) for one in hot], 1).double()
    if batch.numel() != steps * size:
        raise DataError(f"Each {name} must have {size} numbers ({leaf}), got shape {tuple(batch.shape[1:])}.")
    batch = batch.reshape(steps, size).double()
    if classes is None:
        return batch
    count, first = (torch.from_numpy(array.reshape(1, size)) for array in classes)
    index = batch - first
    bad = (index < 0) | (index >= count) | (index != index.floor())
    if bool(bad.any()):
        raise DataError(f"Each {name} must be a class index of {leaf}, got {batch[bad][0].item()}.")
    return index
