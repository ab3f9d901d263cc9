"""The engine: owns the state of all envs, and steps, resets, counts and judges them.

Everything in `Engine.transition` is functional: it makes new tensors and writes into none, which is why what a step
returned stays valid after the next, and why states can be forked, restored and differentiated through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_kernels import finish_step
from wm_kernels.finish_step.reference import AutoresetPlan, FinishedStep
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.judge import Judge
from wm_vec.core.perspective import PerMany, Perspective
from wm_vec.core.rng import (
    STREAM_ACTION,
    STREAM_FORK,
    STREAM_RESET,
    CounterRNG,
    LookaheadRNG,
    seed_list,
    spawn_seeds,
)
from wm_vec.core.state import AutoresetMode, EnvState, StepResult, as_autoreset_mode

EXACT_ROWS_CHUNK = 32
"""Rows that go through the network together under ``exact_rows``."""
LOOKAHEAD_ROWS = 1024
"""Rows times steps whose noise is drawn in one call, where it can be drawn ahead."""
BANK_SEED = 0x5EED
"""Seed of the bank's own draws, the same for every number of envs."""
_PLANS: dict[AutoresetMode, AutoresetPlan] = {
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.DISABLED: "disabled",
}


class Rows(NamedTuple):
    """`EnvState` as plain tensors, for the hot path: `leaves` are the dynamics' state, then the reward states."""

    leaves: list[Tensor]
    elapsed: Tensor
    episode: Tensor
    seed: Tensor
    returns: Tensor
    pending: Tensor


class Proposal(NamedTuple):
    """What dynamics and perspectives make of a step, before it is finished."""

    leaves: list[Tensor]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor | None
    info: dict[str, Tensor]


