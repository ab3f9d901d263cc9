"""The state of all envs as plain tensors, and its way in and out of TensorDicts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tensordict import MemoryMappedTensor, TensorDict, TensorDictBase
from torch import Tensor

from wm_kernels.dispatch import is_plain_host_tensor
from wm_vec.core.state import EnvState

ONE_BY_ONE = 8
"""Up to so many rows NumPy reads and writes faster one by one."""


class Rows(NamedTuple):
    """`EnvState` as plain tensors, for the hot path: `leaves` are the dynamics' state, then the reward states."""

    leaves: list[Tensor]
    elapsed: Tensor
    episode: Tensor
    seed: Tensor
    returns: Tensor
    pending: Tensor

    def pick(self, index: Tensor) -> Rows:
        """Rows ``index[0], index[1], ...``."""
        return Rows([leaf[index] for leaf in self.leaves], *(tensor[index] for tensor in self[1:]))

    def with_own_objects(self) -> Rows:
        """The same with copies of the leaves that are no plain tensors: stepping may write into what they stand for."""
        return self._replace(leaves=[leaf if type(leaf) is Tensor else leaf.clone() for leaf in self.leaves])

    def detached(self) -> Rows:
        """The same without a graph."""
        return self._replace(leaves=[leaf.detach() for leaf in self.leaves], returns=self.returns.detach())

    def where(self, mask: Tensor, other: Rows) -> Rows:
        """These rows where `mask` ``(B,)`` says, the other's elsewhere."""

        def select(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *(1,) * (b.dim() - 1)), a, b)

        leaves = [select(a, b) for a, b in zip(self.leaves, other.leaves, strict=True)]
        return Rows(leaves, *(select(a, b) for a, b in zip(self[1:], other[1:], strict=True)))


class RowLayout:
    """Which leaves a row has, in which order.

    Args:
        example: A state of the dynamics, any batch ``(M,)``.
        reward_states: One env's start value of each stateful reward function, by perspective.
        num_perspectives: P.
        reward_dtype: Of the sums of rewards.
        signature: What the dynamics is about; worlds with another refuse its states, whatever their keys and shapes.

    Attributes:
        world: The signature's digest.
    """

    def __init__(
        self,
        example: TensorDictBase,
        reward_states: dict[str, Tensor],
        num_perspectives: int,
        reward_dtype: torch.dtype,
        signature: str = "",
    ) -> None:
        self.world = int.from_bytes(hashlib.blake2b(signature.encode(), digest_size=8).digest(), "big", signed=True)
        self.keys: list[Any] = sorted(example.keys(True, True), key=str)
        self.stateful = list(reward_states)
        self.num_perspectives = num_perspectives
        whole = dict.fromkeys(("elapsed", "episode", "seed", "world"), torch.int64)
        self._dtypes = {**whole, "returns": reward_dtype, "pending": torch.bool}
        self._nested = any(isinstance(key, tuple) for key in self.keys)
        self.examples = [example.get(key)[:0].clone() for key in self.keys]
        self.floating = [k for k, e in zip(self.keys, self.examples, strict=True) if e.dtype.is_floating_point]
        self.examples += [start.expand(0, *start.shape) for start in reward_states.values()]

    def to_tensordict(self, leaves: Sequence[Tensor]) -> TensorDict:
        """The dynamics' state ``(B,)`` of a row's leaves; reward states among them are left out."""
        batch = leaves[0].shape[:1]
        if not self._nested:
            return TensorDict._new_unsafe(dict(zip(self.keys, leaves, strict=False)), batch_size=batch)
        state = TensorDict({}, batch_size=batch)
        for key, leaf in zip(self.keys, leaves, strict=False):
            state.set(key, leaf)
        return state

    def reward_states(self, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
        """What stateful reward functions carry, by perspective."""
        return dict(zip(self.stateful, leaves[len(self.keys) :], strict=True))

    def to_state(self, rows: Rows) -> EnvState:
        """Rows as the tensorclass that users hold."""
        batch = [rows.elapsed.shape[0]]
        return EnvState(
            dynamics=self.to_tensordict(rows.leaves),
            reward_state=TensorDict(self.reward_states(rows.leaves), batch_size=batch),
            elapsed=rows.elapsed,
            episode=rows.episode,
            seed=rows.seed,
            returns=rows.returns,
            pending=rows.pending,
            world=torch.full_like(rows.seed, self.world),
            batch_size=batch,
        )

    def to_rows(self, state: EnvState) -> Rows:
        """Inverse of `to_state`. In host memory it is looked at whether keys and shapes are another world's by chance.

        Raises:
            ValueError: The state of another world or engine, or on another device.
        """
        leaves = self.check(state.dynamics, "the state", state.reward_state)
        for name, dtype in self._dtypes.items():
            counter = getattr(state, name)
            shape = (*state.batch_size, self.num_perspectives) if name == "returns" else tuple(state.batch_size)
            if not isinstance(counter, Tensor) or counter.dtype is not dtype or counter.shape != shape:
                got = "none" if counter is None else f"{counter.dtype}, {tuple(counter.shape)}"
                raise ValueError(
                    f"the state belongs to another engine: its {name!r} must be {dtype} of shape {shape}, got {got}."
                )
        if self._is_of_another(state.world):
            raise ValueError(
                "the state belongs to another world: its keys and shapes are those of this one, but its fields or "
                "spaces are not. Go on from it in an environment of the world that it comes from."
            )
        return Rows(leaves, state.elapsed, state.episode, state.seed, state.returns, state.pending)

    def _is_of_another(self, world: Tensor) -> bool:
        """Whether another world's digest is among `world` ``(B,)``, as far as a look at host memory can tell.

        Rows of zeros are nobody's: padding.
        """
        readable = is_plain_host_tensor(world) or (type(world) is MemoryMappedTensor and world.is_cpu)
        return readable and bool(((world != self.world) & (world != 0)).any())

    def check(self, states: TensorDictBase, what: str, reward_states: TensorDictBase | None = None) -> list[Tensor]:
        """The leaves of `states`, if they are of this world.

        Raises:
            ValueError: Other keys, shapes or dtypes; with `reward_states` also another device.
        """
        keys = sorted(states.keys(True, True), key=str)
        carried = [] if reward_states is None else sorted(reward_states.keys())
        if keys != self.keys or (reward_states is not None and carried != sorted(self.stateful)):
            raise ValueError(
                f"{what} belongs to another world: it has {[*keys, *carried]}, this world's states have "
                f"{[*self.keys, *self.stateful]}."
            )
        leaves = [states.get(key) for key in keys]
        if reward_states is not None:
            leaves += [reward_states.get(name) for name in self.stateful]
        for key, leaf, start in zip([*keys, *self.stateful], leaves, self.examples, strict=False):
            if leaf.shape[1:] != start.shape[1:] or leaf.dtype != start.dtype:
                raise ValueError(
                    f"{what} belongs to another world: {key!r} must be {tuple(start.shape[1:])} per env, "
                    f"{start.dtype}; got {tuple(leaf.shape[1:])}, {leaf.dtype}."
                )
            if reward_states is not None and leaf.device != start.device:
                raise ValueError(f"{what} is on {leaf.device}, the environment on {start.device}. Move it with .to().")
        return leaves
