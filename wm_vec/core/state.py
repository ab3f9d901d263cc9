"""The state of B envs, and the output of a step: the only two types in which envs are kept and reported."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium.vector import AutoresetMode
from tensordict import MemoryMappedTensor, TensorClass, TensorDict, TensorDictBase
from torch import Tensor

from wm_kernels.dispatch import is_plain_host_tensor
from wm_vec.compat import new_state, new_tensordict
from wm_vec.core.trees import Tree

COUNTERS = ("elapsed", "episode", "seed", "returns", "pending", "ended", "world")
"""What the engine keeps of an env besides the world's own state."""


class EnvState(TensorClass):
    """The state of B envs; indexing gives the state of some of them.

    Attributes:
        dynamics: The dynamics' own state.
        reward_state: The state of stateful reward functions, by perspective.
        elapsed: ``(B,)`` int64, steps of the current episode.
        episode: ``(B,)`` int64, episodes since the env was seeded.
        seed: ``(B,)`` int64.
        returns: ``(B, P)`` float, sums of the episode's rewards, a column per perspective.
        pending: ``(B,)`` bool, episodes that ended in the last step and reset in the next (NEXT_STEP alone).
        ended: ``(B, P)`` bool, perspectives that have ended while the episode goes on for others.
        world: ``(B,)`` int64, a digest of the world's signature, by which other worlds refuse the state where it lies
            in host memory. 0 in envs of padding.
    """

    dynamics: TensorDict
    reward_state: TensorDict
    elapsed: Tensor
    episode: Tensor
    seed: Tensor
    returns: Tensor
    pending: Tensor
    ended: Tensor
    world: Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> EnvState:
        """A copy; tensorclasses warn of the one that they make."""
        return self.clone()


class StepOutput(NamedTuple):
    """One step of B envs, seen by P perspectives.

    Attributes:
        observation: Perspective name -> ``(B, ...)`` or a tree of such: where the next action is taken, a fresh
            episode's where the env was reset.
        final_observation: The same where the step ended, before any reset; under DISABLED the same tensors.
        reward: ``(B, P)`` float; 0 for a perspective that has ended before.
        terminated: ``(B, P)`` bool; a perspective that has ended stays so until the env resets.
        truncated: ``(B,)`` bool.
        finished: ``(B,)`` bool: the episode ended in this step: all perspectives have ended, it was truncated, or the
            env diverged.
        was_reset: ``(B,)`` bool: `observation` starts an episode; under SAME_STEP the same tensor as `finished`.
        diverged: ``(B,)`` bool: the env turned non-finite and was ended at its last finite state.
        episode_return: ``(B, P)`` float: the episode's rewards up to this step; 0 where that only reset the env.
        episode_length: ``(B,)`` int64: the episode's steps up to this one, likewise.
        state: The dynamics' state that the next step starts from; not a copy.
        final_state: The dynamics' state after the step, before any reset; not a copy.
        info: What the dynamics reports besides.
    """

    observation: dict[str, Tree]
    final_observation: dict[str, Tree]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    finished: Tensor
    was_reset: Tensor
    diverged: Tensor
    episode_return: Tensor
    episode_length: Tensor
    state: TensorDictBase
    final_state: TensorDictBase
    info: dict[str, Any]


def warn_of_divergence() -> None:
    """Say that an env was ended since its world broke down; for those who read `StepOutput.diverged` on the host."""
    warnings.warn(
        "The world broke down in an env: its state, its reward or a flag was no finite number. The episode ended "
        "there, at its last finite state, with a reward of 0 and info['diverged'].",
        stacklevel=3,
    )


