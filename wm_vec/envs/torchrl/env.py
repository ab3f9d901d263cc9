"""A TorchRL environment over the engine: TensorDict in, TensorDict out, thousands of envs on one device."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from wm_vec.adapters.spaces import ActionForm, check_spaces
from wm_vec.core import AutoresetMode, Dynamics, Engine, EnvState, Perspective
from wm_vec.core.trees import select_rows
from wm_vec.envs.replay import observation_in, observation_keys, sampled_observations
from wm_vec.envs.torchrl.checks import (
    ActionCheck,
    check_compilable,
    check_device,
    check_mask,
    check_observation,
    check_spaces_fit,
    check_state,
)
from wm_vec.envs.torchrl.resets import MaskedResets, known_to_be_running
from wm_vec.envs.torchrl.specs import (
    action_spec,
    as_specified,
    class_indices,
    observation_entries,
    observation_specs,
    unchecked,
)

DONE_KEYS = ("done", "terminated", "truncated")
STATE_KEY = "world_state"
"""Where `expose_state` puts the state of the world."""


class TorchRLEnv(MaskedResets):
    """B imagined environments as one batched `torchrl.envs.EnvBase`.

    A step gives, under ``next``, the observation where the step ended, before any reset, ``reward`` ``(B, 1)``, and
    ``done``, ``terminated``, ``truncated`` ``(B, 1)`` bool. Envs that are done stay where they are until they are
    reset, as TorchRL expects. Collectors and rollouts reset them through `maybe_reset`, a masked select that does not
    look at the device.

    ``reset(td)`` with the observations in td and no ``"_reset"`` starts the episodes from these, real ones mostly, as
    does ``rollout(n, tensordict=td)``; envs whose ``"done"`` is set in td, where an episode ended, start as ever. A td
    with ``"_reset"`` is TorchRL's partial reset, which ignores observations; TorchRL's own TransformedEnv hands none on
    (ours does). `start_from` lets all later episodes start from real observations.

    Seeds are per env: ``set_seed(s)`` gives env i the seed ``s + i`` at the next full reset, and the numbers are then
    those of the Gymnasium face.

    Args:
        engine: An engine with one perspective and without autoreset.
        observation_space: One env's observations; those of a Dict space stand under its keys, others under
            ``"observation"``.
        action_space: One env's actions.
        one_hot: Discrete actions as one-hot vectors in place of class indices.
        expose_state: Carry the state of the world in the TensorDict, under ``"world_state"``; ``reset(td,
            set_state=True)`` then goes on from there. Without it replay buffers do not fill with states.

    Raises:
        ValueError: An engine of another kind, or spaces that TorchRL has no specs for.
    """

    def __init__(
        self,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        one_hot: bool = False,
        expose_state: bool = False,
    ) -> None:
        if engine.autoreset_mode is not AutoresetMode.DISABLED or len(engine.perspectives) != 1:
            raise ValueError(
                "TorchRLEnv needs an engine with one perspective and autoreset_mode='disabled': TorchRL itself resets "
                f"what is done. Got {len(engine.perspectives)} perspectives, {engine.autoreset_mode}."
            )
        check_spaces_fit(engine, observation_space, action_space)
        super().__init__(device=engine.device, batch_size=[engine.num_envs])
        self.engine = engine
        self.one_hot, self.expose_state = one_hot, expose_state
        self._supports_set_state = expose_state
        self._observation_space, self._action_space = observation_space, action_space
        # An attribute, not a method of the class: over classes that override it, TorchRL's TransformedEnv refuses
        # transforms that change actions. As it is, those draw from the transformed spec.
        self.rand_action = self._random_actions
        self._next_seed: int | None = None
        self._draws = 0
        num_envs, device = engine.num_envs, engine.device
        self.observation_spec = observation_specs(observation_space, num_envs, device)
        self._observations, self._observations_fit = self.observation_spec.clone(), False
        self.action_spec = action_spec(action_space, num_envs, device, one_hot)
        self._action_dtype = self.action_spec.dtype
        self._check_action = ActionCheck(action_space, self.action_spec, one_hot)
        self.reward_spec = Unbounded((num_envs, 1), device=device, dtype=engine.reward_dtype)
        flags = {key: Categorical(2, shape=(num_envs, 1), device=device, dtype=torch.bool) for key in DONE_KEYS}
        self.done_spec = Composite(flags, shape=(num_envs,), device=device)
        if expose_state:
            self.state_spec = Composite({STATE_KEY: self._world_state_spec()}, shape=(num_envs,), device=device)
            self.observation_spec[STATE_KEY] = self._world_state_spec()

    @classmethod
    def from_dynamics(
        cls,
        dynamics: Dynamics,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        num_envs: int,
        max_episode_steps: int | None = None,
        bank: TensorDictBase | None = None,
        bank_size: int = 1024,
        seed: int | None = None,
        exact_rows: bool = False,
        one_hot: bool = False,
        expose_state: bool = False,
    ) -> TorchRLEnv:
        """Many envs of any `Dynamics`, seen by one agent that observes and does everything.

        Args:
            dynamics: The batched transition.
            observation_space: One env's observations.
            action_space: One env's actions.
            num_envs: B.
            max_episode_steps: Steps after which an episode is truncated; None for no limit.
            bank: Initial states ``(M,)``; None for the dynamics' own, or `bank_size` fresh ones.
            bank_size: M where the bank must be made.
            seed: Seed of the first reset.
            exact_rows: Bit-equal rows at any B.
            one_hot: Discrete actions as one-hot vectors.
            expose_state: Carry the state of the world in the TensorDict.
        """
        check_spaces(observation_space, action_space, cls.__name__)
        engine = Engine(
            dynamics,
            num_envs,
            [Perspective(ActionForm(action_space).spec)],
            max_episode_steps=max_episode_steps,
            autoreset_mode=AutoresetMode.DISABLED,
            bank=bank,
            bank_size=bank_size,
            seed=seed,
            exact_rows=exact_rows,
        )
        return cls(engine, observation_space, action_space, one_hot=one_hot, expose_state=expose_state)

    # -- EnvBase --------------------------------------------------------------------------------------------------

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed = seed

    def _reset(self, tensordict: TensorDictBase | None = None, *, set_state: bool = False, **kwargs: Any) -> TensorDict:
        if set_state and tensordict is not None:
            return self._resumed(tensordict)
        if tensordict is None:
            return self._restarted(None)
        mask = tensordict.get("_reset", None)
        if mask is not None:
            return self._restarted(check_mask(mask, self.engine.num_envs, "_reset"))
        given = self.given_starts(tensordict)
        if given is None:
            return self._restarted(None)
        return self._restarted(None, observation_in(given, self._observation_space), self._not_done(given))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        stepped = tensordict.get("_step", None)
        if stepped is not None:
            stepped = check_mask(stepped, self.engine.num_envs, "_step")
        before = None if stepped is None else self.engine.state()
        entries, _ = self._stepped(tensordict, None)
        if before is not None and stepped is not None:
            entries = self._held(entries, stepped, before, tensordict)
        return self._pack(entries)

    def _step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """A step with its resets in one call of the engine: the numbers of `step`, `step_mdp` and `maybe_reset`."""
        if self.expose_state or not {"_step", "next"}.isdisjoint(tensordict.keys()):
            return super()._step_and_maybe_reset(tensordict)
        self._assert_tensordict_shape(tensordict)
        entries, observation = self._stepped(tensordict, AutoresetMode.SAME_STEP)
        # The entries are right by construction: checking them would take as long as a tenth of a small network.
        ended = unchecked(entries, self.batch_size, self.device)
        tensordict._set_str("next", ended, validated=True, inplace=False, non_blocking=False)
        following = {key: value for key, value in tensordict.items() if key != "next"}
        following |= self._fresh(observation)
        return tensordict, unchecked(following, self.batch_size, self.device)

    def any_done(self, tensordict: TensorDictBase) -> Any:
        """Whether any env is done, ``()`` bool; nobody has looked at it yet. Writes ``_reset``."""
        done = tensordict.get("done")
        tensordict.set("_reset", done.clone())
        return done.any()

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset what is done, by a masked select; in host memory only if something is."""
        done = tensordict.get("done", None)
        if done is None or known_to_be_running(done):
            return tensordict
        return tensordict.update(self.restarted(done))

    def restarted(self, done: Tensor) -> TensorDict:
        """What a reset of the envs that are `done` gives, of all envs.

        Args:
            done: ``(B, 1)`` or ``(B,)`` bool.
        """
        return self._restarted(check_mask(done, self.engine.num_envs, "done"))

    def append_transform(self, transform: Any) -> EnvBase:
        """This env in our `TransformedEnv`."""
        from wm_vec.envs.torchrl.transformed import TransformedEnv

        return TransformedEnv(self, transform)

    def _random_actions(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Random actions from the envs' own counters, made on the device; before the first reset from the spec."""
        if not self.engine.started:
            return super().rand_action(tensordict)
        action = self.engine.sample_actions(self._draws)
        self._draws += 1
        if self.one_hot:
            action = self._one_hot(action)
        if action.dtype is not self._action_dtype:
            action = as_specified(action, self.action_spec)
        tensordict = self._pack({}) if tensordict is None else tensordict
        return tensordict.set("action", action)

    def start_from(self, source: Any, num_states: int = 1024) -> None:
        """Let later episodes start from real observations, which every env draws from by its own counters.

        Call it again when the buffer has grown, and after ``world.finetune``, which brings the world's own starts back;
        in the middle of a collector's run, too. Resets stay free of host reads; this call is not.

        Args:
            source: A `TensorDictReplayBuffer` of real transitions, or a TensorDict with observations ``(...,)``.
            num_states: Observations to draw from it at most, by torch's generator; all alike likely, whatever a
                buffer's sampler prefers.

        Raises:
            TypeError: Another source, or a world that cannot encode observations.
            ValueError: An empty source, one that lacks observations, or observations that do not fit.
        """
        observations = sampled_observations(source, self._observation_space, num_states)
        self.engine.load_bank(self.engine.encode(observations))

    def compile(self, *, warmup: int | None = None, **kwargs: Any) -> TorchRLEnv:
        """Compile the step with its resets; see `torchrl.envs.EnvBase.compile`. With ``warmup=2`` it is traced once.

        Args:
            warmup: Steps that run eagerly first.
            kwargs: Of `torch.compile`; ``fullgraph=True`` works.

        Raises:
            ValueError: A model that cannot be traced.
        """
        check_compilable(self.engine, bool(kwargs.get("fullgraph", False)))
        return super().compile(warmup=warmup, **kwargs)

    def to(self, device: torch.device | str | int) -> TorchRLEnv:
        """Itself: the world stays where it is.

        Raises:
            ValueError: Another device.
        """
        check_device(device, self.engine.device)
        return self

    # -- parts ----------------------------------------------------------------------------------------------------

    def _stepped(self, tensordict: TensorDictBase, autoreset_mode: AutoresetMode | None) -> tuple[dict[str, Any], Any]:
        """One step of the engine: the entries where it ended, and what the next action answers to."""
        action = self._check_action(tensordict)
        if self.one_hot:
            action = class_indices(action, self._action_space)
        step = self.engine.step_columns(action, autoreset_mode)
        self._draws = 0
        entries = observation_entries(step.final_observation)
        entries["reward"] = step.reward
        entries["done"], entries["terminated"], entries["truncated"] = step.finished, step.terminated, step.truncated
        return entries, step.observation

    def _restarted(self, mask: Tensor | None, given: Any = None, given_mask: Tensor | None = None) -> TensorDict:
        """Fresh episodes in the rows of `mask`, or in all; the first time in all.

        Args:
            mask: ``(B,)`` bool, or None.
            given: Observations ``(B, ...)`` that they start from; None for none.
            given_mask: ``(B,)`` bool, the rows that do; None for all.
        """
        seed = None
        if mask is None or not self.engine.started:
            seed, self._next_seed, mask = self._next_seed, None, None
            self._draws = 0
        if given is None:
            return self._seen(self.engine.reset(seed, mask))
        start = partial(self.engine.encode, given)
        return self._seen(self.engine.reset(seed, mask, start=start, start_mask=given_mask))

    def given_starts(self, tensordict: TensorDictBase) -> TensorDictBase | None:
        """The observations in `tensordict` that episodes are to start from, with its flags; None without any.

        Raises:
            ValueError: A part of them alone.
        """
        if tensordict.get(STATE_KEY, None) is not None:  # which a reset without set_state is not to go on from
            return None
        keys = observation_keys(self._observation_space)
        missing = [key for key in keys if tensordict.get(key, None) is None]
        if len(missing) == len(keys):
            return None
        if missing:
            raise ValueError(
                f"TorchRLEnv: reset(td) starts from td's observations if it has all of {keys}, but it lacks {missing}. "
                "Add them, or leave all of them out for episodes that start as ever."
            )
        return tensordict.select(*keys, *DONE_KEYS, strict=False)

    def _not_done(self, given: TensorDictBase) -> Tensor | None:
        """``(B,)`` bool, the rows whose observation is not the end of an episode; None where nothing says so."""
        found = {key: given.get(key, None) for key in DONE_KEYS}
        flags = [check_mask(flag, self.engine.num_envs, key) for key, flag in found.items() if flag is not None]
        return ~torch.stack(flags).any(0) if flags else None

    def _held(
        self, entries: dict[str, Any], stepped: Tensor, before: EnvState, tensordict: TensorDictBase
    ) -> dict[str, Any]:
        """What a step gives where only the rows `stepped` ``(B,)`` took it.

        The others are put back. As TorchRL has it, they show what they showed before, the flags that `tensordict` came
        with among it, and earn nothing.
        """
        seen = self.engine.set_state(self.engine.state().where(stepped, before))
        held = observation_entries(seen)
        for key in ("reward", *DONE_KEYS):
            shown = None if key == "reward" else tensordict.get(key, None)
            held[key] = torch.zeros_like(entries[key]) if shown is None else shown
        return select_rows(stepped, entries, held)

    def _resumed(self, tensordict: TensorDictBase) -> TensorDict:
        """Go on from the state in `tensordict`."""
        state = EnvState.from_tensordict(check_state(tensordict, STATE_KEY, self.state_spec[STATE_KEY]))
        return self._seen(self.engine.set_state(state))

    def _seen(self, observation: Any) -> TensorDict:
        """What a reset gives."""
        return self._pack(self._fresh(observation))

    def _fresh(self, observation: Any) -> dict[str, Any]:
        """The entries of envs of which none is done."""
        entries = observation_entries(observation)
        if not self._observations_fit:
            check_observation(entries, self._observations)
            self._observations_fit = True
        shape = (self.engine.num_envs, 1)
        for key in DONE_KEYS:
            entries[key] = torch.zeros(shape, dtype=torch.bool, device=self.device)
        return entries

    def _pack(self, entries: dict[str, Any]) -> TensorDict:
        if self.expose_state and entries:
            entries[STATE_KEY] = self.engine.state().to_tensordict().to(self.device, non_blocking=True)
        return TensorDict(entries, batch_size=self.batch_size, device=self.device)

    def _one_hot(self, action: Tensor) -> Tensor:
        spaces = self._action_space
        sizes = [int(n) for n in spaces.nvec] if isinstance(spaces, gym.spaces.MultiDiscrete) else [int(spaces.n)]  # type: ignore[attr-defined]
        columns = action.reshape(self.engine.num_envs, len(sizes)).unbind(1)
        hot = [torch.nn.functional.one_hot(column, n) for column, n in zip(columns, sizes, strict=True)]
        return torch.cat(hot, -1).bool()

    def _world_state_spec(self) -> Composite:
        state = self.engine.example_state().to_tensordict()
        num_envs = self.engine.num_envs

        def spec(part: TensorDictBase) -> Composite:
            entries = {
                key: spec(value)
                if isinstance(value, TensorDictBase)
                else Unbounded((num_envs, *value.shape[1:]), device=self.engine.device, dtype=value.dtype)
                for key, value in part.items()
            }
            return Composite(entries, shape=(num_envs,), device=self.engine.device)

        return spec(state)
