"""A TorchRL environment over the engine: TensorDict in, TensorDict out, thousands of envs on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import gymnasium as gym
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from wm_vec.adapters.spaces import ActionCodec, check_spaces
from wm_vec.compat import COMPILED_STEP, new_tensordict, set_entry
from wm_vec.core import AutoresetMode, Dynamics, Engine, EngineConfig, EnvState, GivenStart, Perspective, StepOutput
from wm_vec.core.config import EngineKeywords
from wm_vec.core.trees import select_envs
from wm_vec.envs.replay import sampled_observations
from wm_vec.envs.torchrl.base import EngineEnv, SeededEnvs
from wm_vec.envs.torchrl.checks import ActionCheck, check_compilable, check_mask, not_done_in, read_state
from wm_vec.envs.torchrl.resets import known_to_be_running
from wm_vec.envs.torchrl.specs import DONE_KEYS, STATE_KEY, carried_state
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv
from wm_vec.plain import check_callable, truth, whole_number


class TorchRLEnv(EngineEnv, SeededEnvs):
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
            ``"observation"``, the parts of a Tuple by their places.
        action_space: One env's actions.
        one_hot: Discrete actions and observations as one-hot vectors in place of class indices, as TorchRL's GymEnv has
            them by default. In host memory, and under `validate`, actions that are none are refused; elsewhere the
            largest entry counts.
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
        spaces, expose_state = (observation_space, action_space), truth(expose_state, "expose_state")
        super().__init__(engine, *spaces, batched=True, one_hot=one_hot, state=expose_state)
        self.expose_state = expose_state
        self._supports_set_state = expose_state
        self._draws = 0
        self._check_action = ActionCheck(action_space, self.action_spec, one_hot)

    @classmethod
    def from_dynamics(
        cls,
        dynamics: Dynamics,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        num_envs: int,
        bank: TensorDictBase | None = None,
        one_hot: bool = False,
        expose_state: bool = False,
        **settings: Unpack[EngineKeywords],
    ) -> TorchRLEnv:
        """Many envs of any `Dynamics`, seen by one agent that observes and does everything.

        Args:
            dynamics: The batched transition.
            observation_space: One env's observations.
            action_space: One env's actions.
            num_envs: B.
            bank: Initial states ``(M,)``; None for the dynamics' own, or `bank_size` fresh ones.
            one_hot: Discrete actions and observations as one-hot vectors.
            expose_state: Carry the state of the world in the TensorDict.
            **settings: See `wm_vec.core.EngineConfig`; `autoreset_mode` is none of them.
        """
        check_spaces(observation_space, action_space, cls.__name__)
        if "autoreset_mode" in settings:
            raise TypeError(
                f"{cls.__name__}.from_dynamics: TorchRL itself resets what is done; leave autoreset_mode out."
            )
        engine = Engine(
            dynamics,
            num_envs,
            [Perspective(ActionCodec(action_space).spec)],
            replace(EngineConfig(**settings), autoreset_mode=AutoresetMode.DISABLED),
            bank=bank,
        )
        return cls(engine, observation_space, action_space, one_hot=one_hot, expose_state=expose_state)

    def to_stateless(self) -> StatelessTorchRLEnv:
        """The same world, seen and paid alike, as a function of the state in the TensorDict; for planners and losses.

        It takes the seed that this environment was made with.
        """
        spaces = self.observation_space, self.action_space
        return StatelessTorchRLEnv(self.engine.sibling(1), *spaces, one_hot=self._asked_one_hot)

    # -- EnvBase --------------------------------------------------------------------------------------------------

    def _reset(self, tensordict: TensorDictBase | None = None, *, set_state: bool = False, **kwargs: Any) -> TensorDict:
        if tensordict is None:
            return self._restarted(None)
        # A mask asks for fresh episodes, also where TorchRL takes any state in the TensorDict for one to go on from.
        mask = tensordict.get("_reset", None)
        if mask is not None:
            return self._restarted(check_mask(mask, self.engine.num_envs, "_reset"))
        if set_state:
            return self._resumed(tensordict)
        given = self.given_starts(tensordict)
        if given is None:
            return self._restarted(None)
        not_done = not_done_in(given, self.engine.num_envs)
        return self._restarted(None, self._given(given), not_done)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        stepped = tensordict.get("_step", None)
        if stepped is not None:
            stepped = check_mask(stepped, self.engine.num_envs, "_step")
        before = None if stepped is None else self.engine.state()
        entries = self._ended(self._stepped(tensordict, None))
        if before is not None and stepped is not None:
            entries = self._held(entries, stepped, before, tensordict)
        return self._pack(entries)

    def _step_and_maybe_reset(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """A step with its resets in one call of the engine: the numbers of `step`, `step_mdp` and `maybe_reset`."""
        if self.expose_state or type(tensordict) is not TensorDict or "_step" in tensordict or "next" in tensordict:
            return super()._step_and_maybe_reset(tensordict)
        if tensordict.batch_size != self.batch_size:
            self._assert_tensordict_shape(tensordict)
        output = self._stepped(tensordict, AutoresetMode.SAME_STEP)
        following = {**dict(tensordict.items()), **self._fresh(output.observation, self.engine.num_envs)}
        set_entry(tensordict, "next", self._pack(self._ended(output)))
        return tensordict, self._pack(following)

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
        action = self.engine.sample_actions(self._draws)[self._perspective.name]
        self._draws += 1
        tensordict = self._pack({}) if tensordict is None else tensordict
        return tensordict.set("action", self._own_action(action))

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
        observations = sampled_observations(source, self.observation_space, num_states)
        self.engine.load_bank(self.engine.encode({self._perspective.name: observations}))

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

    # -- imagination ----------------------------------------------------------------------------------------------

    def imagine(self, policy: Callable[..., Any], horizon: int, grad: bool = False) -> TensorDict:
        """Run policy and world together from the current state; the envs go on where it ends.

        The rollout is that of ``rollout(horizon, policy, break_when_any_done=False)`` from here, as a collector gives
        it. Where an episode ends on the way, the next step starts a fresh one, and gradients end there too: what the
        policy did in one episode counts for that episode alone. Of a `TransformedEnv` this is the environment below:
        its transforms are left out.

        Args:
            policy: What `rollout` takes: a TensorDict module, or a callable of the observations in the order of
                `observation_spec`.
            horizon: Steps T.
            grad: Keep the graph, so that gradients flow from the rewards through the world into the policy. Parameters
                of the world that require gradients collect them too; freeze them with ``requires_grad_(False)`` (a
                `WorldModel` keeps its own out of the graph). Discrete actions pass none on. A compiled env steps
                uncompiled then.

        Returns:
            ``(B, T)`` TensorDict: observations, ``done``, ``terminated``, ``truncated`` ``(B, T, 1)`` bool and what the
            policy writes at the root; where each step ended, before any reset, with ``reward`` ``(B, T, 1)`` under
            ``next``.

        Raises:
            ValueError: A horizon that is no whole number of at least 1.
            RuntimeError: Before the first reset.
        """
        horizon, grad = whole_number(horizon, "imagine: horizon"), truth(grad, "imagine: grad")
        check_callable(policy, "imagine: policy")
        engine = self.engine
        if not engine.started:
            raise RuntimeError("imagine: call reset() first; there is no episode yet.")
        if grad:
            with engine.keep_graph(), self._uncompiled():
                return self._played(policy, horizon)
        with torch.no_grad():
            return engine.replayed(partial(self._played, policy, horizon), "rollout", policy, horizon)

    def _played(self, policy: Callable[..., Any], horizon: int) -> TensorDict:
        """A rollout from where the envs are, to where they go on."""
        rollout = self.rollout(
            horizon,
            policy,
            auto_reset=False,
            tensordict=self.current(),
            break_when_any_done=False,
            return_contiguous=True,
        )
        # `rollout` leaves what ended in its last step to the caller.
        self.maybe_reset(rollout[:, -1]["next"])
        return rollout

    def current(self) -> TensorDict:
        """What a step starts from: the observations of the envs as they are, none of them done."""
        return self._seen(self.engine.world.see(self.engine.predictions()))

    # -- parts ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _uncompiled(self) -> Iterator[None]:
        """Inside, `compile` has no effect."""
        compiled = self.__dict__.get(COMPILED_STEP)
        self.eager()
        try:
            yield
        finally:
            if compiled is not None:
                self.__dict__[COMPILED_STEP] = compiled

    def _stepped(self, tensordict: TensorDictBase, autoreset_mode: AutoresetMode | None) -> StepOutput:
        """One step of the engine by the action in `tensordict`."""
        action = self._engine_action(self._check_action(tensordict))
        self._draws = 0
        return self.engine.step({self._perspective.name: action}, autoreset_mode)

    def _restarted(self, mask: Tensor | None, given: Any = None, given_mask: Tensor | None = None) -> TensorDict:
        """Fresh episodes of the envs of `mask`, or in all; the first time in all.

        Args:
            mask: ``(B,)`` bool, or None.
            given: Observations ``(B, ...)`` that they start from, by perspective name; None for none.
            given_mask: ``(B,)`` bool, the envs that do; None for all.
        """
        seed = None
        if mask is None or not self.engine.started:
            seed, self._next_seed, mask = self._next_seed, None, None
            self._draws = 0
        if given is None:
            return self._seen(self.engine.reset(seed, mask))
        starts = GivenStart(partial(self.engine.encode, given), given_mask)
        return self._seen(self.engine.reset(seed, mask, given=starts))

    def _held(
        self, entries: dict[str, Any], stepped: Tensor, before: EnvState, tensordict: TensorDictBase
    ) -> dict[str, Any]:
        """What a step gives where only the envs `stepped` ``(B,)`` took it.

        The others are put back. As TorchRL has it, they show what they showed before, the flags that `tensordict` came
        with among it, and earn nothing.
        """
        seen = self.engine.set_state(self.engine.state().where(stepped, before))
        held = self._shown(seen)
        for key in ("reward", *DONE_KEYS):
            shown = None if key == "reward" else tensordict.get(key, None)
            held[key] = torch.zeros_like(entries[key]) if shown is None else shown
        return select_envs(stepped, entries, held)

    def _resumed(self, tensordict: TensorDictBase) -> TensorDict:
        """Go on from the state in `tensordict`."""
        where = "TorchRLEnv: reset(td, set_state=True)"
        return self._seen(self.engine.set_state(read_state(tensordict, STATE_KEY, self.state_spec[STATE_KEY], where)))

    def _seen(self, observation: Any) -> TensorDict:
        """What a reset gives."""
        return self._pack(self._fresh(observation, self.engine.num_envs))

    def _pack(self, entries: dict[str, Any]) -> TensorDict:
        """Entries that are right by construction, so that TensorDict need not check them."""
        if self.expose_state and entries:
            entries[STATE_KEY] = carried_state(self.engine.state()).to(self.device, non_blocking=True)
        return new_tensordict(entries, self.batch_size, self.engine.device)
