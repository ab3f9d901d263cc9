"""Any model, through its own methods or a user's callables, as a `Dynamics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium as gym
import torch
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.adapters.calls import ModelCalls, device_of, warn_of_training_mode
from wm_vec.adapters.errors import ENV_BY_ENV, NO_LOOP, AdapterError
from wm_vec.adapters.forms import ResetParts, read_reset
from wm_vec.adapters.randomness import RESET_DRAWS, GlobalGenerator
from wm_vec.adapters.reading import given_start
from wm_vec.adapters.runner import BatchRunner
from wm_vec.adapters.spaces import ActionCodec, ObservationCodec, check_spaces, space_signature
from wm_vec.adapters.vmap import VmapRunner
from wm_vec.compat import tree_leaves
from wm_vec.core import CounterRNG, Dynamics, Perspective, Transition
from wm_vec.core.functions import is_batched
from wm_vec.core.rng import STREAM_RESET
from wm_vec.core.trees import Tree

Batching = Literal["batched", "vmap"]
RUNNERS: dict[str, type[BatchRunner]] = {"batched": BatchRunner, "vmap": VmapRunner}
NO_START = (
    "CallableDynamics: nothing says how episodes start. Give reset_fn, initial_state or initial_observation, or a "
    "model with reset_env, reset_state or reset."
)
SEED_LIMIT = 2**31
"""Seeds of later episodes stay below it, so that every seeding function takes them."""
OWN_SEED_LIMIT = 2**32
"""Below it an env's own seed is handed to its first reset as it is."""


