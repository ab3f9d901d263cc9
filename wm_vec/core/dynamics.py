"""The narrow waist between models and environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.core.rng import CounterRNG
from wm_vec.core.trees import Tree


class Transition(NamedTuple):
    """What one step of a dynamics gives, for B rows.

    Attributes:
        state: The next state, batch ``(B,)``, same keys, shapes and dtypes as the one that went in.
        observation: ``(B, ...)``, everything that perspectives can see; nested dicts and tuples of such tensors where
            it has several parts.
        reward: ``(B,)`` float, or None if the dynamics does not say.
        terminated: ``(B,)`` bool, or None.
        truncated: ``(B,)`` bool, or None.
        info: Further tensors ``(B, ...)`` by name; what is no tensor is handed on as it is.
    """

    state: TensorDictBase
    observation: Tree
    reward: Tensor | None = None
    terminated: Tensor | None = None
    truncated: Tensor | None = None
    info: Mapping[str, Any] = {}


@runtime_checkable
class Dynamics(Protocol):
    """A batched, pure transition: state in, state out.

    Further attributes are used where there are any: ``bank``, initial states; ``reward_dtype``; ``model_state(state,
    row)``, the state in the users' own structure; ``signature``, what states are about beyond keys and shapes, whose
    digest is `EnvState.world`; ``reseed(seed)`` with ``rng="global"``; those of `EncodingDynamics`, of `FreshDynamics`
    and of `wm_vec.core.single.RowDynamics`.

    Pure means no Python branch on tensor values, no host read, no boolean-mask indexing, no hidden state, so that a
    step can be captured, compiled, forked, differentiated and replayed. A step on ``device="meta"`` proves it.

    Attributes:
        rng: ``"counter"`` if all randomness comes from the `CounterRNG` handed in, ``"global"`` if the model draws
            from torch's generator; then only whole-batch reproducibility is promised.
    """

    rng: Literal["counter", "global"]

    @property
    def device(self) -> torch.device:
        """Where states live."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of states and noise."""
        ...

    def initial_state(self, rng: CounterRNG, num_envs: int) -> TensorDictBase:
        """States at the start of an episode, batch ``(num_envs,)``."""
        ...

    def observe(self, state: TensorDictBase) -> Tree:
        """The observation ``(B, ...)`` of a state, as `step` would give it."""
        ...

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """One step of all rows; `action` is ``(B, A)`` float."""
        ...


@runtime_checkable
class EncodingDynamics(Dynamics, Protocol):
    """A dynamics that real observations can be handed to, so that episodes start from them."""

    def encode(self, observation: Tree, rng: CounterRNG) -> TensorDictBase:
        """States ``(M,)``, of which `observe` gives the observations again.

        It may read the host.

        Args:
            observation: ``(M, ...)``, in the structure that `observe` gives; NaN where a number was not observed.
            rng: Counters ``(M,)`` that what was not observed is drawn at.

        Raises:
            ValueError: Observations that cannot be, or no way from them to states.
        """
        ...


@runtime_checkable
class FreshDynamics(Dynamics, Protocol):
    """A dynamics that makes initial states at every reset, in place of a bank.

    Attributes:
        starts_fresh: Whether it does; if not, it is a `Dynamics` like any other.
        example: States of batch ``(0,)``, for their keys, shapes and dtypes.
    """

    starts_fresh: bool

    @property
    def example(self) -> TensorDictBase:
        """States of batch ``(0,)``."""
        ...

    def start(self, rng: CounterRNG, options: Mapping[str, Any] | None) -> Transition:
        """Fresh episodes at the seeds and episode numbers of `rng`: state, observation and info.

        Args:
            rng: Counters of the rows that reset, ``(B,)``.
            options: What the caller handed to ``reset``; None where an episode starts by itself.
        """
        ...
