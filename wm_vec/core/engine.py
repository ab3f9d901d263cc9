"""The engine: owns the state of all envs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any, Literal
from weakref import WeakSet

import torch
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_kernels.dispatch import has_kernels
from wm_vec.core.actions import JointAction, Sharing
from wm_vec.core.capture import GRAPHS, Captures, Template, drop_oldest, map_tensors, may_capture
from wm_vec.core.config import Backend, EngineConfig
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.imagination import addresses_of, imagined, why_policy_not_captured
from wm_vec.core.perspective import WHOLE_DTYPES, Perspective
from wm_vec.core.probe import Recorder
from wm_vec.core.resets import BANK_SEED, Bank, Fresh, GivenStart, bank_leaves, fork_state, make_bank, restart
from wm_vec.core.rewards import RewardFunctions
from wm_vec.core.rng import CounterRNG, seed_list, spawn_seeds
from wm_vec.core.state import EnvState, StateLayout, StepOutput, warn_of_divergence
from wm_vec.core.step import World, step
from wm_vec.core.trees import Tree, copies, num_observations
from wm_vec.plain import check_callable, check_type, truth, warn_once, whole_number
from wm_vec.torch_settings import without_autocast


class EngineFamily(WeakSet["Engine"]):
    """Engines that share a bank of their world's own; a copy of a family is a new one without members."""

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineFamily, ()