class CallableDynamics(Dynamics):
    """Any model that takes batches, or one env's tensors as a pure function, as a `Dynamics`.

    The state holds the model's own under ``state`` and the last observation under ``observation``, several parts with
    dots in between.

    Args:
        model: Any object. Without `transition_fn` its own method is used, the first of ``env_step``, ``step``,
            ``predict_step``, ``predict``, ``imagine_step``, ``transition``, ``__call__``; without `reset_fn`,
            `initial_state` and `initial_observation` the first of ``reset_env``, ``reset_state``, ``reset``.
        observation_space: One env's observations.
        action_space: One env's actions.
        batching: ``"batched"``: the model takes states and actions with a leading axis ``(B, ...)``; ``"vmap"``: it is
            a pure function of one env. States are tensors, or TensorDicts, dicts and tuples of them.
        initial_observation: What episodes start with where nothing resets; None for the state itself, if it is an
            observation, or what the model's ``decode_observation``, ``decode`` or ``observe`` makes of it.
        initial_state: The model's state at the start of episodes where nothing resets; None for the observation.
        reset_fn: ``(model, seed, options)`` or fewer, of one env; marked `wm_vec.batched`, of as many as it gets seeds,
            ``(B,)`` int64. See `read_reset` for what it may return.
        transition_fn: ``(model, state, action)`` or ``(state, action)``, also with a `CounterRNG` by the name ``rng``.
            See `read_transition` for what it may return.
        reward_fn: ``(model, state, observation, action)`` or fewer, of the state after the step, where a transition
            gives no reward; None for 0.0.
        terminal_fn: Likewise for terminations; None for False.
        action_transform_fn: ``(model, action)`` or ``(action)`` -> what the model takes.
        encode: ``(model, observation)`` or ``(observation)``, also with a `CounterRNG` by the name ``rng`` -> the
            model's state at a real observation, so that episodes can start from such; as `batching` says, of many or of
            one. None takes the observation for the state, where episodes start so.
        device: Where tensors live; None for where the model's parameters are.
        torch_actions: True; the scalar `WorldModelEnv` alone gives NumPy.
        rng: ``"global"`` for models that draw from the global generators of torch, NumPy or Python: they are seeded
            once per seeded reset for the whole batch.
        starts_fresh: Reset at every episode instead of drawing from a bank, which functions marked batched do anyway.

    Raises:
        AdapterError: Something in this does not fit together.
    """

    no_encoder = (
        "episodes start with a state of the model's own, and nothing says which belongs to a real observation. Give "
        "encode=(model, observation) -> state."
    )

    def __init__(
        self,
        model: Any,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        batching: Batching = "batched",
        initial_observation: Any = None,
        initial_state: Any = None,
        reset_fn: Callable[..., Any] | None = None,
        transition_fn: Callable[..., Any] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminal_fn: Callable[..., Any] | None = None,
        action_transform_fn: Callable[..., Any] | None = None,
        encode: Callable[..., Any] | None = None,
        device: torch.device | str | None = None,
        torch_actions: bool = True,
        rng: Literal["counter", "global"] = "counter",
        starts_fresh: bool = False,
    ) -> None:
        check_spaces(observation_space, action_space)
        if batching == "loop":
            raise AdapterError(NO_LOOP)
        if not torch_actions:
            raise AdapterError(
                f"torch_actions=False: under batching={batching!r} models get tensors. One that takes NumPy runs in "
                f"{ENV_BY_ENV}."
            )
        if not isinstance(batching, str) or batching not in RUNNERS:
            raise AdapterError(f"batching must be one of {', '.join(map(repr, RUNNERS))}, got {batching!r}.")
        if rng not in ("counter", "global"):
            raise AdapterError(f"rng must be 'counter' or 'global', got {rng!r}.")
        warn_of_training_mode(model)
        self.calls = ModelCalls(
            model,
            reset_fn=reset_fn,
            transition_fn=transition_fn,
            reward_fn=reward_fn,
            terminal_fn=terminal_fn,
            action_transform_fn=action_transform_fn,
            encode=encode,
            resets=initial_observation is None and initial_state is None,
        )
        self.observations, self.actions = ObservationCodec(observation_space), ActionCodec(action_space)
        self.signature = f"{space_signature(observation_space)}, {space_signature(action_space)}"
        self._device = device_of(model, device)
        generator = GlobalGenerator(self._device) if rng == "global" else None
        forms = self.calls, self.observations, self.actions
        self.runner = RUNNERS[batching](type(self).__name__, *forms, self._device, generator)
        self.batching = batching
        self.rng = rng
        self._generator = generator
        self._initial_observation, self._initial_state = initial_observation, initial_state
        self._resets_batched = self.calls.reset is not None and is_batched(self.calls.reset.fn)
        self.starts_fresh = self.calls.reset is not None and (starts_fresh or self._resets_batched)
        if "state" not in self.calls.transition.takes and (self._resets_batched or not self.starts_fresh):
            raise self.calls.takes_no_state()

    # -- Dynamics -------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where states live."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of actions and rewards: float32, or float64 where the action space's is."""
        return self.actions.dtype

    @property
    def perspective(self) -> Perspective:
        """The view of one agent that sees and does everything."""
        return Perspective(self.actions.spec)

    @property
    def bank(self) -> TensorDictBase | None:
        """The given initial states, ``(M,)``; None where the model resets."""
        if self.calls.reset is not None:
            return None
        start, lead = self._given_start()
        return self.runner.pack([start], lead)

    def initial_state(self, rng: CounterRNG, num_envs: int) -> TensorDictBase:
        """States ``(num_envs,)`` of episodes reset with the seeds of `rng`."""
        if self.calls.reset is None:
            raise AdapterError(NO_START)
        return self.start(rng, None).state

    @torch.no_grad()
    def start(self, rng: CounterRNG, options: Mapping[str, Any] | None) -> Transition:
        """Episodes reset with the seeds of `rng`: the env's own seed in its first episode, later ones drawn from it."""
        num_envs = rng.seed.shape[0]
        where = self.runner.where(self.calls.reset or "reset_fn")
        if self._resets_batched:
            start = read_reset(self._reset(_episode_seeds(rng), options), self.observations, (num_envs,), where)
            state = self.runner.pack([start], (num_envs,))
            info = start.info
        else:
            seeds = _episode_seeds(rng).tolist()
            results = [self._reset(seed, options) for seed in seeds]
            observation = read_reset(results[0], self.observations, (), where).observation
            lead = (1,) if self.observations.fits(observation, (1,)) else ()
            starts = [read_reset(result, self.observations, lead, where) for result in results]
            state = self.runner.pack(starts, lead)
            info = starts[0].info if num_envs == 1 else {}
        return Transition(state, self.observe(state), info=info)

    def observe(self, state: TensorDictBase) -> Tree:
        """The last observation, ``(B, ...)`` in the space's structure."""
        single = self.observations.single
        return state.get(single.name) if single is not None else self.observations.tree(state)

    @torch.no_grad()
    def encode(self, observation: Tree, rng: CounterRNG) -> TensorDictBase:
        """States of real observations ``(M, ...)``, which `observe` gives again.

        Raises:
            AdapterError: Another structure, shape or dtype than the observation space's, or nothing says what the state
                of an observation is.
        """
        where = self.runner.where(self.calls.encode or "encode")
        leaves = self.observations.tensors(observation, tuple(rng.seed.shape), self._device, where)
        for name, leaf in leaves.items():
            if leaf.dtype.is_floating_point and not leaf.is_meta and bool(leaf.isnan().any()):
                raise AdapterError(f"{where}: {name} has NaN in it; this model cannot fill in what was not observed.")
        if not self.runner.reader.begun and self.bank is None:  # it has to know what episodes start with
            self.start(CounterRNG.from_seeds(rng.seed[:1]), None)
        if self.calls.encode is None and self.runner.reader.own_state:
            raise AdapterError(f"{where}: {self.no_encoder}")
        return self.runner.encode({name: leaf.clone() for name, leaf in leaves.items()}, rng)

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """Run the model; `action` is ``(B, A)``."""
        return self.runner.step(state, action, rng)

    def model_state(self, state: TensorDictBase, env: int | None = None) -> Any:
        """The model's own state in its own structure, of one env or of all, as a copy."""
        return self.runner.model_state(state, env)

    def reseed(self, seed: int) -> None:
        """Begin the model's stream of torch's generator anew, for the whole batch."""
        if self._generator is not None:
            self._generator.restart(seed)

    # -- starts ---------------------------------------------------------------------------------------------------

    def _reset(self, seed: Any, options: Mapping[str, Any] | None) -> Any:
        call = self.calls.reset
        assert call is not None
        try:
            if self._generator is None:
                with self.runner.watch(call.name, RESET_DRAWS):
                    return call(self.calls.model, seed, options)
            if self._resets_batched:
                with self._generator.stream():
                    return call(self.calls.model, seed, options)
            with self._generator.seeded(int(seed)):
                return call(self.calls.model, seed, options)
        except Exception as error:
            error.add_note(f"Raised in {call.name}, called with ({', '.join(call.takes)}), at a reset, seed {seed}.")
            raise

    def _given_start(self) -> tuple[ResetParts, tuple[int, ...]]:
        """What the initial observation and state say, and the axes they have in front."""
        state, observation = self._initial_state, self._initial_observation
        if state is None and observation is None:
            raise AdapterError(NO_START)
        start = given_start(state, observation, self.calls, self.observations, batched=True)
        lead: tuple[int, ...] = ()
        try:
            parts = tree_leaves(_as_tree(start.observation))
        except (TypeError, ValueError, RuntimeError):  # refused below, by what it is
            parts = []
        if not all(bool(part.isfinite().all()) for part in parts if part.device.type != "meta"):
            raise AdapterError(f"{self.calls.adapter}: the initial observation is not finite.")
        if not self.observations.fits(start.observation):
            sizes = {tuple(part.shape[:1]) for part in parts if part.dim()}
            if len(sizes) == 1 and self.observations.fits(start.observation, *sizes):
                lead = sizes.pop()
        return start, lead


def _episode_seeds(rng: CounterRNG) -> Tensor:
    """``(B,)`` int64: an env's own seed in its first episode, a number drawn at (seed, episode) later.

    Seeds of 2^32 and above, as entropy gives them, are too large for NumPy's older functions: drawn from, too.
    """
    later = rng.integers(1, SEED_LIMIT, STREAM_RESET)[:, 0]
    return torch.where((rng.episode == 0) & (rng.seed < OWN_SEED_LIMIT), rng.seed, later)


def _as_tree(observation: Any) -> Tree:
    """Tensors in place of arrays."""
    if isinstance(observation, (Mapping, TensorDictBase)):
        return {key: _as_tree(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return tuple(_as_tree(part) for part in observation)
    return torch.as_tensor(observation)