class StateLayout:
    """Which tensors the states of a world have: their order, shapes and dtypes.

    Args:
        example: A state of the dynamics, any batch ``(M,)``.
        reward_states: One env's start value of each stateful reward function, by perspective.
        num_perspectives: P.
        reward_dtype: Of the sums of rewards.
        signature: The dynamics' `signature`.

    Attributes:
        world: The signature's digest.
    """

    def __init__(
        self,
        example: TensorDictBase,
        reward_states: dict[str, Tensor],
        num_perspectives: int,
        reward_dtype: torch.dtype,
        signature: str,
    ) -> None:
        self.world = int.from_bytes(hashlib.blake2b(signature.encode(), digest_size=8).digest(), "big", signed=True)
        self.keys: list[Any] = sorted(example.keys(True, True), key=str)
        self.reward_states, self.num_perspectives, self.reward_dtype = reward_states, num_perspectives, reward_dtype
        self._nested = any(isinstance(key, tuple) for key in self.keys)
        self._examples = [example.get(key)[:0].clone() for key in self.keys]
        self._examples += [start.expand(0, *start.shape) for start in reward_states.values()]

    def leaves(self, dynamics: TensorDictBase, reward_state: Any) -> list[Tensor]:
        """The tensors of the dynamics' state and of the reward states, in order."""
        return [dynamics.get(key) for key in self.keys] + [reward_state[name] for name in self.reward_states]

    def initial_leaves(self, leaves: list[Tensor]) -> list[Tensor]:
        """The dynamics' leaves ``(M, ...)`` of initial states and, after them, the start values of reward states."""
        size = leaves[0].shape[0]
        return leaves + [start.expand(size, *start.shape) for start in self.reward_states.values()]

    def dynamics_state(self, leaves: Sequence[Tensor]) -> TensorDict:
        """The dynamics' state ``(B,)`` of such a list; reward states after it are left out."""
        batch = leaves[0].shape[:1]
        if not self._nested:
            return new_tensordict(dict(zip(self.keys, leaves, strict=False)), batch)
        state = TensorDict({}, batch_size=batch)
        for key, leaf in zip(self.keys, leaves, strict=False):
            state.set(key, leaf)
        return state

    def state(self, leaves: list[Tensor], **counters: Tensor) -> EnvState:
        """The state of B envs, of these very tensors; `counters` go by the names in `COUNTERS`."""
        carried = dict(zip(self.reward_states, leaves[len(self.keys) :], strict=True))
        entries = {"dynamics": self.dynamics_state(leaves), "reward_state": carried, **counters}
        return new_state(EnvState, entries, counters["seed"].shape)

    def replace_leaves(self, state: EnvState, fn: Callable[[Tensor], Tensor]) -> EnvState:
        """`state` with `fn` of the tensors of the dynamics' state and of the reward states."""
        leaves = [fn(leaf) for leaf in self.leaves(state.dynamics, state.reward_state)]
        return self.state(leaves, **{name: getattr(state, name) for name in COUNTERS})

    def before_start(self, seed: Tensor) -> EnvState:
        """The state of B envs of the seeds ``(B,)`` int64 before their first episode; of the world there is none."""
        zeros = torch.zeros_like(seed)
        returns = torch.zeros(len(seed), self.num_perspectives, dtype=self.reward_dtype, device=seed.device)
        ended = torch.zeros_like(returns, dtype=torch.bool)
        leaves = [example.new_zeros(len(seed), *example.shape[1:]) for example in self._examples]
        return self.state(
            leaves,
            elapsed=zeros,
            episode=zeros - 1,
            seed=seed,
            returns=returns,
            pending=zeros.bool(),
            ended=ended,
            world=torch.full_like(seed, self.world),
        )

    def example(self) -> EnvState:
        """The state of no env, batch ``(0,)``."""
        return self.before_start(torch.zeros(0, dtype=torch.int64, device=self._examples[0].device))

    def check(self, state: EnvState) -> EnvState:
        """`state` itself, if it is one of this world; in host memory its digest is read, too.

        Raises:
            ValueError: The state of another world or engine, or on another device.
        """
        self.check_leaves(state.dynamics, "the state", state.reward_state)
        batch = tuple(state.batch_size)
        for name in COUNTERS:
            counter = state.get(name, None)
            dtype = {"returns": self.reward_dtype, "pending": torch.bool, "ended": torch.bool}.get(name, torch.int64)
            shape = (*batch, self.num_perspectives) if name in ("returns", "ended") else batch
            got = "none" if counter is None else f"{counter.dtype}, {tuple(counter.shape)}"
            if got != f"{dtype}, {shape}":
                raise ValueError(
                    f"the state belongs to another engine: its {name!r} must be {dtype} of shape {shape}, got {got}."
                )
        world = state.world
        readable = is_plain_host_tensor(world) or (type(world) is MemoryMappedTensor and world.is_cpu)
        if readable and bool(((world != self.world) & (world != 0)).any()):
            raise ValueError(
                "the state belongs to another world: its keys and shapes are those of this one, but its fields or "
                "spaces are not. Go on from it in an environment of the world that it comes from."
            )
        return state

    def check_leaves(
        self, states: TensorDictBase, what: str, reward_states: TensorDictBase | None = None
    ) -> list[Tensor]:
        """The leaves of `states`, if they are of this world.

        Raises:
            ValueError: Other keys, shapes or dtypes; with `reward_states` also another device.
        """
        keys = sorted(states.keys(True, True), key=str)
        stateful = sorted(self.reward_states)
        carried = stateful if reward_states is None else sorted(reward_states.keys())
        if keys != self.keys or carried != stateful:
            raise ValueError(
                f"{what} belongs to another world: it has {[*keys, *carried]}, this world's states have "
                f"{[*self.keys, *stateful]}."
            )
        leaves = [states.get(key) for key in keys] if reward_states is None else self.leaves(states, reward_states)
        for key, leaf, example in zip([*keys, *self.reward_states], leaves, self._examples, strict=False):
            if leaf.shape[1:] != example.shape[1:] or leaf.dtype != example.dtype:
                raise ValueError(
                    f"{what} belongs to another world: {key!r} must be {tuple(example.shape[1:])} per env, "
                    f"{example.dtype}; got {tuple(leaf.shape[1:])}, {leaf.dtype}."
                )
            if reward_states is not None and leaf.device != example.device:
                raise ValueError(
                    f"{what} is on {leaf.device}, the environment on {example.device}. Move it with .to()."
                )
        return leaves


def as_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Gymnasium's enum from itself, its name or its value, whatever the case."""
    wanted = str(mode.value if isinstance(mode, AutoresetMode) else mode).replace("_", "").replace("-", "").lower()
    for candidate in AutoresetMode:
        if candidate.value.lower() == wanted:
            return candidate
    names = ", ".join(repr(m.name.lower()) for m in AutoresetMode)
    raise ValueError(f"autoreset_mode must be one of {names} or gymnasium's AutoresetMode, got {mode!r}.")
