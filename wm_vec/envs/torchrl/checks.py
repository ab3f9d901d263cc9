"""What goes into a TorchRL environment: looked at by keys, shapes, dtypes and devices, never by values.

The checks of actions run in every step, so they compare what was worked out beforehand and write messages only when
something is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite, TensorSpec

from wm_vec.adapters import CallableDynamics
from wm_vec.adapters.spaces import ActionCodec, ObservationCodec
from wm_vec.compat import get_entry
from wm_vec.core import Engine, EnvState
from wm_vec.core.trees import Tree
from wm_vec.envs.torchrl.specs import DONE_KEYS, REWARD_STATE, carried_state, state_of

OURS = "TorchRLEnv"


def check_spaces_fit(engine: Engine, observation_space: gym.Space, action_space: gym.Space) -> None:
    """The spaces must be those that the engine's world was made for, as far as it can be told without a step.

    Raises:
        ValueError: Other actions than the engine takes, or another observation than the model was declared to show.
    """
    wanted, given = engine.only_perspective(OURS).action, ActionCodec(action_space).spec
    classes = [[hi - lo for lo, hi in zip(s.low, s.high, strict=True)] for s in (wanted, given)]
    fits = wanted.kind == given.kind and wanted.shape == given.shape
    if not fits or (wanted.kind == "discrete" and classes[0] != classes[1]):
        raise ValueError(
            f"{OURS}: the action space {action_space} does not fit the engine, which takes {wanted.kind} actions of "
            f"shape {wanted.shape} from {list(wanted.low)} to {list(wanted.high)}."
        )
    dynamics = engine.dynamics
    if not isinstance(dynamics, CallableDynamics):
        return
    if dynamics.actions.spec != given:
        raise ValueError(
            f"{OURS}: the action space {action_space} is not the model's, which was declared with "
            f"{dynamics.actions.space}."
        )
    if dynamics.observations.leaves != ObservationCodec(observation_space).leaves:
        raise ValueError(
            f"{OURS}: the observation space {observation_space} is not the model's, which was declared with "
            f"{dynamics.observations.space}."
        )


def check_device(asked: torch.device | str | int, device: torch.device) -> None:
    """An environment cannot be moved: its world stays where it is.

    Raises:
        ValueError: Another device than the environment's.
    """
    other = torch.device(asked)
    if other.type != device.type or (None not in (other.index, device.index) and other.index != device.index):
        raise ValueError(
            f"{OURS}: the world is on {device} and an environment of it cannot be moved to {other}. Make it of a world "
            f"that is there, such as WorldModel.load(path, device={str(other)!r})."
        )


def check_compilable(engine: Engine, fullgraph: bool) -> None:
    """What `torch.compile` can trace: random numbers that are computed.

    Raises:
        ValueError: A full graph of a model that draws from global generators.
    """
    if fullgraph and engine.dynamics.rng == "global":
        raise ValueError(
            f"{OURS}.compile: this model draws from the global generators (rng='global'), whose states are saved and "
            "restored around it outside of any graph. Leave fullgraph=True out, or let the model draw from the rng "
            "argument."
        )


class ActionCheck:
    """Takes the action out of a TensorDict.

    Args:
        space: One env's actions.
        spec: The environment's, ``(B, ...)``.
        one_hot: Whether discrete actions are one-hot vectors; those may have any dtype.
        ours: Who asks, for the errors.
    """

    def __init__(self, space: gym.Space, spec: TensorSpec, one_hot: bool, ours: str = OURS) -> None:
        self._ours = ours
        self.shape, self.dtype, self.device = spec.shape, spec.dtype, torch.device(spec.device)
        self.one_hot = one_hot and isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete))
        self._space = space
        self._floating = spec.dtype.is_floating_point

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """The action ``(B, ...)``.

        Raises:
            KeyError: There is none.
            ValueError: One of another shape, or on another device.
            TypeError: One of a dtype that it cannot have.
        """
        action = get_entry(tensordict, "action")
        usual = type(action) is Tensor and action.dtype is self.dtype
        if usual and action.shape == self.shape and action.device == self.device:
            return action
        if type(action) is not Tensor and not isinstance(action, Tensor):
            raise self._none(tensordict, action)
        if action.shape != self.shape:
            raise ValueError(
                f"{self._ours}.step: 'action' must have shape {tuple(self.shape)}, got {tuple(action.shape)}."
                f"{self._hint(action)}"
            )
        if not self.one_hot and (action.dtype.is_floating_point is not self._floating or action.dtype is torch.bool):
            raise TypeError(
                f"{self._ours}.step: 'action' must be {'floating point' if self._floating else 'whole numbers'} "
                f"({self.dtype}) for {self._space}, got {action.dtype}."
            )
        if action.device != self.device:
            raise ValueError(
                f"{self._ours}.step: 'action' is on {action.device}, the environment on {self.device}. Move it with "
                ".to(...)."
            )
        return action

    def _none(self, tensordict: TensorDictBase, action: Any) -> Exception:
        if action is None:
            return KeyError(
                f"{self._ours}.step: the TensorDict has no 'action', only {_names(tensordict)}. Let a policy or "
                "env.rand_action write one."
            )
        got = type(action).__name__
        return TypeError(f"{self._ours}.step: 'action' must be a tensor {tuple(self.shape)}, got {got}.")

    def _hint(self, action: Tensor) -> str:
        """What the shape may be meant as."""
        sizes = _classes(self._space)
        if sizes is None:
            return ""
        own = self._space.shape or ()
        batch = self.shape[: len(self.shape) - (1 if self.one_hot else len(own))]
        if self.one_hot and action.shape == (*batch, *own):
            return " These look like class indices: make the env with one_hot=False, or turn them with one_hot."
        if not self.one_hot and action.shape == (*batch, sum(sizes)):
            return " These look one-hot: make the env with one_hot=True, or take their argmax."
        return ""


def check_mask(flags: Any, envs: int | torch.Size, key: str) -> Tensor:
    """The mask under `key`, ``(*N, 1)`` or ``(*N,)`` bool, as ``(M,)`` in row-major order.

    Args:
        flags: It.
        envs: The batch of envs N, or their number.
        key: Its name, for the errors.

    Raises:
        TypeError: No tensor, or of another dtype.
        ValueError: Another shape.
    """
    batch = (envs,) if isinstance(envs, int) else tuple(envs)
    if not isinstance(flags, Tensor) or flags.dtype is not torch.bool:
        got = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        raise TypeError(f"{OURS}: {key!r} must be a bool tensor of shape {(*batch, 1)}, got {got}.")
    if tuple(flags.shape) not in ((*batch, 1), batch):
        raise ValueError(f"{OURS}: {key!r} must have shape {(*batch, 1)}, got {tuple(flags.shape)}.")
    return flags.reshape(-1)


def not_done_in(tensordict: TensorDictBase, envs: int | torch.Size) -> Tensor | None:
    """``(M,)`` bool, the envs that no flag calls done; None where there is no flag."""
    found = {key: tensordict.get(key, None) for key in DONE_KEYS}
    flags = [check_mask(flag, envs, key) for key, flag in found.items() if flag is not None]
    return ~torch.stack(flags).any(0) if flags else None


def read_state(tensordict: TensorDictBase, key: str, spec: Composite, where: str) -> EnvState:
    """The state of the world under `key`.

    Args:
        tensordict: Of the batch size of `spec`.
        key: Where the state must stand, an `EnvState` or its TensorDict.
        spec: What it must be.
        where: Who asks, for the errors.

    Raises:
        KeyError: There is none.
        ValueError: Another world's: other keys, shapes, dtypes or another device. Or that of another number of envs.
    """
    state = tensordict.get(key, None)
    if state is None:
        raise KeyError(
            f"{where} needs {key!r} in td, which has {_names(tensordict)}. Take it from an env with expose_state=True "
            f"or from to_stateless(), or give TensorDict({{{key!r}: engine.state()}}, batch_size=[B])."
        )
    if not isinstance(state, (TensorDictBase, EnvState)):
        raise ValueError(f"{where}: {key!r} must be a TensorDict with the state, got {type(state).__name__}.")
    if state.batch_size != tensordict.batch_size:
        raise ValueError(
            f"{where}: {key!r} is of {tuple(state.batch_size)} envs in a TensorDict of "
            f"{tuple(tensordict.batch_size)}; give both the same batch size."
        )
    entries = carried_state(state) if isinstance(state, EnvState) else state
    carried = entries.get(REWARD_STATE, None)
    if isinstance(carried, TensorDictBase) and carried.is_empty():
        entries = entries.exclude(REWARD_STATE)
    check_entries(entries, spec, f"the state under {key!r} belongs to another world", ours=where)
    return state if isinstance(state, EnvState) else state_of(entries)


def check_observation(entries: Mapping[str, Tree] | TensorDictBase, spec: Composite) -> None:
    """What the model shows must be what the observation space says.

    Raises:
        ValueError: Other keys, shapes or dtypes.
    """
    check_entries(entries, spec, "the model's observations do not fit the observation space")


def check_entries(
    entries: Mapping[str, Any] | TensorDictBase, spec: Composite, what: str, path: str = "", ours: str = OURS
) -> None:
    """`entries` must have the keys of `spec`, and each its shape, dtype and device.

    Raises:
        ValueError: It does not; the message says `what` that means to whom.
    """
    if set(entries.keys()) != set(spec.keys()):
        where = f" under {path!r}" if path else ""
        raise ValueError(f"{ours}: {what}: it has {sorted(entries.keys())}{where}, not {sorted(spec.keys())}.")
    for key, part in spec.items():
        entry, name = entries[key], f"{path}.{key}" if path else key
        nested = isinstance(entry, (Mapping, TensorDictBase))
        if isinstance(part, Composite) is not nested:
            raise ValueError(f"{ours}: {what}: {name!r} must be {_said(part)}, got {_said(entry)}.")
        if isinstance(part, Composite):
            check_entries(entry, part, what, name, ours)
        elif entry.shape != part.shape or entry.dtype is not part.dtype or entry.device != part.device:
            raise ValueError(f"{ours}: {what}: {name!r} must be {_said(part)}, got {_said(entry)}.")


def _said(part: Any) -> str:
    if isinstance(part, (Tensor, TensorSpec)) and not isinstance(part, Composite):
        return f"{part.dtype} {tuple(part.shape)} on {part.device}"
    return f"a TensorDict with {sorted(part.keys())}"


def _names(tensordict: TensorDictBase) -> list[str]:
    return sorted(map(str, tensordict.keys()))


def _classes(space: gym.Space) -> list[int] | None:
    """How many classes a space's whole numbers choose from."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.n)]
    return [int(n) for n in space.nvec.ravel()] if isinstance(space, gym.spaces.MultiDiscrete) else None