class Engine:
    """B envs of one dynamics, seen from any number of perspectives.

    Observations, and actions of several perspectives, are mappings from a perspective's name.

    Args:
        dynamics: The batched transition.
        num_envs: B.
        perspectives: Who sees, acts and is paid. Their actions, flattened and in this order, are the columns of the
            dynamics' action.
        config: The settings.
        bank: Initial states ``(M,)`` that resets draw from; None takes the dynamics' own, or fresh ones, or none at all
            where the dynamics starts every episode afresh.
        family: Engines that share the world's own bank: this one adds itself, its forks and its siblings.
        sharing: How the columns of the dynamics' action are made of those of the perspectives' actions, where several
            write one; None where each has its own.

    Attributes:
        world: What a step needs besides the state; `wm_vec.core.step.step` is the step as a function of any state.
        num_steps: Grows whenever the envs step.
        start_info: What a dynamics that starts episodes afresh reported at the last reset of all envs.

    Raises:
        TypeError: No `Dynamics`.
        ValueError: A number of envs or perspectives that cannot be, or a bank of another world.
    """

    @torch.inference_mode(False)  # a step that keeps its graph cannot save tensors that are made in it
    @without_autocast
    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int,
        perspectives: Sequence[Perspective],
        config: EngineConfig | None = None,
        *,
        bank: TensorDictBase | None = None,
        family: EngineFamily | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        if not isinstance(dynamics, Dynamics):
            raise TypeError(
                f"dynamics must be a wm_vec.core.Dynamics, got {type(dynamics).__name__}: make it a subclass. "
                "WorldModelVectorEnv.from_callables makes one of any model's methods."
            )
        if not (isinstance(perspectives, Sequence) and all(isinstance(p, Perspective) for p in perspectives)):
            raise TypeError(f"perspectives must be a list of Perspective, got {perspectives!r}.")
        names = [p.name for p in perspectives]
        if not names or len({*names}) < len(names):
            raise ValueError(f"perspectives: give at least one, each with a name of its own, got {names}.")
        config = EngineConfig() if config is None else config
        check_type(config, EngineConfig, "config")
        check_type(sharing, (Sharing, type(None)), "sharing")
        device, dtype = dynamics.device, dynamics.dtype
        # Sums of rewards need more than half precision.
        self.reward_dtype = torch.promote_types(dynamics.reward_dtype, torch.float32)
        rewards = RewardFunctions(perspectives, self.reward_dtype)
        reward_states = {p.name: p.reward_state.to(device, dtype) for p in perspectives if p.reward_state is not None}
        fresh = bank is None and dynamics.starts_fresh
        if not fresh and bank is None:
            bank = dynamics.bank if dynamics.bank is not None else make_bank(dynamics, config.bank_size)
        example = dynamics.example if bank is None else bank
        layout = StateLayout(example, reward_states, len(names), self.reward_dtype, dynamics.signature)
        resets: Bank | Fresh = Fresh(dynamics, layout)
        if bank is not None:
            resets = Bank(bank_leaves(bank, layout, device), config.bank_size)
        world = World(
            dynamics=dynamics,
            perspectives=tuple(perspectives),
            actions=JointAction(perspectives, dtype, device, config.validate, sharing),
            rewards=rewards,
            resets=resets,
            layout=layout,
            config=config,
            fused=None if rewards.has_functions or sharing is not None else dynamics.fuse(perspectives),
            kernels=_runs_kernels(config.backend, device),
        )
        if rewards.has_functions:
            rewards.probe(*_plausible(world, 0))
        self._attach(replace(world, capture=_how_captured(world)), num_envs, family)

    def _attach(self, world: World, num_envs: int, family: EngineFamily | None) -> None:
        """Become an engine of `world` without episodes."""
        self.world, self.num_envs, self.config = world, whole_number(num_envs, "num_envs"), world.config
        self.dynamics, self.perspectives = world.dynamics, world.perspectives
        self.device, self.dtype = world.dynamics.device, world.dynamics.dtype
        self.reward_dtype = world.layout.reward_dtype
        self.start_info: Mapping[str, Any] = {}
        self._state: EnvState | None = None
        self._fork_count = 0
        self._keeps_graph: bool | None = None  # None outside of `keep_graph`
        self._captures, self._inside_capture = Captures(), False
        self._policies: dict[tuple[Callable[..., Any], int], bool | None] = {}
        self.num_steps = 0
        self._family = EngineFamily() if family is None else family
        self._family.add(self)

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When finished envs reset."""
        return self.config.mode

    def only_perspective(self, face: str) -> Perspective:
        """The engine's one perspective, for a face that serves no more.

        Raises:
            ValueError: It has several.
        """
        if len(self.perspectives) > 1:
            names = [p.name for p in self.perspectives]
            raise ValueError(f"{face} serves one perspective, this engine has {names}. Make an engine of one of them.")
        return self.perspectives[0]

    def load_bank(self, bank: TensorDictBase) -> None:
        """Take other initial states ``(M,)`` from the next reset on, in the same buffer if there is room.

        Raises:
            ValueError: No states, or the states of another world.
        """
        leaves = bank_leaves(bank, self.world.layout, self.device)
        if not isinstance(self.world.resets, Bank):
            raise ValueError("load_bank: this dynamics starts every episode afresh; it has no bank to replace.")
        self.world.resets.load(leaves)

    @torch.no_grad()
    @without_autocast
    def encode(self, observation: Mapping[str, Tree], rng: CounterRNG | None = None) -> TensorDictBase:
        """States ``(M,)`` at which the perspectives see given, real observations; for `load_bank` and `reset`.

        Args:
            observation: Perspective name -> ``(M, ...)``, as `reset` returns it, of those that saw something; NaN where
                a number was not observed.
            rng: Counters ``(M,)`` that the model draws the rest at; None for those of a bank.

        Raises:
            TypeError: The dynamics cannot encode.
            ValueError: Observations that do not fit, or that it cannot encode.
        """
        if not isinstance(observation, Mapping):
            names = [p.name for p in self.perspectives]
            raise TypeError(f"encode: give a mapping from {names} to observations, got {type(observation).__name__}.")
        size = num_observations(observation)
        if rng is None:
            rng = CounterRNG.from_seeds(torch.arange(BANK_SEED, BANK_SEED + size, device=self.device))
        if size != len(rng.seed):
            raise ValueError(f"encode: {len(rng.seed)} observations are needed, one for each state, got {size}.")
        like = self.dynamics.observe(self.world.layout.example().dynamics)
        seen = [p.whole(observation[p.name], like) for p in self.perspectives if p.name in observation]
        # Each is its part of one flat observation, NaN elsewhere.
        whole = reduce(lambda one, other: torch.where(one.isnan(), other, one), seen)
        return self.dynamics.encode(whole, rng)

    def reset(
        self,
        seed: Any = None,
        mask: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
        given: GivenStart | None = None,
    ) -> dict[str, Tree]:
        """Start episodes.

        Args:
            seed: An int s seeds env i with ``s + i``, a sequence gives one each (None keeps an env's own seed and
                goes on to its next episode). None for all: the next episode, or entropy at the first reset.
            mask: ``(B,)`` bool, the envs to reset; the others go on. None for all.
            options: Handed to a dynamics that starts episodes afresh; a bank has no use for them.
            given: States that the episodes start from; None draws them.

        Returns:
            Perspective name -> the observation ``(B, ...)`` of every env.

        Raises:
            ValueError: A mask before the first full reset, or of another shape; seeds that do not fit; the states of
                another world, of another number of envs or on another device.
        """
        state = self._state
        if state is None:
            if mask is not None:
                raise ValueError("reset: the first reset must be of all envs; give no mask.")
            own = self.config.seed
            first = seed_list(spawn_seeds(None, self.num_envs) if own is None else own, self.num_envs)
            state = self.world.layout.before_start(torch.tensor(first, dtype=torch.int64, device=self.device))
            self._reseed(first)
        mask = self._checked_mask(mask, "mask")
        seeds = None if seed is None else seed_list(seed, self.num_envs)
        self._reseed(seeds)
        if given is not None:
            given = given._replace(mask=self._checked_mask(given.mask, "start_mask"))
        with torch.set_grad_enabled(bool(self._keeps_graph) and torch.is_grad_enabled()):
            self._state, info = restart(self.world, state, seeds=seeds, mask=mask, options=options, given=given)
        # An entry of some envs alone does not say which they are.
        self.start_info = copies(dict(info)) if mask is None else {}
        return self.world.observe(self._state)

    def _checked_mask(self, mask: Tensor | None, name: str) -> Tensor | None:
        if mask is not None:
            check_type(mask, Tensor, f"reset: the {name}")
            if (
                tuple(mask.shape) != (self.num_envs,)
                or mask.dtype != torch.bool
                or (mask.is_meta and self.device.type != "meta")
            ):
                raise ValueError(
                    f"reset: the {name} must be bool of shape ({self.num_envs},), got {mask.dtype}, "
                    f"{tuple(mask.shape)} on {mask.device}."
                )
        return None if mask is None else mask.to(self.device)

    def _reseed(self, seeds: Sequence[int | None] | None) -> None:
        if seeds is not None and seeds[0] is not None:
            self.dynamics.reseed(seeds[0])

    @property
    def started(self) -> bool:
        """Whether there are episodes yet."""
        return self._state is not None

    def step(self, action: Any, autoreset_mode: AutoresetMode | None = None) -> StepOutput:
        """Step all envs; no host sync.

        Args:
            action: Perspective name -> ``(B, *shape)`` on the engine's device; of a single perspective also the tensor.
            autoreset_mode: For this step; None for the engine's own.

        Raises:
            RuntimeError: Before the first reset.
            TypeError, ValueError: An action of another shape, dtype or device (or, under `validate`, value).
        """
        grad = torch.is_grad_enabled() and bool(self._keeps_graph)
        if grad and torch.compiler.is_compiling():
            return _eagerly(self.step, action, autoreset_mode)
        state = self._started("step")
        actions = self.world.actions.check(action, self.num_envs)
        if grad or self.world.capture is None or self._inside_capture or not may_capture(self.device):
            with torch.set_grad_enabled(grad):
                self._state, output = step(self.world, state, actions, autoreset_mode)
        else:
            self._state, output = self._captured_step(state, actions, autoreset_mode)
        if not torch.compiler.is_compiling():  # it would guard the number, and compile every step
            self.num_steps += 1
        if self.config.validate and bool(output.diverged.any()):
            warn_of_divergence()
        return output

    @torch.no_grad()
    def _captured_step(
        self, state: EnvState, actions: list[Tensor], autoreset_mode: AutoresetMode | None
    ) -> tuple[EnvState, StepOutput]:
        """A step as one graph, or as the graphs about users' functions."""
        world, mode = self.world, self.autoreset_mode if autoreset_mode is None else autoreset_mode
        if world.capture == "parts":
            return step(world, state, actions, mode, self._captures)
        what, copy = ("step", mode), self.config.copy
        try:
            return self._captures.run(
                what, world.addresses(), copy, lambda s, a: step(world, s, a, mode), state, actions
            )
        except RuntimeError as error:
            self._give_up_capture(error)
            return step(world, state, actions, mode)

    def model_state(self) -> TensorDictBase:
        """The dynamics' current state, ``(B,)``; not a copy."""
        return self._started("model_state").dynamics

    def predictions(self) -> Tree:
        """The dynamics' whole observation of the current state, ``(B, ...)``; not a copy."""
        return self.dynamics.observe(self.model_state())

    def active(self) -> Tensor:
        """``(B, P)`` bool, the perspectives whose actions the next step looks at: those that have not ended yet."""
        state = self._started("active")
        return ~(state.ended | state.pending[:, None])

    def sample_actions(self, draw: int = 0) -> dict[str, Tensor]:
        """Random actions ``(B, *shape)`` by perspective name, made on the device; see `JointAction.sample`.

        Args:
            draw: Another number gives other actions from the same states.
        """
        state = self._started("sample_actions")
        draw = whole_number(draw, "sample_actions: draw", 0, 2**24 - 1)
        return self.world.actions.sample(CounterRNG(state.seed, state.episode, state.elapsed), draw)

    def state(self) -> EnvState:
        """The state of all envs, a copy. Continuing from it through `set_state` is bit-equal."""
        return self._started("state").clone()

    def set_state(self, state: EnvState) -> dict[str, Tree]:
        """Go on from `state`, ``(B,)``, of which a copy is kept; returns the observations.

        Raises:
            ValueError: Another batch size, or the state of another world.
        """
        check_type(state, EnvState, "set_state: the state", "Take it from state().")
        if tuple(state.batch_size) != (self.num_envs,):
            raise ValueError(f"set_state: this engine has {self.num_envs} envs, the state {tuple(state.batch_size)}.")
        self._state = self.world.layout.check(state).clone()
        return self.world.observe(self._state)

    def fork(self, indices: Tensor | Sequence[int], rng: str = "fresh") -> Engine:
        """A new engine whose env j continues this engine's env ``indices[j]``; it shares no buffer but the weights.

        Args:
            indices: Which envs, each any number of times.
            rng: ``"fresh"`` gives every fork noise of its own, so that a planner does not see the future's;
                ``"same"`` continues with the very numbers that this engine would draw. The n-th fresh fork of an
                engine is the same in every run; n is the engine's own count, no part of the `EnvState`.
        """
        state = self._started("fork")
        if rng not in ("fresh", "same"):
            raise ValueError(f"fork: rng must be 'fresh' or 'same', got {rng!r}.")
        try:
            index = torch.as_tensor(indices)
        except (TypeError, ValueError, RuntimeError):  # nothing that a tensor can be made of
            index = torch.empty(0)
        if index.dim() != 1 or not len(index) or index.is_meta or index.dtype not in WHOLE_DTYPES:
            raise ValueError(f"fork: indices must be a non-empty list of env numbers, got {indices!r}.")
        if bool(((index < 0) | (index >= self.num_envs)).any()):
            raise ValueError(f"fork: indices must lie in [0, {self.num_envs}), got {index.tolist()}.")
        picked = state[index.to(self.device, torch.int64)].clone()
        if rng == "fresh":
            self._fork_count += 1
            picked = fork_state(picked, self._fork_count)
        forked = self.sibling(len(index))
        forked._state = picked
        return forked

    def sibling(self, num_envs: int | None = None, autoreset_mode: AutoresetMode | str | None = None) -> Engine:
        """A new engine over the same world, perspectives, horizon and a copy of the bank, with no episodes yet.

        Args:
            num_envs: B; None for this engine's.
            autoreset_mode: Gymnasium's, or its name; None for this engine's.
        """
        config = self.config if autoreset_mode is None else replace(self.config, autoreset_mode=autoreset_mode)
        world = replace(self.world, resets=self.world.resets.copy(), config=config)
        made = Engine.__new__(Engine)
        made._attach(world, self.num_envs if num_envs is None else num_envs, self._family)
        return made

    def imagine(self, policy: Callable[..., Any], horizon: int, grad: bool = False) -> TensorDict:
        """Run policy and world together from the current state; the engine goes on where it ends.

        Args:
            policy: ``observation (B, ...) -> action (B, ...)``, or a TensorDict module from ``"observation"`` to
                ``"action"``.
            horizon: Steps T.
            grad: Keep the graph, so that gradients flow from the rewards through the world into the policy.

        Returns:
            ``(B, T)`` TensorDict in TorchRL's layout: ``observation``, ``action`` and under ``next`` the step's
            ``observation`` (before any reset), ``reward`` ``(B, T, 1)``, ``terminated``, ``truncated``, ``done``.
            Under NEXT_STEP envs are reset in the step that ends, as under SAME_STEP: every step is a transition.

        Raises:
            ValueError: Several perspectives, or a horizon below 1.
            RuntimeError: Before the first reset.
        """
        self.only_perspective("imagine")
        horizon, grad = whole_number(horizon, "imagine: horizon"), truth(grad, "imagine: grad")
        check_callable(policy, "imagine: policy")
        self._started("imagine")

        def played() -> TensorDict:
            state, mode = self._started("imagine"), self.autoreset_mode
            if mode is AutoresetMode.NEXT_STEP:
                # A step that only resets is no transition: imagination resets in the step that ends.
                mode, (state, _) = AutoresetMode.SAME_STEP, restart(self.world, state, mask=state.pending)
            self._state, rollout = imagined(self.world, state, policy, horizon, mode)
            return rollout

        with torch.enable_grad() if grad else torch.no_grad():
            if not grad:
                return self.replayed(played, "imagine", policy, horizon)
            rollout = played()
        self._state = self._started("imagine").detach()
        return rollout

    def replayed(
        self, play: Callable[[], TensorDict], layout: str, policy: Callable[..., Any], horizon: int
    ) -> TensorDict:
        """A rollout that steps this engine; from the second of its kind on one graph, where world and policy can be.

        An error inside leaves the state as it was before.

        Args:
            play: Plays it, and gives what is to be kept of it.
            layout: What `play` makes of a policy, by a name of its own.
            policy: What acts in it.
            horizon: Its steps.
        """
        state = self._started("imagine")
        if not self._captures_policy(policy, horizon, state):
            return self._played(play)
        return self._replay(play, (layout, policy, horizon), addresses_of(policy))

    def captured(self, play: Callable[..., Any]) -> Callable[..., Any]:
        """`play`, which steps this engine any number of times, from its second call on replayed as one graph.

        Where steps are not captured whole, or `play` cannot be, which is said once, it is `play` itself, without
        gradients. An error inside leaves the state as it was before.

        Args:
            play: Of tensors, and trees of them, to such. It does the same at each call, and reads nothing on the host.
        """
        check_callable(play, "captured: play")
        able: list[bool] = []

        @torch.no_grad()
        def call(*inputs: Any) -> Any:
            state = self._started("captured")
            if able == [False] or not self._captures_rollouts():
                return self._played(play, *inputs)
            if able:
                return self._replay(play, call, None, *inputs)
            recorder = Recorder(Template((state, inputs)).tensors, self.device, draws=True)
            with self._uncaptured(), recorder:
                result = self._played(play, *inputs)
            able.append(recorder.problem is None)
            if recorder.problem is not None:
                warn_once(f"A rollout cannot be captured: {recorder.problem}. It runs step by step.")
            return result

        return call

    def _replay(self, play: Callable[..., Any], what: Hashable, addresses: Hashable, *inputs: Any) -> Any:
        """``play(*inputs)`` through its graph, by the name `what`."""
        state, num_steps = self._started("imagine"), self.num_steps

        def run(start: EnvState, *given: Any) -> tuple[EnvState, Any]:
            self._state, self.num_steps = start, num_steps
            try:
                with self._uncaptured():
                    result = play(*given)
                return self._started("imagine"), result
            finally:
                self._state = state

        copy, where = self.config.copy, (self.world.addresses(), addresses)
        try:
            self._state, result = self._captures.run(what, where, copy, run, state, *inputs)
        except RuntimeError as error:
            self._give_up_capture(error)
            return self._played(play, *inputs)
        self.num_steps = num_steps + 1  # infos of before are of the past
        # Of one arena they would be several dtypes in one storage, which torch.save refuses.
        return map_tensors(Tensor.clone, result) if copy else result

    def _played(self, play: Callable[..., Any], *inputs: Any) -> Any:
        """What `play` gives, step by step; an error puts the state back."""
        before = self._started("imagine")
        before = before if self.config.copy else before.clone()
        try:
            return play(*inputs)
        except BaseException:
            self._state = before
            raise

    @contextmanager
    def _uncaptured(self) -> Iterator[None]:
        """Inside, steps are parts of something that is captured, or tried, as a whole."""
        before, self._inside_capture = self._inside_capture, True
        try:
            yield
        finally:
            self._inside_capture = before

    def _give_up_capture(self, error: RuntimeError) -> None:
        """Go on without graphs after one could not be made; what is wrong without them shows in the step itself.

        Raises:
            RuntimeError: `error`, where steps must be captured.
        """
        if self.config.capture is True:
            raise error
        warn_once(f"Steps run without a graph, since capturing one failed: {error}")
        self.world = replace(self.world, capture=None)

    def _captures_rollouts(self) -> bool:
        """Whether steps, and what else can be captured with them, are one graph."""
        # Autocast keeps casts of weights for a while, of which a graph would know nothing.
        by_itself = self.world.capture == "whole" and not torch.is_autocast_enabled(self.device.type)
        return by_itself and not self._inside_capture and may_capture(self.device)

    def _captures_policy(self, policy: Callable[..., Any], horizon: int, state: EnvState) -> bool:
        """Whether this rollout by `policy` is captured; the first one never is."""
        if not self._captures_rollouts():
            return False
        try:
            known = self._policies.setdefault((policy, horizon), None)
        except TypeError:  # a policy that cannot be hashed
            return False
        if known is None:
            reason = why_policy_not_captured(self.world, state, policy)
            if reason is not None:
                warn_once(f"The policy cannot be captured: {reason}. Rollouts run step by step.")
            self._policies[policy, horizon] = reason is None
            drop_oldest(self._policies)
            return False
        return known

    @contextmanager
    def keep_graph(self, grad: bool = True) -> Iterator[None]:
        """Let gradients flow from step to step inside; afterwards the state is without a graph again.

        A reset cuts them in the envs that it restarts. An error inside leaves the state as it was before.

        Args:
            grad: False runs what is inside without gradients.

        Raises:
            RuntimeError: Before the first reset, or inside another such block.
        """
        if self._keeps_graph is not None:
            raise RuntimeError("keep_graph: this engine is inside such a block already; leave it first.")
        before, grad = self._started("keep_graph"), truth(grad, "keep_graph: grad")
        before = before if self.config.copy else before.clone()
        self._keeps_graph = grad
        try:
            with torch.set_grad_enabled(grad):
                yield
        except BaseException:
            self._state = before
            raise
        finally:
            self._state = self._started("keep_graph").detach()
            self._keeps_graph = None

    def _started(self, what: str) -> EnvState:
        """The state, if there are any episodes yet."""
        if self._state is None:
            raise RuntimeError(f"{what}: call reset() first; there is no episode yet.")
        return self._state


