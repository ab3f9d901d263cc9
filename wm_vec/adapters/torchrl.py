"""World models made of TensorDict modules, as TorchRL builds them, as a `Dynamics`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from wm_vec.adapters.callables import CallableDynamics
from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.adapters.keys import Key, Path, observation_places, one_hot_encoder, path_of, paths_in
from wm_vec.adapters.modules import ModuleStep
from wm_vec.adapters.randomness import GlobalGenerator, global_states
from wm_vec.core import CounterRNG


class TorchRLDynamics(CallableDynamics):
    """A world model made of TensorDict modules: `WorldModelWrapper`, `WorldModel`, a TensorDictSequential, any other.

    In every step the module is given a TensorDict ``(B,)`` with the state, the action and the noise it asks for, at its
    root. What it makes of them is looked for under ``("next", key)`` first, as models trained on TorchRL's batches
    write it, and at the root otherwise, as models for TorchRL's ModelBasedEnvBase do. Keys may be given with or without
    ``"next"`` in front. The module runs in the mode (train or eval) that it is in.

    Args:
        module: Dynamics and heads. Of a `torchrl.modules.WorldModel` its ``step_module`` runs, which leaves the encoder
            out.
        observation_space: One env's observations; Box, Discrete, MultiDiscrete, MultiBinary, or nested Dicts of them.
        action_space: One env's actions.
        initial_state: TensorDict ``(M,)`` of states that episodes start from, or ``()`` of one; with the observations
            too, unless there is a decoder. Mostly what an encoder makes of real observations.
        reset_fn: ``(module, seed, options)`` or fewer -> such a TensorDict of one env; marked `wm_vec.batched`, of as
            many envs as it gets seeds. Give this or `initial_state`.
        state_keys: What the model carries from step to step; None for the observations themselves.
        observation_key: Where an observation stands. Of a Dict space, the nested TensorDict with the keys of the space,
            or a mapping from its keys to keys. None for ``"observation"``, and for the root of Dict spaces.
        decoder: Module from the state to the observation, run at starts and after every step; reads its in_keys, with
            or without ``"next"`` in front, from the state. None where the module itself writes observations.
        encoder: Module from real observations ``(M, ...)`` to the state, for episodes that start from such; None for
            the module's own ``encoder``, as a `torchrl.modules.WorldModel` has one, or where the state is the
            observation.
        action_key: Where the module finds the action.
        one_hot: Give Discrete and MultiDiscrete actions one-hot, ``(B, n)`` float, as TorchRL's own environments do,
            instead of as whole numbers ``(B,)``.
        reward_key: Where the reward stands, ``(B,)`` or ``(B, 1)``; not read if there is a `reward_fn`.
        terminated_key: Where it stands that the episode ended; None for ``"terminated"`` or else ``"done"``, and no
            ends where neither stands. A done head counts as a termination: a model knows no time limits.
        terminated_as: What a termination that is no bool is: ``"probability"``, above one half, or ``"logit"``, above
            zero.
        info_keys: Further outputs, tensors ``(B, ...)``, handed on in ``info``; the parts of nested keys joined by
            dots.
        noise: Key -> shape of one env's standard normal numbers, such as ``{"noise": 30}`` for an RSSMPrior that lists
            ``"noise"`` in its in_keys. They come from the env's own seed, episode and step, so envs stay independent.
        reward_fn: ``(module, state, observation, action)`` or fewer, of the state (a TensorDict ``(B,)``) after the
            step, where the model has no reward head.
        terminal_fn: Likewise for terminations.
        action_transform_fn: ``(module, action)`` or ``(action)`` -> the action that the module is given; before
            `one_hot`.
        device: Where tensors live; None for where the module's parameters are.
        rng: ``"global"`` if the module draws from torch's global generator: the same seed then gives the same batch as
            a whole, not each env by itself. None tries a reset and a step, and sees.

    Raises:
        AdapterError: Module, keys and spaces do not fit together: keys that the module does not write or that the
            starts lack, another batch size, a state that does not come back, no TensorDict module.
    """

    no_encoder = (
        "the module has no encoder, so nothing says which state belongs to a real observation. Give encoder=, a "
        "TensorDict module from the observation to the state_keys."
    )

    def __init__(
        self,
        module: TensorDictModuleBase,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        initial_state: TensorDictBase | None = None,
        reset_fn: Callable[..., Any] | None = None,
        state_keys: Sequence[Key] | None = None,
        observation_key: Key | Mapping[str, Any] | None = None,
        decoder: TensorDictModuleBase | None = None,
        encoder: TensorDictModuleBase | None = None,
        action_key: Key = "action",
        one_hot: bool = False,
        reward_key: Key = "reward",
        terminated_key: Key | None = None,
        terminated_as: Literal["probability", "logit"] = "probability",
        info_keys: Sequence[Key] = (),
        noise: Mapping[Key, int | Sequence[int]] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminal_fn: Callable[..., Any] | None = None,
        action_transform_fn: Callable[..., Any] | None = None,
        device: torch.device | str | None = None,
        rng: Literal["counter", "global"] | None = None,
    ) -> None:
        places = observation_places(observation_space, observation_key)
        if rng not in (None, "counter", "global"):
            raise AdapterError(f"rng must be 'counter', 'global' or None, got {rng!r}.")
        if initial_state is not None and reset_fn is not None:
            raise AdapterError("TorchRLDynamics: give initial_state or reset_fn, not both.")
        self._step = ModuleStep(
            module,
            states=_state_paths(state_keys, places, decoder),
            places=places,
            decoder=decoder,
            encoder=encoder,
            action=path_of(action_key),
            encode=one_hot_encoder(action_space) if one_hot else None,
            reward=path_of(reward_key) if reward_fn is None else None,
            terminated=None if terminated_key is None else path_of(terminated_key),
            terminated_as=terminated_as,
            reads_terminated=terminal_fn is None,
            info=[path_of(key) for key in info_keys],
            noise={path_of(key): _shape(size) for key, size in (noise or {}).items()},
        )
        super().__init__(
            module,
            observation_space,
            action_space,
            reset_fn=reset_fn,
            transition_fn=self._step,
            reward_fn=reward_fn,
            terminal_fn=terminal_fn,
            action_transform_fn=action_transform_fn,
            encode=self._step.encode if self._step.encodes else None,
            device=device,
        )
        if self.calls.encode is not None:
            self.calls.encode.name = "the encoder"
        self._described = f"the module ({type(module).__name__})"
        self.calls.transition.name = self._described
        if initial_state is not None:
            self.calls.reset = None
            self._initial_state, self._initial_observation, _ = self._started(initial_state, "initial_state")
        draws = self._try_out(quiet=rng != "counter")
        if rng == "global" or (rng is None and draws):
            self.rng = "global"
            self._generator = self.runner.generator = GlobalGenerator(self.device)

    def _reset(self, seed: Any, options: Mapping[str, Any] | None) -> Any:
        start = super()._reset(seed, options)
        # A decoder may sample as the module does.
        with nullcontext() if self._generator is None else self._generator.stream():
            return self._started(start, "reset_fn")

    def _started(self, start: Any, where: str) -> tuple[TensorDictBase, Any, dict[str, Any]]:
        """The states ``(M,)`` of a TensorDict that episodes start from, and what they look like."""
        if not isinstance(start, TensorDictBase):
            raise AdapterError(
                f"TorchRLDynamics: {where} must be a TensorDict with the states, or return one, got {describe(start)}."
            )
        if start.batch_dims > 1:
            raise AdapterError(
                f"TorchRLDynamics: {where} must have batch size (M,) or (), got {tuple(start.batch_size)}. Flatten it "
                "with .reshape(-1)."
            )
        start = start.unsqueeze(0) if start.batch_dims == 0 else start
        with torch.no_grad():
            return *self._step.start(start.to(self.device), where), {}

    def _try_out(self, quiet: bool) -> bool:
        """Whether a reset and a step of two envs draw from torch's global generator; they leave no trace there.

        Args:
            quiet: Do not warn if they do.
        """
        if self.device.type == "meta":
            return False
        rng = CounterRNG.from_seeds(torch.arange(2, device=self.device))
        spec = self.actions.spec
        low, high = (torch.tensor(bound, dtype=self.dtype, device=self.device) for bound in (spec.low, spec.high))
        action = torch.zeros_like(low).clamp(low, high).expand(2, -1)
        cards = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cards), torch.no_grad(), warnings.catch_warnings():
            if quiet:
                warnings.filterwarnings("ignore", message=".*torch's global random generator")
            before = global_states()["torch's"]
            try:
                bank = self.bank
                state = self.start(rng, None).state if bank is None else bank[torch.tensor([0, -1], device=self.device)]
                self.step(state, action, rng)
            except Exception as error:
                error.add_note(f"Raised as TorchRLDynamics tried out a start and a step of {self._described}.")
                raise
            return global_states()["torch's"] != before


def _state_paths(state_keys: Sequence[Key] | None, places: Any, decoder: Any) -> list[Path]:
    if isinstance(state_keys, str):
        raise AdapterError(f"TorchRLDynamics: state_keys must be a list of keys, got {state_keys!r}.")
    if state_keys is not None:
        return [path_of(key) for key in state_keys]
    if decoder is not None:
        raise AdapterError("TorchRLDynamics: with a decoder the state is no observation; name its keys in state_keys.")
    return paths_in(places)


def _shape(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)
