"""Training data of a world: pairs of canvas states."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import MultiBinary
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.canvas import BoundSchema, EnvSignature
from wm_vec.canvas.signature import REWARD, TERMINATED, position_names
from wm_vec.compat import tree_leaves, tree_map
from wm_vec.core.trees import Tree, as_entry, is_nested, observation_in, observation_keys
from wm_vec.plain import check_type, real_number, seed_number
from wm_vec.spaces import Path, classes_of, dotted, map_leaves, read_one_hot

HELD_OUT_FRACTION = 0.1
TRAJECTORY, PADDING_MASK = ("collector", "traj_ids"), ("collector", "mask")
"""Where TorchRL's collectors write to which episode a step belongs, and which steps are no padding."""
ROUNDING = 1e-6
"""What lies no further beyond a bound, relative to the bound where that is above 1, is clipped; more is refused."""
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
        tick: ``(M,)`` int64, canvas ticks before the step, which periods count from; 0 where there are no periods.
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
        """Training and held-out steps: whole episodes, or where few hold most steps or some fields, the end of each."""
        fraction, seed = real_number(fraction, "fraction", 0.0, 1.0), seed_number(seed, "seed")
        episodes = self.episode.unique()
        shuffled = episodes[torch.randperm(len(episodes), generator=torch.Generator().manual_seed(seed))]
        held_out = torch.isin(self.episode, shuffled[: max(1, round(fraction * len(episodes)))])
        lost = self.next_known[held_out].any(0) & ~self.next_known[~held_out].any(0)
        if bool(lost.any()) or int(held_out.sum()) > len(self) / 2:
            held_out = self._late(fraction)
        if bool(held_out.all()) or not bool(held_out.any()):
            raise DataError(f"There are {len(self)} steps; at least 2 are needed to train and to hold out.")
        return self[~held_out], self[held_out]

    def _late(self, fraction: float) -> Tensor:
        """``(M,)`` bool, the last steps of each episode that has several."""
        order = self.episode.argsort(stable=True)
        _, lengths = self.episode[order].unique_consecutive(return_counts=True)
        kept = lengths - (fraction * lengths).round().long().clamp(min=1) * (lengths > 1)
        place = torch.arange(len(order)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        late = torch.empty(len(order), dtype=torch.bool)
        late[order] = place >= kept.repeat_interleave(lengths)
        return late

    def join(self, *others: WorldData) -> WorldData:
        """All together; episodes stay apart."""
        parts = [self]
        for part in others:
            parts.append(replace(part, episode=part.episode + parts[-1].episode.max() + 1))
        return WorldData(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(self)})

    def within(self, bound: BoundSchema) -> WorldData:
        """The same steps, with what rounding put beyond the bounds of its field clipped.

        Raises:
            DataError: A known value that is not finite, no class of its field, or beyond its bounds by more than
                `ROUNDING`.
        """
        low, high, classes = limits(bound)
        clipped = {}
        for name, known in (
            ("values", self.known),
            ("next_values", self.next_known),
            ("starts", self.starts_known),
        ):
            table = getattr(self, name)
            nearest, wrong = nearest_values(table, bound)
            wrong &= known
            if bool(wrong.any()):
                row, at = wrong.nonzero()[0].tolist()
                names = position_names({field.path: field.spec for field in bound.bound_fields()})
                kind = "whole" if bool(classes[at]) else "finite"
                raise DataError(
                    f"The data's {name}: {names[at]!r} is {table[row, at].item():.9g} in row {row}; it takes {kind} "
                    f"numbers from {low[at].item():.9g} to {high[at].item():.9g}. Leave out or clip what is beyond, or "
                    "make the world with wider bounds."
                )
            clipped[name] = torch.where(known, nearest, table)
        return replace(self, **clipped)

    def fingerprint(self) -> str:
        """A hash of all values: a run resumes on the data it began with, or not at all."""
        digest = hashlib.sha256()
        for f in fields(self):
            digest.update(getattr(self, f.name).cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def limits(bound: BoundSchema) -> tuple[Tensor, Tensor, Tensor]:
    """Of each position ``(N,)``: the lower and the upper bound, and whether it takes classes."""
    specs = [field.spec for field in bound.bound_fields()]
    low, high = (torch.tensor([number for spec in specs for number in spec.span()[end]]) for end in (0, 1))
    return low, high, torch.tensor([spec.num_classes is not None for spec in specs for _ in range(spec.num_positions)])


def nearest_values(table: Tensor, bound: BoundSchema) -> tuple[Tensor, Tensor]:
    """Values ``(M, N)`` clipped to what their fields take, and which of them are further off than `ROUNDING`.

    NaN and infinities are.
    """
    low, high, classes = (column.to(table.device) for column in limits(bound))
    nearest = torch.where(classes, table.round(), table).clamp(low, high)
    slack = torch.where(classes, 0.0, ROUNDING * nearest.abs().clamp(min=1.0))
    return nearest, ~((table - nearest).abs() <= slack)


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
        DataError: A missing key, an empty batch, shapes that do not fit the spaces, or values that are not in them.
    """
    check_type(transitions, TensorDictBase, "The transitions")
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
    try:
        flat = transitions.reshape(-1).detach().cpu()
    except NotImplementedError as error:
        raise DataError(f"The transitions hold no data: {error}") from error
    begins = torch.arange(flat.shape[0]) % (transitions.shape[-1] if transitions.batch_dims else 1) == 0
    if PADDING_MASK in found:
        real = _column(flat, PADDING_MASK).bool()
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
    next_values[:, reward] = _column(flat, ("next", "reward"))[:, None].float()
    next_values[:, terminated] = _column(flat, ("next", "terminated"))[:, None].float()
    is_init, episode = _episodes(flat, begins, (values[1:, observation] == next_values[:-1, observation]).all(1))
    known = torch.zeros_like(values, dtype=torch.bool)
    known[:, observation] = True
    starts_known = known[is_init]
    starts = torch.where(starts_known, values[is_init], 0.0)
    known[:, action] = True
    tick, next_known = torch.zeros(steps, dtype=torch.int64), torch.ones_like(known)
    data = WorldData(values, next_values, known, next_known, tick, episode, starts, starts_known)
    return data.within(bound)


def blind_spots(data: WorldData, bound: BoundSchema, signature: EnvSignature) -> list[str]:
    """Warnings about what steps of an environment cannot teach: hardly an end, or the same in all of them."""
    ends = _few_ends(data, bound)
    found = [ends] if ends else []
    still = (data.next_values == data.next_values[:1]).all(0)
    for what, parts, follows in (
        ("observation", signature.observation_fields, "the imagined world keeps them so"),
        ("action", signature.action_fields, "what others do cannot be learned; collect with a policy that varies them"),
    ):
        names, same = position_names(parts), still[bound.indices(parts)]
        single = [field.num_classes == 1 for field in parts.values() for _ in range(field.num_positions)]
        same &= ~torch.tensor(single)  # what has one class only cannot vary
        if bool(same.any()):
            first = [name for name, it in zip(names, same, strict=True) if it][:4]
            more = ", ..." if int(same.sum()) > 4 else ""
            listed = f"{int(same.sum())} of {len(names)} numbers ({', '.join(first)}{more})"
            found.append(f"{listed} of the {what} are the same in all transitions: {follows}.")
    (reward,) = bound.indices([REWARD])
    paid = data.next_values[0, reward].item()
    # A steady reward with ends to avoid or to reach, as CartPole-v1 has, is worth learning.
    if bool(still[reward]) and (paid == 0.0 or bool(still[bound.indices([TERMINATED])].all())):
        found.append(f"every transition is paid {paid:g}: the imagined world will pay that whatever is done.")
    return found


def _few_ends(data: WorldData, bound: BoundSchema) -> str | None:
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
            ended |= _column(flat, ("next", name)).bool()
    after_end = begins.clone()
    after_end[1:] |= ended[:-1]
    torn = ~follows & ~after_end[1:]
    cut = after_end.clone()
    cut[1:] |= torn
    is_init = torch.zeros(steps, dtype=torch.bool)
    if "is_init" in keys:
        is_init = _column(flat, "is_init").bool()
    elif "step_count" in keys:
        is_init = _column(flat, "step_count") == 0
    if not bool(is_init.any()):
        # Where most steps lead somewhere else, they were shuffled: what comes after an end starts nothing.
        shuffled = 2 * int(torn.sum()) > int((~after_end[1:]).sum())
        is_init = torch.ones_like(is_init) if shuffled else after_end
    for key in ("episode", TRAJECTORY):
        if key in keys:
            return is_init, _column(flat, key).long()
    return is_init, (cut | is_init).cumsum(0)


def _column(flat: TensorDictBase, key: Any) -> Tensor:
    """``(M,)``, one number per step ``(M,)``."""
    column = flat[key]
    if not isinstance(column, Tensor) or column.numel() != flat.shape[0] or column.is_complex():
        got = f"shape {tuple(getattr(column, 'shape', ()))[1:]} of {getattr(column, 'dtype', type(column).__name__)}"
        raise DataError(f"The transitions' {key!r} must be one real number per step, got {got}.")
    return column.reshape(-1)


def as_array(name: str, given: Any, dtype: type | None = None) -> np.ndarray:
    """Numbers over time, in their own dtype unless another is given."""
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"got {array.dtype}")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            return array.astype(dtype or (float if array.dtype.kind == "O" else array.dtype), copy=False)
    except (TypeError, ValueError, RuntimeError) as error:  # the last from tensors
        raise DataError(f"{name!r} must be an array of real numbers over time: {error}.") from error


def data_from_minari(dataset: Any, bound: BoundSchema, signature: EnvSignature) -> WorldData:
    """The episodes of a Minari dataset (or of anything that iterates over such episodes), as canvas states."""
    parts = []
    for number, episode in enumerate(dataset):
        try:
            steps = _minari_episode(episode, type(dataset).__name__)
            if len(steps):
                parts.append(data_from_transitions(steps, bound, signature))
        except DataError as error:
            raise DataError(f"Episode {number}: {error}") from error
    if not parts:
        raise DataError("The dataset has no episodes.")
    return parts[0].join(*parts[1:])


def _minari_episode(episode: Any, source: str) -> TensorDict:
    """One episode in TorchRL's layout."""
    if not all(hasattr(episode, name) for name in ("observations", "actions", "rewards", "terminations")):
        raise DataError(
            f"The {source} gives no episode but a {type(episode).__name__}. Of TorchRL's collectors give what they "
            "yield: a TensorDict, a list of them, or a replay buffer."
        )
    if isinstance(episode.actions, (dict, tuple)):
        raise DataError(
            f"The actions have several parts (a {type(episode.actions).__name__}); a canvas takes one array of them. "
            "Flatten them first."
        )

    def read(name: str, given: Any) -> Tensor:
        return torch.as_tensor(as_array(name, given))

    action, reward, terminated = (read(name, getattr(episode, name)) for name in ("actions", "rewards", "terminations"))
    given = episode.observations
    parts = given if isinstance(given, (dict, tuple)) else as_array("observations", given)
    observations = tree_map(lambda part: read("observations", part), parts)
    length = len(action) if action.dim() else 0
    others = [("observations", part, length + 1) for part in tree_leaves(observations)]
    others += [("actions", action, length), ("rewards", reward, length), ("terminations", terminated, length)]
    for name, part, expected in others:
        if part.shape[:1] != (expected,):
            found = len(part) if part.dim() else "no"
            advice = " Record the last one, too, or cut the last action, reward and termination."
            raise DataError(
                f"It has {length} actions and {found} {name}; expected {expected}."
                + (advice if name == "observations" and found == length else "")
            )
    following = {
        "observation": as_entry(tree_map(lambda part: part[1:], observations)),
        "reward": reward,
        "terminated": terminated,
    }
    steps = {
        "observation": as_entry(tree_map(lambda part: part[:-1], observations)),
        "action": action,
        "is_init": torch.arange(length) == 0,
        "episode": torch.zeros(length, dtype=torch.int64),
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
    batch = part if isinstance(part, Tensor) else torch.as_tensor(as_array(name, part))
    size, classes = math.prod(leaf.shape or ()), classes_of(leaf)
    steps = batch.shape[0]
    if batch.is_complex():
        raise DataError(f"Each {name} must be real numbers ({leaf}), got {batch.dtype}.")
    if classes is not None and not isinstance(leaf, MultiBinary):
        counts = classes[0].ravel().tolist()
        if batch.dim() > 1 and size <= batch.shape[1:].numel() == sum(counts):  # (M, n), or (M, k, n) as GymEnv has it
            index, clear = read_one_hot(batch.flatten(1), counts)
            if bool(clear.all()):
                return index.double()
            if size < sum(counts):  # else they may be indices
                row = int(clear.logical_not().nonzero()[0])
                raise DataError(
                    f"The {name} in row {row} is {batch[row].tolist()}, no one-hot vector of {leaf}, which has one 1 "
                    "per class and 0 elsewhere. Of probabilities, draw a class first, or take their argmax."
                )
    if batch.numel() != steps * size:
        raise DataError(f"Each {name} must have {size} numbers ({leaf}), got shape {tuple(batch.shape[1:])}.")
    batch = batch.reshape(steps, size).double()
    if classes is None:
        if np.issubdtype(leaf.dtype, np.integer) and bool((fractional := batch != batch.round()).any()):
            row = int(fractional.any(1).nonzero()[0])
            raise DataError(f"The {name} in row {row} is {batch[row].tolist()}; {leaf} takes whole numbers.")
        return batch
    count, first = (torch.from_numpy(array.reshape(1, size)) for array in classes)
    index = batch - first
    bad = (index < 0) | (index >= count) | (index != index.floor())
    if bool(bad.any()):
        raise DataError(f"Each {name} must be a class index of {leaf}, got {batch[bad][0].item()}.")
    return index