def _plausible(world: World, first: int) -> tuple[Tree, list[Tensor], Tensor, dict[str, Tensor]]:
    """What users' functions are tried on: a few initial states, the middle of the action bounds, and reward states.

    Args:
        world: The world.
        first: Another number gives other states.
    """
    few = torch.arange(first, first + 3, device=world.device)
    starts = world.resets.sample(BANK_SEED + few, torch.zeros_like(few) - 1)
    leaves = [leaf[:3] for leaf in starts.per_env()]
    observation = world.dynamics.observe(world.layout.dynamics_state(leaves))
    states = dict(zip(world.layout.reward_states, leaves[len(world.layout.keys) :], strict=True))
    return observation, world.actions.middle(3), torch.ones_like(few), states


def _how_captured(world: World) -> Literal["whole", "parts"] | None:
    """Whether steps are captured, and in how many parts.

    Raises:
        ValueError: They must be, and cannot.
    """
    capture, device = world.config.capture, world.device
    problem = None
    if capture is False:
        return None
    if device.type not in GRAPHS:
        problem = f"on {device.type} there are no graphs"
    elif not world.dynamics.capturable:
        problem = f"{type(world.dynamics).__name__} is not known to be capturable"
    if problem is None and world.rewards.has_functions:
        reason = world.rewards.why_not_captured([_plausible(world, first) for first in (0, 3)], device)
        if reason is None:
            return "whole"
        if capture == "auto":
            warn_once(f"{reason}. It runs between two graphs.")
            return "parts"
        problem = reason
    if problem is not None and capture is True:
        raise ValueError(f"capture=True: {problem}. Use capture='auto'.")
    return None if problem is not None else "whole"


def _runs_kernels(backend: Backend, device: torch.device) -> bool:
    """Whether operations run as kernels.

    Raises:
        ValueError: They must, and cannot.
    """
    able = has_kernels(device) or device.type == "meta"
    if backend == "triton" and not able:
        raise ValueError(f"backend='triton' needs a CUDA device and Triton, not {device}. Use backend='auto'.")
    return able and (backend == "triton" or (backend == "auto" and device.type == "cuda"))


@torch.compiler.disable(reason="wm_vec: a step that keeps its graph hooks its gradients; traced, it loses its state")
def _eagerly(call: Callable[..., Any], *args: Any) -> Any:
    """The result of `call`, run outside of any compiled graph; under ``fullgraph=True`` an error."""
    return call(*args)
