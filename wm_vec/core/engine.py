"""The engine: owns the state of all envs, and steps, resets, counts and judges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_kernels.finish_step.reference import AutoresetPlan
from wm_vec.core.actions import JointAction
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.encoding import encoded, num_observations
from wm_vec.core.imagination import imagined
from wm_vec.core.judge import Judge
from wm_vec.core.perspective import PerMany, Perspective
from wm_vec.core.proposal import Proposal
from wm_vec.core.rng import CounterRNG, fork_seeds, seed_list, spawn_seeds
from wm_vec.core.rows import RowLayout, Rows
from wm_vec.core.single import RowStep
from wm_vec.core.starts import (
    BankStarts,
    FreshStarts,
    GivenStarts,
    Starts,
    bank_leaves,
    blank_rows,
    next_episodes,
    restart,
)
from wm_vec.core.state import AutoresetMode, ColumnStep, EnvState, StepResult, as_autoreset_mode
from wm_vec.core.stateless import StatelessEngine
from wm_vec.core.store import RowStore
from wm_vec.core.transition import PLANS, StepFunction
from wm_vec.core.trees import Tree

BANK_SEED = 0x5EED
"""Seed of the bank's own draws, the same for every number of envs."""


class Engine:
    """B envs of one dynamics, seen from any number of perspectives.

    Args:
        dynamics: The batched transition.
        num_envs: B.
        perspectives: Who sees, acts and is paid. Their actions, flattened and in this order, are the columns of the
            dynamics' action.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.
        autoreset_mode: Gymnasium's, or its name: ``"same_step"``, ``"next_step"``, ``"disabled"``.
        bank: Initial states ``(M,)`` that resets draw from; None takes the dynamics' own, or `bank_size` fresh ones,
            or none at all where the dynamics starts every episode afresh.
        bank_size: M where the bank must be made.
        seed: Seed of the first reset; None takes entropy from the operating system.
        exact_rows: Run rows through the network in chunks of a fixed size, so that a row's bits do not depend on B.
        validate: Also check the values of actions, which reads them on the host.

    Attributes:
        stateless: Its starts, steps and forks as functions of any state.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int,
        perspectives: Sequence[Perspective],
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        bank: TensorDictBase | None = None,
        bank_size: int = 1024,
        seed: int | None = None,
        exact_rows: bool = False,
        validate: bool = False,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise ValueError(f"num_envs must be a whole number of at least 1, got {num_envs!r}.")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1 or None, got {max_episode_steps!r}.")
        lacking = [name for name in ("device", "dtype", "observe", "step") if not hasattr(dynamics, name)]
        if lacking:
            raise TypeError(
                f"dynamics must be a wm_vec.core.Dynamics; {type(dynamics).__name__} has no {', '.join(lacking)}. "
                "WorldModelVectorEnv.from_callables makes one of any model's methods."
            )
        names = [p.name for p in perspectives]
        if not names or len({*names}) < len(names):
            raise ValueError(f"perspectives: give at least one, each with a name of its own, got {names}.")
        self.dynamics = dynamics
        self.num_envs = int(num_envs)
        self.perspectives = tuple(perspectives)
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = as_autoreset_mode(autoreset_mode)
        self.exact_rows = exact_rows
        self.validate = validate
        self.device, self.dtype = dynamics.device, dynamics.dtype
        # Sums of rewards need more than half precision.
        self.reward_dtype = torch.promote_types(getattr(dynamics, "reward_dtype", self.dtype), torch.float32)
        judge = Judge(self.perspectives, self.reward_dtype)
        starts = {n: s.to(self.device, self.dtype) for n, s in judge.initial_reward_state().items()}
        self._reward_starts = list(starts.values())
        fresh = bank is None and getattr(dynamics, "starts_fresh", False)
        if not fresh:
            bank = self._make_bank(bank_size) if bank is None else bank
        example = dynamics.example if fresh else bank  # type: ignore[attr-defined]
        signature = str(getattr(dynamics, "signature", ""))
        self._layout = RowLayout(example, starts, len(self.perspectives), self.reward_dtype, signature)
        self._starts: Starts
        if fresh:
            self._starts = FreshStarts(dynamics, self._layout, self._reward_starts)
        else:
            assert bank is not None
            self._starts = BankStarts(bank_leaves(bank, self._layout, self._reward_starts, self.device))
        self._joint = JointAction(self.perspectives, self.dtype, self.device, validate)
        self._step = StepFunction(
            dynamics,
            judge,
            self._layout,
            self._joint,
            self._starts,
            horizon=max_episode_steps,
            mode=self.autoreset_mode,
            exact_rows=exact_rows,
        )
        self.first_seed = seed
        self.stateless = StatelessEngine(self._step, self.reward_dtype, self._reward_starts)
        self._fork_count = 0
        self._keeps_graph: bool | None = None  # None outside of `keep_graph`
        self._start_info: Mapping[str, Any] = {}
        self._store = self._empty_store()
        if judge.has_functions:
            self._probe_functions(judge)

    def _make_bank(self, bank_size: int) -> TensorDictBase:
        """The dynamics' own bank, or fresh states of it."""
        bank = getattr(self.dynamics, "bank", None)
        if bank is not None:
            return bank
        seeds = torch.arange(BANK_SEED, BANK_SEED + bank_size, device=self.device)
        return self.dynamics.initial_state(CounterRNG.from_seeds(seeds), bank_size)

    # -- resets ---------------------------------------------------------------------------------------------------

    def load_bank(self, bank: TensorDictBase) -> None:
        """Take other initial states ``(M,)`` from the next reset on.

        Raises:
            ValueError: No states, or the states of another world.
        """
        leaves = bank_leaves(bank, self._layout, self._reward_starts, self.device)
        if not isinstance(self._starts, BankStarts):
            raise ValueError("load_bank: this dynamics starts every episode afresh; it has no bank to replace.")
        self._starts.load(leaves)

    def encode(self, observation: PerMany, rng: CounterRNG | None = None) -> TensorDictBase:
        """States ``(M,)`` at which the perspectives see given, real observations; for `load_bank` and `reset`.

        Args:
            observation: ``(M, ...)``, as `reset` returns it; NaN where a number was not observed.
            rng: Counters ``(M,)`` that the model draws the rest at; None for those of a bank.

        Raises:
            TypeError: The dynamics cannot encode.
            ValueError: Observations that do not fit, or that it cannot encode.
        """
        like = self.dynamics.observe(self._layout.to_tensordict(self._layout.examples))
        if rng is None:
            seeds = torch.arange(BANK_SEED, BANK_SEED + num_observations(observation), device=self.device)
            rng = CounterRNG.from_seeds(seeds)
        return encoded(self.dynamics, self.perspectives, like, observation, rng)

    def reset(
        self,
        seed: Any = None,
        mask: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
        start: TensorDictBase | Callable[[CounterRNG], TensorDictBase] | None = None,
        start_mask: Tensor | None = None,
    ) -> PerMany:
        """Start episodes.

        Args:
            seed: An int s seeds env i with ``s + i``, a sequence gives one each (None keeps an env's own seed and
                goes on to its next episode). None for all: the next episode, or entropy at the first reset.
            mask: ``(B,)`` bool, the envs to reset; the others go on. None for all.
            options: Handed to a dynamics that starts episodes afresh; a bank has no use for them.
            start: States ``(B,)`` that the episodes start from, or what makes them at the counters ``(B,)`` of the
                episodes that start; None draws them as ever.
            start_mask: ``(B,)`` bool, the envs that `start` is for; None for all that reset.

        Returns:
            The observation ``(B, ...)`` of every env.

        Raises:
            ValueError: A mask before the first full reset, or of another shape; seeds that do not fit; the states of
                another world, of another number of envs or on another device.
        """
        store, blank = self._store, None
        if not store.filled:
            if mask is not None:
                raise ValueError("reset: the first reset must be of all envs; give no mask.")
            own = spawn_seeds(None, self.num_envs) if self.first_seed is None else self.first_seed
            first = seed_list(own, self.num_envs)
            blank = blank_rows(first, len(self.perspectives), self.reward_dtype, self.device)
            self._tell_seeds(first)
        mask = self._checked_mask(mask, "mask")
        given = None if seed is None else seed_list(seed, self.num_envs)
        self._tell_seeds(given)
        with torch.set_grad_enabled(bool(self._keeps_graph) and torch.is_grad_enabled()):
            starts = self._starts
            if start is not None:
                if not isinstance(start, TensorDictBase):
                    seeds, episodes = next_episodes(blank or store.rows(), given)
                    start = start(CounterRNG(seeds, episodes, torch.zeros_like(seeds)))
                leaves = self.stateless.given_leaves(start, self.num_envs)
                starts = GivenStarts(leaves, starts, self._checked_mask(start_mask, "start_mask"))
            if mask is None or given is not None:
                store.put(restart(starts, blank or store.rows(), given, mask, options))
            else:
                store.restart(starts, mask, options)
        # Of some envs alone, nobody could tell which the entries belong to.
        self._start_info = starts.info if mask is None else {}
        return self._step.observe(store.leaves)

    def _checked_mask(self, mask: Tensor | None, name: str) -> Tensor | None:
        if mask is not None and (tuple(mask.shape) != (self.num_envs,) or mask.dtype != torch.bool):
            raise ValueError(
                f"reset: the {name} must be bool of shape ({self.num_envs},), got {mask.dtype}, {tuple(mask.shape)}."
            )
        return None if mask is None else mask.to(self.device)

    @property
    def started(self) -> bool:
        """Whether there are episodes yet."""
        return self._store.filled

    @property
    def start_info(self) -> Mapping[str, Any]:
        """What a dynamics that starts episodes afresh reported at the last reset of all envs; empty with a bank."""
        return self._start_info

    def _tell_seeds(self, seeds: Sequence[int | None] | None) -> None:
        """Let a dynamics that draws from torch's generator seed that, once for the whole batch."""
        reseed = getattr(self.dynamics, "reseed", None)
        if reseed is not None and seeds is not None and seeds[0] is not None:
            reseed(seeds[0])

    # -- steps ----------------------------------------------------------------------------------------------------

    def step(self, action: PerMany, autoreset_mode: AutoresetMode | None = None) -> StepResult:
        """Step all envs; no host sync.

        Args:
            action: ``(B, *shape)`` on the engine's device; with several perspectives a mapping by name.
            autoreset_mode: SAME_STEP or DISABLED for this step; None for the engine's own.

        Raises:
            RuntimeError: Before the first reset.
            TypeError, ValueError: An action of another shape, dtype or device (or, under `validate`, value).
        """
        return self._advance(self._joint.check(action, self.num_envs), autoreset_mode, columns=False)

    def step_columns(self, action: Tensor, autoreset_mode: AutoresetMode | None = None) -> ColumnStep:
        """`step` of an engine of one perspective, without what a TensorDict has no entry for.

        Args:
            action: ``(B, *shape)`` of its dtype and on its device. It is not checked: `TorchRLEnv` has done that.
            autoreset_mode: As in `step`.

        Raises:
            ValueError: Several perspectives; under `validate` as `step`.
        """
        if len(self.perspectives) > 1:
            raise ValueError("step_columns: needs an engine with one perspective.")
        actions = self._joint.check(action, self.num_envs) if self.validate else [action]
        return self._advance(actions, autoreset_mode, columns=True)

    def _advance(self, actions: list[Tensor], autoreset_mode: AutoresetMode | None, columns: bool) -> Any:
        """Step all envs by checked actions; a `ColumnStep` or a `StepResult`."""
        grad = torch.is_grad_enabled()
        if self._keeps_graph and grad and torch.compiler.is_compiling():
            return _eagerly(self._advance, actions, autoreset_mode, columns)
        store, step = self._filled_store("step"), self._step
        plan = step.plan if autoreset_mode is None else PLANS[autoreset_mode]
        torch._C._set_grad_enabled(bool(self._keeps_graph) and grad)  # the context manager takes 7 us longer
        try:
            host = None if plan == "next_step" else store.host()
            if host is not None:
                told = step.step_on_host(host, actions, plan, columns)
                if type(told) is not Proposal:
                    return told
                proposal = told
                joint, _ = self._joint.join(actions)
                rows, finished = step.finish(host.to_rows(), proposal, joint, plan)
            else:
                rows, finished, proposal = step.advance(store.rows(), actions, store.rng(), plan)
            store.put_next(rows, None if plan == "disabled" else finished.was_reset)
            return (step.columns if columns else step.result)(finished, proposal, plan)
        finally:
            torch._C._set_grad_enabled(grad)

    def step_row(self, action: Tensor) -> RowStep:
        """`step` of an engine of one env and one perspective without autoreset; reads the host.

        Args:
            action: ``(1, *shape)``, finite and within its bounds. It is not checked: `WorldModelEnv` has done that.

        Raises:
            RuntimeError: Before the first reset.
            ValueError: An engine of another kind.
        """
        if self.num_envs > 1 or len(self.perspectives) > 1 or self.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError("step_row: needs an engine of one env and one perspective with autoreset_mode='disabled'.")
        step = self._step
        if self.exact_rows:
            return RowStep.of(self.step(action), step.row_dynamics)
        store = self._store
        if not store.holds_one:
            self._joint.check(action, 1)
            self._filled_store("step")
        with torch.no_grad():
            after, result = step.single(store.one(), action, store.rng())
        store.put_one(after)
        return result

    def row(self) -> Any:
        """The dynamics' current state as it keeps one env's, for `present_row`; as in `RowStep`."""
        return self._step.row_dynamics.open_row(self.model_state())

    def present_row(self, row: Any) -> Any:
        """One env's state as users know it; see `present`."""
        return self.present(self._step.row_dynamics.close_row(row), 0)

    def transition(self, state: EnvState, action: PerMany) -> tuple[EnvState, StepResult]:
        """The step as a pure function of any state with this engine's settings; the engine's own state is not touched.

        Gradients flow if torch's grad mode is on.
        """
        return self.stateless.transition(state, action)

    def model_state(self) -> TensorDict:
        """The dynamics' current state, ``(B,)``; not a copy."""
        return self._layout.to_tensordict(self._filled_store("model_state").leaves)

    def present(self, state: TensorDictBase, row: int | None = None) -> Any:
        """A dynamics state as users know it: in their model's own structure where the dynamics has one, as a copy.

        Args:
            state: The dynamics' state, ``(B,)``.
            row: Of this env alone; None for all.
        """
        own = getattr(self.dynamics, "model_state", None)
        if own is not None:
            return own(state, row)
        return (state if row is None else state[row]).clone()

    def predictions(self) -> Tree:
        """The dynamics' whole observation of the current state, ``(B, ...)``; not a copy."""
        return self.dynamics.observe(self.model_state())

    def sample_actions(self, draw: int = 0) -> Tensor:
        """Random actions ``(B, *shape)`` of the first perspective, made on the device; see `JointAction.sample`.

        Args:
            draw: Another number gives other actions from the same states.
        """
        return self._joint.sample(self._filled_store("sample_actions").counters(), draw)

    # -- state in and out -----------------------------------------------------------------------------------------

    def state(self) -> EnvState:
        """The state of all envs. Continuing from it through `set_state` is bit-equal."""
        return self._layout.to_state(self._filled_store("state").rows()).clone()

    def example_state(self) -> EnvState:
        """The state of no env, batch ``(0,)``: keys, shapes and dtypes."""
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        returns = torch.zeros(0, len(self.perspectives), dtype=self.reward_dtype, device=self.device)
        return self._layout.to_state(Rows(self._layout.examples, none, none, none, returns, none.bool()))

    def set_state(self, state: EnvState) -> PerMany:
        """Go on from `state`, ``(B,)``; returns the observation.

        Raises:
            ValueError: Another batch size, or the state of another world.
        """
        if tuple(state.batch_size) != (self.num_envs,):
            raise ValueError(f"set_state: this engine has {self.num_envs} envs, the state {tuple(state.batch_size)}.")
        self._store.put(self._layout.to_rows(state.clone()))
        return self._step.observe(self._store.leaves)

    def fork(self, indices: Tensor | Sequence[int], rng: str = "fresh") -> Engine:
        """A new engine whose env j continues this engine's env ``indices[j]``; weights and bank are shared.

        Args:
            indices: Which envs, each any number of times.
            rng: ``"fresh"`` gives every fork noise of its own, so that a planner does not see the future's;
                ``"same"`` continues with the very numbers that this engine would draw. The n-th fresh fork of an
                engine is the same in every run; n is the engine's own count, no part of the `EnvState`.
        """
        rows = self._filled_store("fork").rows()
        if rng not in ("fresh", "same"):
            raise ValueError(f"fork: rng must be 'fresh' or 'same', got {rng!r}.")
        index = torch.as_tensor(indices)
        if index.dim() != 1 or index.numel() == 0 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ValueError(
                f"fork: indices must be a non-empty list of env numbers, got {index.dtype}, {tuple(index.shape)}."
            )
        if bool(((index < 0) | (index >= self.num_envs)).any()):
            raise ValueError(f"fork: indices must lie in [0, {self.num_envs}), got {index.tolist()}.")
        index = index.to(self.device, torch.int64)
        picked = rows.pick(index).with_own_objects()
        if rng == "fresh":
            self._fork_count += 1
            parents = CounterRNG(picked.seed, picked.episode, picked.elapsed)
            picked = picked._replace(seed=fork_seeds(parents, self._fork_count))
        forked = Engine.__new__(Engine)
        forked.__dict__.update(self.__dict__)
        forked.num_envs = index.shape[0]
        forked._store = forked._empty_store()
        forked._store.put(picked)
        forked._fork_count, forked._keeps_graph = 0, None
        return forked

    def sibling(self, num_envs: int | None = None, autoreset_mode: AutoresetMode | str | None = None) -> Engine:
        """A new engine over the same world, perspectives, horizon and bank, with no episodes yet.

        Args:
            num_envs: B; None for this engine's.
            autoreset_mode: Gymnasium's, or its name; None for this engine's.
        """
        bank = self._layout.to_tensordict(self._starts.leaves) if isinstance(self._starts, BankStarts) else None
        return Engine(
            self.dynamics,
            self.num_envs if num_envs is None else num_envs,
            self.perspectives,
            max_episode_steps=self.max_episode_steps,
            autoreset_mode=self.autoreset_mode if autoreset_mode is None else autoreset_mode,
            bank=bank,
            seed=self.first_seed,
            exact_rows=self.exact_rows,
            validate=self.validate,
        )

    # -- imagination ----------------------------------------------------------------------------------------------

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
            Under NEXT_STEP envs are reset in the step that ends, as under SAME_STEP: every row is a transition.
        """
        if len(self.perspectives) != 1:
            raise ValueError("imagine: takes one policy, so it needs an engine with one perspective.")
        if horizon < 1:
            raise ValueError(f"imagine: horizon must be at least 1, got {horizon}.")
        rows = self._filled_store("imagine").rows()
        # A step that only resets is no transition: imagination resets in the step that ends.
        plan: AutoresetPlan | None = None
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            plan, rows = "same_step", restart(self._starts, rows, mask=rows.pending)
        with torch.enable_grad() if grad else torch.no_grad():
            rows, rollout = imagined(self._step, rows, policy, horizon, plan)
        self._store.put(rows.detached())
        return rollout

    @contextmanager
    def keep_graph(self, grad: bool = True) -> Iterator[None]:
        """Let gradients flow from step to step inside; afterwards the state is without a graph again.

        A reset cuts them in the rows that it restarts. An error inside leaves the state as it was before.

        Args:
            grad: False runs what is inside without gradients.

        Raises:
            RuntimeError: Before the first reset, or inside another such block.
        """
        if self._keeps_graph is not None:
            raise RuntimeError("keep_graph: this engine is inside such a block already; leave it first.")
        store = self._filled_store("keep_graph")
        before = store.rows().with_own_objects()
        self._keeps_graph = grad
        try:
            with torch.set_grad_enabled(grad):
                yield
        except BaseException:
            store.put(before)
            raise
        finally:
            store.put(store.rows().detached())
            self._keeps_graph = None

    def keep_tensors(self) -> None:
        """Keep the counters in tensors from now on, for steps that are to be compiled; eager ones get slower by it."""
        if self._store.filled:
            self._store.put(self._store.rows())
        self._store.keeps_tensors = True

    def _filled_store(self, what: str) -> RowStore:
        """The rows, if there are any yet."""
        if not self._store.filled:
            raise RuntimeError(f"{what}: call reset() first; there is no episode yet.")
        return self._store

    def _empty_store(self) -> RowStore:
        store = RowStore(self.num_envs, self._layout, self._step.row_dynamics, self.device)
        store.keeps_tensors = self.exact_rows
        return store

    def _probe_functions(self, judge: Judge) -> None:
        """Try users' functions on a few initial states and the middle of the action bounds."""
        few = torch.arange(3, device=self.device)
        leaves, index = self._starts.draw(BANK_SEED + few, torch.zeros_like(few))
        leaves = [leaf[:3] if index is None else leaf[index] for leaf in leaves]
        observation = self.dynamics.observe(self._layout.to_tensordict(leaves))
        states = self._layout.reward_states(leaves)
        judge.probe(observation, self._joint.middle(3), torch.ones_like(few), states)


@torch.compiler.disable(
    reason="wm_vec: a step that keeps its graph hooks its gradients; traced, it would lose its state"
)
def _eagerly(call: Callable[..., Any], *args: Any) -> Any:
    """What `call` gives, outside of any compiled graph; under ``fullgraph=True`` an error."""
    return call(*args)