class Engine:
    """B envs of one dynamics, seen from any number of perspectives.

    Args:
        dynamics: The batched transition.
        num_envs: B.
        perspectives: Who sees, acts and is paid. Their actions, flattened and in this order, are the columns of the
            dynamics' action.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.
        autoreset_mode: Gymnasium's, or its name: ``"same_step"``, ``"next_step"``, ``"disabled"``.
        bank: Initial states ``(M,)`` that resets draw from; None takes the dynamics' own, or `bank_size` fresh ones.
        bank_size: M where the bank must be made.
        seed: Seed of the first reset; None takes entropy from the operating system.
        exact_rows: Run rows through the network in chunks of a fixed size, so that a row's bits do not depend on B.
        validate: Also check the values of actions, which reads them on the host.
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
        if not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs must be a whole number of at least 1, got {num_envs!r}.")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1 or None, got {max_episode_steps!r}.")
        names = [p.name for p in perspectives]
        if not names or len({*names}) < len(names):
            raise ValueError(f"perspectives: give at least one, each with a name of its own, got {names}.")
        self.dynamics = dynamics
        self.num_envs = num_envs
        self.perspectives = tuple(perspectives)
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = as_autoreset_mode(autoreset_mode)
        self.exact_rows = exact_rows
        self.validate = validate
        self.device, self.dtype = dynamics.device, dynamics.dtype
        self._judge = Judge(self.perspectives, self.dtype)
        self._first_seed = seed
        self._fork_count = 0
        self._rows: Rows | None = None
        self._lookahead: LookaheadRNG | None = None
        low = [x for p in self.perspectives for x in p.action.low]
        high = [x for p in self.perspectives for x in p.action.high]
        self._action_low = torch.tensor(low, dtype=self.dtype, device=self.device)
        self._action_high = torch.tensor(high, dtype=self.dtype, device=self.device)
        # Bounds common to all elements are clamped to as Python numbers, which is faster.
        self._action_bounds: tuple[Any, Any] = (
            (low[0], high[0]) if len({*low}) == len({*high}) == 1 else (self._action_low, self._action_high)
        )
        self._actions_may_diverge = any(p.action.kind == "box" for p in self.perspectives)
        if bank is None:
            bank = getattr(dynamics, "bank", None)
        if bank is None:
            seeds = torch.arange(BANK_SEED, BANK_SEED + bank_size, device=self.device)
            bank = dynamics.initial_state(CounterRNG.from_seeds(seeds), bank_size)
        self._keys: list[Any] = sorted(bank.keys(True, True), key=str)
        self._nested = any(isinstance(key, tuple) for key in self._keys)
        self._bank: list[Tensor] = []
        self.load_bank(bank)
        if self._judge.has_functions:
            self._probe_functions()

    # -- resets ---------------------------------------------------------------------------------------------------

    def load_bank(self, bank: TensorDictBase) -> None:
        """Take other initial states ``(M,)`` from the next reset on.

        Raises:
            ValueError: No states, or the states of another world.
        """
        if bank.batch_dims != 1 or bank.shape[0] < 1:
            raise ValueError(f"bank must have batch size (M,) with M at least 1, got {tuple(bank.batch_size)}.")
        size = bank.shape[0]
        if self._bank:
            self._check_leaves(bank, "load_bank: the bank")
        starts = [s.to(self.device, self.dtype) for s in self._judge.initial_reward_state().values()]
        self._bank = [bank.get(key).to(self.device) for key in self._keys]
        self._bank += [start.expand(size, *start.shape) for start in starts]

    def reset(self, seed: Any = None, mask: Tensor | None = None) -> PerMany:
        """Start episodes.

        Args:
            seed: An int s seeds env i with ``s + i``, a sequence gives one each (None keeps an env's own seed and
                goes on to its next episode). None for all: the next episode, or entropy at the first reset.
            mask: ``(B,)`` bool, the envs to reset; the others go on. None for all.

        Returns:
            The observation ``(B, ...)`` of every env.

        Raises:
            ValueError: A mask before the first full reset, or of another shape; seeds that do not fit.
        """
        rows = self._rows
        if rows is None:
            if mask is not None:
                raise ValueError("reset: the first reset must be of all envs; give no mask.")
            own = spawn_seeds(None, self.num_envs) if self._first_seed is None else self._first_seed
            rows = self._blank_rows(seed_list(own, self.num_envs))
        if mask is not None:
            if tuple(mask.shape) != (self.num_envs,) or mask.dtype != torch.bool:
                raise ValueError(
                    f"reset: the mask must be bool of shape ({self.num_envs},), got {mask.dtype}, {tuple(mask.shape)}."
                )
            mask = mask.to(self.device)
        with torch.no_grad():
            self._rows = self._restart(rows, seed, mask)
        self._lookahead = None
        return self._observe(self._rows.leaves)

    def _blank_rows(self, seeds: Sequence[int | None]) -> Rows:
        """Rows before their first episode."""
        zeros = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        returns = torch.zeros(self.num_envs, len(self.perspectives), dtype=self.dtype, device=self.device)
        leaves = [leaf[:1].expand(self.num_envs, *leaf.shape[1:]) for leaf in self._bank]
        seed = torch.tensor(seeds, dtype=torch.int64, device=self.device)
        return Rows(leaves, zeros, zeros - 1, seed, returns, zeros.bool())

    def _restart(self, rows: Rows, seed: Any, mask: Tensor | None) -> Rows:
        """`rows` with fresh episodes where `mask` says; a new seed starts at episode 0."""
        new_seed, episode = rows.seed, rows.episode + 1
        if seed is not None:
            given = seed_list(seed, self.num_envs)
            seeded = torch.tensor([s is not None for s in given], device=self.device)
            new_seed = torch.where(seeded, torch.tensor([s or 0 for s in given], device=self.device), new_seed)
            episode = torch.where(seeded, 0, episode)
        index = self._draw_start(new_seed, episode)
        fresh = Rows(
            [leaf[index] for leaf in self._bank],
            torch.zeros_like(rows.elapsed),
            episode,
            new_seed,
            torch.zeros_like(rows.returns),
            torch.zeros_like(rows.pending),
        )
        if mask is None:
            return fresh

        def pick(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *(1,) * (old.dim() - 1)), new, old)

        leaves = [pick(new, old) for new, old in zip(fresh.leaves, rows.leaves, strict=True)]
        return Rows(leaves, *(pick(new, old) for new, old in zip(fresh[1:], rows[1:], strict=True)))

    def _draw_start(self, seed: Tensor, episode: Tensor) -> Tensor:
        """``(B,)`` int64: which initial state each row takes at the given seed and episode."""
        rng = CounterRNG(seed, episode, torch.zeros_like(episode))
        return rng.integers(1, self._bank[0].shape[0], STREAM_RESET)[:, 0]

    # -- steps ----------------------------------------------------------------------------------------------------

    def step(self, action: PerMany) -> StepResult:
        """Step all envs; no host sync.

        Args:
            action: ``(B, *shape)`` on the engine's device; with several perspectives a mapping by name.

        Raises:
            RuntimeError: Before the first reset.
            TypeError, ValueError: An action of another shape, dtype or device (or, under `validate`, value).
        """
        rows = self._require_rows("step")
        actions = self._check_actions(action)
        with torch.no_grad():
            self._rows, result = self._transition(rows, actions, self._rng(rows))
        if self._lookahead is not None:
            self._lookahead.advance()
        return result

    def transition(self, state: EnvState, action: PerMany) -> tuple[EnvState, StepResult]:
        """The step as a pure function of any state with this engine's settings; the engine's own state is not touched.

        Gradients flow if torch's grad mode is on.
        """
        rows = self._to_rows(state)
        actions = self._check_actions(action, rows.elapsed.shape[0])
        rows, result = self._transition(rows, actions, CounterRNG(rows.seed, rows.episode, rows.elapsed))
        return self._to_state(rows), result

    def _transition(self, rows: Rows, actions: list[Tensor], rng: CounterRNG) -> tuple[Rows, StepResult]:
        joint = self._join(actions, rows.elapsed.shape[0])
        clipped = torch.clamp(joint, *self._action_bounds)
        if self.exact_rows:
            proposal = self._propose_in_chunks(rows, clipped, actions)
        else:
            proposal = self._propose(rows, clipped, actions, rng)
        plan = _PLANS[self.autoreset_mode]
        finished = finish_step(
            rows.leaves,
            proposal.leaves,
            self._bank,
            None if plan == "disabled" else self._draw_start(rows.seed, rows.episode + 1),
            joint if self._actions_may_diverge else None,
            proposal.reward,
            proposal.terminated,
            proposal.truncated,
            rows.elapsed,
            rows.episode,
            rows.returns,
            rows.pending if plan == "next_step" else None,
            self.max_episode_steps,
            plan,
        )
        # A copy, since `finished` is handed out.
        pending = finished.finished.clone() if plan == "next_step" else rows.pending
        after = Rows(
            finished.state, finished.elapsed, finished.episode, rows.seed, finished.returns, pending
        )
        return after, self._result(finished, proposal.info, plan)

    def _propose(self, rows: Rows, joint: Tensor, actions: list[Tensor], rng: CounterRNG) -> Proposal:
        """Run the dynamics, then let every perspective judge."""
        count = len(self._keys)
        transition = self.dynamics.step(self._to_tensordict(rows.leaves[:count]), joint, rng)
        leaves = [transition.state.get(key) for key in self._keys]
        observation = transition.observation
        if self._judge.has_functions:
            # Users' functions never see a diverged row: they get its last finite observation.
            finite = torch.isfinite(observation).reshape(observation.shape[0], -1).all(-1)
            shape = (-1, *(1,) * (observation.dim() - 1))
            last = self.dynamics.observe(self._to_tensordict(rows.leaves[:count]))
            observation = torch.where(finite.view(shape), observation, last)
        states = dict(zip(self._judge.stateful, rows.leaves[count:], strict=True))
        reward, terminated, states = self._judge(
            observation, actions, rows.elapsed + 1, states, transition.reward, transition.terminated
        )
        leaves += [states[name] for name in self._judge.stateful]
        return Proposal(leaves, reward, terminated, transition.truncated, dict(transition.info))

    def _propose_in_chunks(self, rows: Rows, joint: Tensor, actions: list[Tensor]) -> Proposal:
        """The same in chunks of one size, the last one padded with copies of the last row."""
        batch = joint.shape[0]
        parts = []
        for start in range(0, batch, EXACT_ROWS_CHUNK):
            index = torch.arange(start, start + EXACT_ROWS_CHUNK, device=self.device).clamp_(max=batch - 1)
            chunk = Rows([leaf[index] for leaf in rows.leaves], *(t[index] for t in rows[1:]))
            rng = CounterRNG(chunk.seed, chunk.episode, chunk.elapsed)
            parts.append(self._propose(chunk, joint[index], [a[index] for a in actions], rng))

        def join(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))[:batch]

        return Proposal(
            [join(leaves) for leaves in zip(*(p.leaves for p in parts), strict=True)],
            join([p.reward for p in parts]),
            join([p.terminated for p in parts]),
            None if parts[0].truncated is None else join([p.truncated for p in parts if p.truncated is not None]),
            {name: join([p.info[name] for p in parts]) for name in parts[0].info},
        )

    def _result(self, finished: FinishedStep, info: dict[str, Tensor], plan: AutoresetPlan) -> StepResult:
        final_state = self._to_tensordict(finished.final[: len(self._keys)])
        predictions = self.dynamics.observe(final_state)
        final_observation = self._see(predictions)
        observation = final_observation if plan == "disabled" else self._observe(finished.state)
        reward, terminated, returns = finished.reward, finished.terminated, finished.final_returns
        length = finished.final_elapsed
        if plan == "disabled":
            # Nothing was reset, so these are the engine's own counters: hand out copies.
            returns, length = returns.clone(), length.clone()
        if len(self.perspectives) == 1:
            reward, terminated, returns = reward.squeeze(1), terminated.squeeze(1), returns.squeeze(1)
        else:
            names = [p.name for p in self.perspectives]
            reward = dict(zip(names, reward.unbind(1), strict=True))
            terminated = dict(zip(names, terminated.unbind(1), strict=True))
        return StepResult(
            observation=observation,
            reward=reward,
            terminated=terminated,
            truncated=finished.truncated,
            final_observation=final_observation,
            finished=finished.finished,
            was_reset=finished.was_reset,
            diverged=finished.diverged,
            episode_return=returns,
            episode_length=length,
            model_state=final_state,
            predictions=predictions,
            info=info,
        )

    def _rng(self, rows: Rows) -> CounterRNG:
        """The numbers of the next step; drawn ahead where episodes change between calls alone."""
        ahead = self.autoreset_mode is AutoresetMode.DISABLED and self.device.type == "cpu" and not self.exact_rows
        if not ahead or self.num_envs >= LOOKAHEAD_ROWS or torch.compiler.is_compiling():
            return CounterRNG(rows.seed, rows.episode, rows.elapsed)
        if self._lookahead is None or self._lookahead.exhausted:
            depth = LOOKAHEAD_ROWS // self.num_envs
            self._lookahead = LookaheadRNG(rows.seed, rows.episode, rows.elapsed, depth)
        return self._lookahead

    def predictions(self) -> Tensor:
        """The dynamics' whole observation of the current state, ``(B, ...)``; not a copy."""
        leaves = self._require_rows("predictions").leaves
        return self.dynamics.observe(self._to_tensordict(leaves[: len(self._keys)]))

    def sample_actions(self, draw: int = 0) -> Tensor:
        """Random actions ``(B, *shape)`` of the first perspective, made on the device.

        Uniform between finite bounds, standard normal clipped to the bounds otherwise.

        Args:
            draw: Another number gives other actions from the same states.
        """
        rows, spec = self._require_rows("sample_actions"), self.perspectives[0].action
        rng = CounterRNG(rows.seed, rows.episode, rows.elapsed)
        stream = STREAM_ACTION + (draw << 8)
        if spec.kind == "discrete":
            return rng.integers(1, int(spec.high[0]) + 1, stream)[:, 0] + spec.offset
        low, high = self._action_low[: spec.size], self._action_high[: spec.size]
        if all(math.isfinite(bound) for bound in (*spec.low, *spec.high)):
            sample = low + (high - low) * rng.uniform(spec.size, stream, self.dtype)
        else:
            sample = torch.clamp(rng.normal(spec.size, stream, self.dtype), low, high)
        return sample.view(self.num_envs, *spec.shape)

    # -- state in and out -----------------------------------------------------------------------------------------

    def state(self) -> EnvState:
        """The state of all envs. Continuing from it through `set_state` is bit-equal."""
        return self._to_state(self._require_rows("state")).clone()

    def set_state(self, state: EnvState) -> PerMany:
        """Go on from `state`, ``(B,)``; returns the observation.

        Raises:
            ValueError: Another batch size, or the state of another world.
        """
        if tuple(state.batch_size) != (self.num_envs,):
            raise ValueError(
                f"set_state: this engine has {self.num_envs} envs, the state {tuple(state.batch_size)}."
            )
        self._rows = self._to_rows(state.clone())
        self._lookahead = None
        return self._observe(self._rows.leaves)

    def fork(self, indices: Tensor | Sequence[int], rng: str = "fresh") -> Engine:
        """A new engine whose env j continues this engine's env ``indices[j]``; weights and bank are shared.

        Args:
            indices: Which envs, each any number of times.
            rng: ``"fresh"`` gives every fork noise of its own, so that a planner does not see the future's;
                ``"same"`` continues with the very numbers that this engine would draw.
        """
        rows = self._require_rows("fork")
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
        picked = Rows([leaf[index] for leaf in rows.leaves], *(t[index] for t in rows[1:]))
        if rng == "fresh":
            self._fork_count += 1
            place = torch.arange(index.shape[0], device=self.device)
            parent = CounterRNG(picked.seed, picked.episode, picked.elapsed).word64(STREAM_FORK)
            own = CounterRNG(parent, torch.full_like(place, self._fork_count), place)
            picked = picked._replace(seed=own.word64(STREAM_FORK))
        forked = Engine.__new__(Engine)
        forked.__dict__.update(self.__dict__)
        forked.num_envs = index.shape[0]
        forked._rows, forked._lookahead, forked._fork_count = picked, None, 0
        return forked

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
        """
        if len(self.perspectives) != 1:
            raise ValueError("imagine: takes one policy, so it needs an engine with one perspective.")
        if horizon < 1:
            raise ValueError(f"imagine: horizon must be at least 1, got {horizon}.")
        rows = self._require_rows("imagine")
        takes_tensordict = hasattr(policy, "in_keys") and hasattr(policy, "out_keys")
        steps = []
        with torch.enable_grad() if grad else torch.no_grad():
            observation = self._observe(rows.leaves)
            for _ in range(horizon):
                step = TensorDict({"observation": observation}, batch_size=[self.num_envs], device=self.device)
                if takes_tensordict:
                    step = policy(step)
                else:
                    step.set("action", policy(observation))
                actions = self._check_actions(step.get("action"))
                rng = CounterRNG(rows.seed, rows.episode, rows.elapsed)
                rows, result = self._transition(rows, actions, rng)
                step.set(
                    "next",
                    {
                        "observation": result.final_observation,
                        "reward": result.reward.unsqueeze(1),
                        "terminated": result.terminated.unsqueeze(1),
                        "truncated": result.truncated.unsqueeze(1),
                        "done": result.finished.unsqueeze(1),
                    },
                )
                steps.append(step)
                observation = result.observation
        self._rows = Rows(
            [leaf.detach() for leaf in rows.leaves], *rows[1:4], rows.returns.detach(), rows.pending
        )
        self._lookahead = None
        return torch.stack(steps, 1)

    # -- small parts ----------------------------------------------------------------------------------------------

    def _require_rows(self, what: str) -> Rows:
        if self._rows is None:
            raise RuntimeError(f"{what}: call reset() first; there is no episode yet.")
        return self._rows

    def _check_actions(self, action: PerMany, num_envs: int | None = None) -> list[Tensor]:
        """One checked ``(B, *shape)`` tensor per perspective."""
        if len(self.perspectives) == 1 and (isinstance(action, Tensor) or not isinstance(action, Mapping)):
            actions = [action]
        else:
            names = [p.name for p in self.perspectives]
            if not isinstance(action, Mapping) or set(action) != set(names):
                got = sorted(action) if isinstance(action, Mapping) else type(action).__name__
                raise ValueError(f"step: give one action for each of {names}, got {got}.")
            actions = [action[name] for name in names]
        for perspective, one in zip(self.perspectives, actions, strict=True):
            perspective.action.check(one, num_envs or self.num_envs, self.device, "step")
            if self.validate:
                perspective.action.check_values(one, "step")
        return actions

    def _join(self, actions: list[Tensor], batch: int) -> Tensor:
        """``(B, A)`` in the engine's dtype, the perspectives' actions side by side."""
        flat = [
            (a - p.action.offset if p.action.offset else a).to(self.dtype).reshape(batch, p.action.size)
            for a, p in zip(actions, self.perspectives, strict=True)
        ]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def _see(self, whole: Tensor) -> PerMany:
        """Every perspective's own copy of the dynamics' observation."""
        if len(self.perspectives) == 1:
            return self.perspectives[0].observe(whole)
        return {p.name: p.observe(whole) for p in self.perspectives}

    def _observe(self, leaves: list[Tensor]) -> PerMany:
        return self._see(self.dynamics.observe(self._to_tensordict(leaves[: len(self._keys)])))

    def _to_tensordict(self, leaves: Sequence[Tensor]) -> TensorDict:
        batch = torch.Size(leaves[0].shape[:1])
        if self._nested:
            state = TensorDict({}, batch_size=batch)
            for key, leaf in zip(self._keys, leaves, strict=True):
                state.set(key, leaf)
            return state
        return TensorDict._new_unsafe(dict(zip(self._keys, leaves, strict=True)), batch_size=batch)

    def _to_state(self, rows: Rows) -> EnvState:
        count = len(self._keys)
        batch = [rows.elapsed.shape[0]]
        carried = dict(zip(self._judge.stateful, rows.leaves[count:], strict=True))
        return EnvState(
            dynamics=self._to_tensordict(rows.leaves[:count]),
            reward_state=TensorDict(carried, batch_size=batch),
            elapsed=rows.elapsed,
            episode=rows.episode,
            seed=rows.seed,
            returns=rows.returns,
            pending=rows.pending,
            batch_size=batch,
        )

    def _to_rows(self, state: EnvState) -> Rows:
        leaves = self._check_leaves(state.dynamics, "the state", state.reward_state)
        if state.returns.shape[1] != len(self.perspectives):
            raise ValueError(
                f"the state belongs to another engine: it has {state.returns.shape[1]} perspectives, this one "
                f"{[p.name for p in self.perspectives]}."
            )
        return Rows(leaves, state.elapsed, state.episode, state.seed, state.returns, state.pending)

    def _check_leaves(
        self, states: TensorDictBase, what: str, reward_states: TensorDictBase | None = None
    ) -> list[Tensor]:
        """The leaves of `states`, if they are of this world."""
        keys = sorted(states.keys(True, True), key=str)
        carried = [] if reward_states is None else sorted(reward_states.keys())
        if keys != self._keys or (reward_states is not None and carried != sorted(self._judge.stateful)):
            raise ValueError(
                f"{what} belongs to another world: it has {[*keys, *carried]}, this world's states have "
                f"{[*self._keys, *self._judge.stateful]}."
            )
        leaves = [states.get(key) for key in keys]
        if reward_states is not None:
            leaves += [reward_states.get(name) for name in self._judge.stateful]
        for key, leaf, start in zip([*keys, *self._judge.stateful], leaves, self._bank, strict=False):
            if leaf.shape[1:] != start.shape[1:] or leaf.dtype != start.dtype:
                raise ValueError(
                    f"{what} belongs to another world: {key!r} must be {tuple(start.shape[1:])} per env, "
                    f"{start.dtype}; got {tuple(leaf.shape[1:])}, {leaf.dtype}."
                )
            if reward_states is not None and leaf.device != start.device:
                raise ValueError(f"{what} is on {leaf.device}, the environment on {start.device}. Move it with .to().")
        return leaves

    def _probe_functions(self) -> None:
        """Try users' functions on a few initial states and the middle of the action bounds."""
        rows = min(3, self._bank[0].shape[0])
        count = len(self._keys)
        observation = self.dynamics.observe(self._to_tensordict([leaf[:rows] for leaf in self._bank[:count]]))
        actions = []
        for p in self.perspectives:
            middle = torch.tensor([(lo + hi) / 2 if hi - lo < 1e6 else 0.0 for lo, hi in zip(p.action.low, p.action.high, strict=True)])
            dtype = torch.int64 if p.action.kind == "discrete" else self.dtype
            actions.append(middle.to(self.device, dtype).expand(rows, -1).reshape(rows, *p.action.shape))
        elapsed = torch.ones(rows, dtype=torch.int64, device=self.device)
        states = dict(zip(self._judge.stateful, [leaf[:rows] for leaf in self._bank[count:]], strict=True))
        self._judge.probe(observation, actions, elapsed, states)
