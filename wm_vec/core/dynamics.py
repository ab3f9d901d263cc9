"""The narrow waist between models and environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_kernels import FusedStep
from wm_vec.core.perspective import Perspective
from wm_vec.core.rng import CounterRNG
from wm_vec.core.trees import Tree


class Transition(NamedTuple):
    """One step of a dynamics, for B envs.

    Attributes:
        state: The next state, batch ``(B,)``, same keys, shapes and dtypes as the one that went in.
        observation: ``(B, ...)``, everything that perspectives can see; nested dicts and tuples of such tensors where
            it has several parts.
        reward: ``(B,)`` float, or None if the dynamics has no reward.
        terminated: ``(B,)`` bool, or None. Of numbers those above one half are true; NaN ends the env as diverged.
        truncated: ``(B,)`` bool, or None; numbers likewise.
        info: Further tensors ``(B, ...)`` by name; anything else is handed on as it is.
    """

    state: TensorDictBase
    observation: Tree
    reward: Tensor | None = None
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    info: Mapping[str, Any] = {}


class Dynamics(ABC):
    """A batched, pure transition: state in, state out. Subclass it to give the engine a world of another kind.

    Pure means no Python branch on tensor values, no host read, no boolean-mask indexing, no hidden state, so that a
    step can be captured, compiled, forked, differentiated and replayed. A step on ``device="meta"`` proves it.

    Attributes:
        rng: ``"counter"`` if all randomness comes from the `CounterRNG` handed in, ``"global"`` if the model draws
            from torch's generator; then only whole-batch reproducibility is promised.
        signature: What the state's numbers stand for, beyond keys and shapes; worlds with another signature refuse
            the state.
        capturable: Whether `step` may be captured as a CUDA graph: it reads nothing but what stays where it is, which
            `addresses` stands for.
        starts_fresh: Whether episodes start from `start` at every reset, in place of a bank of initial states. The
            engine then starts an episode of every env in every step and keeps those of the envs that ended.
    """

    rng: Literal["counter", "global"] = "counter"
    signature: str = ""
    capturable: bool = False
    starts_fresh: bool = False

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where states live."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating dtype of states and noise."""

    @abstractmethod
    def initial_state(self, rng: CounterRNG, num_envs: int) -> TensorDictBase:
        """States at the start of an episode, batch ``(num_envs,)``."""

    @abstractmethod
    def observe(self, state: TensorDictBase) -> Tree:
        """The observation ``(B, ...)`` of a state, as `step` would give it."""

    @abstractmethod
    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """One step of all envs; `action` is ``(B, A)`` float, NaN where the caller's was."""

    def current_action(self, state: TensorDictBase) -> Tensor | None:
        """The action ``(B, A)`` by which `step` writes nothing into `state`, for agents that act no more.

        None, where there is no such action, hands the actions of these agents on as they come.
        """
        return None

    def fuse(self, perspectives: Sequence[Perspective]) -> FusedStep | None:
        """The whole env step of these perspectives, paid and ended by the dynamics itself, as one operation.

        None, where there is no such operation, lets the engine compose it.
        """
        return None

    def addresses(self) -> Hashable:
        """Brings up to date what a captured step reads besides its arguments, and says where it lies.

        Called before each replay; with another value the step is captured anew.
        """
        return None

    @property
    def reward_dtype(self) -> torch.dtype:
        """Floating dtype of rewards."""
        return self.dtype

    @property
    def bank(self) -> TensorDictBase | None:
        """Initial states ``(M,)`` that resets draw from; None lets the engine fill a bank from `initial_state`."""
        return None

    @property
    def example(self) -> TensorDictBase:
        """States of batch ``(0,)``, for their keys, shapes and dtypes; needed with `starts_fresh`."""
        return self.initial_state(CounterRNG.from_seeds(torch.zeros(1, dtype=torch.int64, device=self.device)), 1)[:0]

    def start(self, rng: CounterRNG, options: Mapping[str, Any] | None) -> Transition:
        """Fresh episodes at the seeds and episode numbers of `rng`: state, observation and info.

        Args:
            rng: Counters of the envs that reset, ``(B,)``.
            options: What the caller handed to ``reset``; None where an episode starts by itself.
        """
        state = self.initial_state(rng, rng.seed.shape[0])
        return Transition(state, self.observe(state))

    def encode(self, observation: Tree, rng: CounterRNG) -> TensorDictBase:
        """States ``(M,)`` of which `observe` gives the observations again, so that episodes start from real ones.

        It may read the host.

        Args:
            observation: ``(M, ...)``, in the structure that `observe` gives; NaN where a number was not observed.
            rng: Counters ``(M,)`` that what was not observed is drawn at.

        Raises:
            TypeError: The dynamics has no way from observations to states.
            ValueError: Observations that cannot be.
        """
        raise TypeError(
            f"encode: {type(self).__name__} has no encode(observation, rng) that makes its states of real "
            "observations. Override wm_vec.core.Dynamics.encode."
        )

    def reseed(self, seed: int) -> None:  # noqa: B027 - most have no generator of their own
        """Seed the generator that the model draws from, once for the whole batch; for ``rng="global"``."""

    def model_state(self, state: TensorDictBase, env: int | None = None) -> Any:
        """A state ``(B,)`` as users know it, in their model's own structure, as a copy.

        Args:
            state: The dynamics' state, ``(B,)``.
            env: Of this env alone; None for all.
        """
        return (state if env is None else state[env]).clone()
