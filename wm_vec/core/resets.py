"""Where episodes start: a bank of initial states, or the dynamics itself; and resets of any state."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_kernels import Draw
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.rng import STREAM_RESET, CounterRNG, fork_seeds, seed_list
from wm_vec.core.state import EnvState, StateLayout
from wm_vec.core.trees import select_envs
from wm_vec.plain import check_type
from wm_vec.torch_settings import without_autocast

if TYPE_CHECKING:
    from wm_vec.core.step import World

BANK_SEED = 0x5EED
"""Seed of the bank's own draws, the same for every number of envs."""


class InitialStates(NamedTuple):
    """Initial states for B envs.

    Attributes:
        leaves: Tensors ``(M, ...)``, in the order of `StateLayout`.
        draw: Which of them each env takes; None for the env's own of B.
        info: What the dynamics reports of the fresh episodes.
    """

    leaves: list[Tensor]
    draw: Draw | None
    info: Mapping[str, Any] = {}

    def per_env(self) -> list[Tensor]:
        """Each env's own initial state, ``(B, ...)``."""
        place = None if self.draw is None else self.draw.places()
        return self.leaves if place is None else [leaf[place] for leaf in self.leaves]


class ResetSource(Protocol):
    """Gives every env the initial state that its seed and episode number say."""

    def sample(self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None) -> InitialStates:
        """Initial states of B envs.

        Args:
            seed: ``(B,)`` int64.
            episode: ``(B,)`` int64, the number of the episode before the one that starts.
            options: What the caller handed to ``reset``; a bank has no use for them.
        """
        ...

    def copy(self) -> ResetSource:
        """One that shares no buffer with this one."""
        ...

    def addresses(self) -> Hashable:
        """Where its buffers lie."""
        ...


class Bank:
    """Episodes start from a bank of initial states, in a buffer of fixed capacity.

    What was captured or compiled over the buffer stays valid when other states are loaded: they are copied into it, and
    its size is a tensor.

    Args:
        leaves: The leaves of the initial states, ``(M, ...)`` each.
        capacity: States that the buffer has room for, if that is more than M.

    Attributes:
        buffer: The leaves, ``(capacity, ...)`` each; the first `size` states are drawn from.
        size: ``()`` int64 on the device.
    """

    def __init__(self, leaves: Sequence[Tensor], capacity: int) -> None:
        self._allocate(leaves, capacity)
        self.load(leaves)

    @property
    def capacity(self) -> int:
        """States that the buffer has room for."""
        return self.buffer[0].shape[0]

    def load(self, leaves: Sequence[Tensor]) -> None:
        """Start from other states ``(M, ...)``; more than there is room for take a new buffer."""
        if leaves[0].shape[0] > self.capacity:
            self._allocate(leaves, leaves[0].shape[0])
        for whole, leaf in zip(self.buffer, leaves, strict=True):
            whole[: leaf.shape[0]].copy_(leaf)
        self.size.fill_(leaves[0].shape[0])

    def addresses(self) -> Hashable:
        """Other ones where a larger bank took a new buffer."""
        return (*(leaf.data_ptr() for leaf in self.buffer), self.size.data_ptr())

    def copy(self) -> Bank:
        """A bank of its own buffer."""
        other = copy(self)
        other.buffer, other.size = [leaf.clone() for leaf in self.buffer], self.size.clone()
        return other

    def sample(self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None) -> InitialStates:
        """The bank, and the state that each env draws at its seed and episode; see `ResetSource`."""
        return InitialStates(self.buffer, Draw(seed, episode, self.size, STREAM_RESET))

    @torch.inference_mode(False)  # tensors that are made in it can only be written into in it
    def _allocate(self, leaves: Sequence[Tensor], capacity: int) -> None:
        size, device = max(capacity, leaves[0].shape[0]), leaves[0].device
        self.buffer = [leaf.new_zeros(size, *leaf.shape[1:]) for leaf in leaves]
        self.size = torch.zeros((), dtype=torch.int64, device=device)


class Fresh:
    """The dynamics makes every initial state anew, from the env's seed and episode number.

    Args:
        dynamics: One with `starts_fresh`.
        layout: The states' tensors.
    """

    def __init__(self, dynamics: Dynamics, layout: StateLayout) -> None:
        self.dynamics, self.layout = dynamics, layout

    def sample(self, seed: Tensor, episode: Tensor, options: Mapping[str, Any] | None = None) -> InitialStates:
        """A fresh state for each env; see `ResetSource`."""
        start = self.dynamics.start(CounterRNG(seed, episode + 1, torch.zeros_like(episode)), options)
        leaves = self.layout.check_leaves(start.state, "reset: the dynamics' start")
        return InitialStates(self.layout.initial_leaves(leaves), None, start.info)

    def addresses(self) -> Hashable:
        """None."""
        return None

    def copy(self) -> Fresh:
        """Itself: it has no buffer."""
        return self


@without_autocast
def make_bank(dynamics: Dynamics, size: int) -> TensorDictBase:
    """Fresh initial states ``(size,)``, the same for every number of envs."""
    seeds = torch.arange(BANK_SEED, BANK_SEED + size, device=dynamics.device)
    return dynamics.initial_state(CounterRNG.from_seeds(seeds), size)


def bank_leaves(bank: TensorDictBase, layout: StateLayout, device: torch.device) -> list[Tensor]:
    """The leaves of a bank ``(M,)``, reward states included.

    Raises:
        ValueError: No states, or the states of another world.
    """
    check_type(bank, TensorDictBase, "load_bank: the bank")
    if bank.batch_dims != 1 or bank.shape[0] < 1:
        raise ValueError(f"bank must have batch size (M,) with M at least 1, got {tuple(bank.batch_size)}.")
    return layout.initial_leaves([leaf.to(device) for leaf in layout.check_leaves(bank, "load_bank: the bank")])


class GivenStart(NamedTuple):
    """States that episodes start from in place of the reset source's.

    Attributes:
        states: ``(B,)``, or what makes them at the counters ``(B,)`` of the episodes that start.
        mask: ``(B,)`` bool, the envs that they are for; None for all that reset.
    """

    states: TensorDictBase | Callable[[CounterRNG], TensorDictBase]
    mask: Tensor | None = None


@without_autocast
def restart(
    world: World,
    state: EnvState,
    *,
    seeds: Sequence[int | None] | None = None,
    mask: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    given: GivenStart | None = None,
) -> tuple[EnvState, Mapping[str, Any]]:
    """`state` ``(B,)`` with fresh episodes; no tensor of it is written into.

    Args:
        world: The world.
        state: Of any number of envs.
        seeds: A new seed starts at episode 0; None keeps an env's own, and goes on to its next episode.
        mask: ``(B,)`` bool, the envs to restart; None for all.
        options: For a dynamics that starts episodes afresh.
        given: States to start from.

    Returns:
        The state, and what the dynamics reports of the fresh episodes.

    Raises:
        ValueError: Given states of another world, of another number of envs or on another device.
    """
    layout, device = world.layout, state.seed.device
    seed, episode = state.seed, state.episode + 1
    if seeds is not None:
        new = torch.tensor([s is not None for s in seeds], device=device)
        seed = torch.where(new, torch.tensor([s or 0 for s in seeds], device=device), seed)
        episode = torch.where(new, 0, episode)
    if given is not None and given.mask is None:
        starts = InitialStates(_given_leaves(layout, given, seed, episode), None)
        leaves = starts.leaves
    else:
        starts = world.resets.sample(seed, episode - 1, options)
        leaves = starts.per_env()
        if given is not None and given.mask is not None:
            leaves = select_envs(given.mask, _given_leaves(layout, given, seed, episode), leaves)
    zeros = torch.zeros_like(seed)
    fresh = layout.state(
        leaves,
        elapsed=zeros,
        episode=episode,
        seed=seed,
        returns=torch.zeros_like(state.returns),
        pending=zeros.bool(),
        ended=torch.zeros_like(state.ended),
        world=state.world,
    )
    return (fresh if mask is None else fresh.where(mask, state)), starts.info


def start(world: World, seed: Any, num_envs: int, given: GivenStart | None = None) -> EnvState:
    """The first episodes of new envs, ``(num_envs,)``; seeds as `seed_list` takes them, states to start from if any."""
    seeds = seed_list(seed, num_envs)
    if seeds[0] is not None:
        world.dynamics.reseed(seeds[0])
    with torch.no_grad():
        blank = world.layout.before_start(torch.tensor(seeds, dtype=torch.int64, device=world.device))
        return restart(world, blank, given=given)[0]


def fork_state(state: EnvState, fork: int) -> EnvState:
    """`state` ``(B,)`` as it goes on with noise of its own; see `fork_seeds`."""
    forked = state.copy()
    forked.seed = fork_seeds(CounterRNG(state.seed, state.episode, state.elapsed), fork)
    return forked


def _given_leaves(layout: StateLayout, given: GivenStart, seed: Tensor, episode: Tensor) -> list[Tensor]:
    """The leaves ``(B, ...)`` of given states as copies, reward states included."""
    states, num_envs = given.states, seed.shape[0]
    if not isinstance(states, TensorDictBase):
        states = states(CounterRNG(seed, episode, torch.zeros_like(seed)))
    if tuple(states.batch_size) != (num_envs,):
        raise ValueError(f"reset: this engine has {num_envs} envs, start {tuple(states.batch_size)}.")
    leaves = layout.check_leaves(states, "reset: start")
    elsewhere = {leaf.device for leaf in leaves} - {seed.device}
    if elsewhere:
        raise ValueError(f"reset: start is on {elsewhere.pop()}, the environment on {seed.device}. Move it with .to().")
    return layout.initial_leaves([leaf.clone() for leaf in leaves])
