"""One step of all rows as a pure function: dynamics, judgement, bookkeeping.

It makes new tensors and writes into none, which is why what a step returned stays valid after the next, and why states
can be forked, restored and differentiated through; only the counters of rows in host memory are the store's own and
written in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels import finish_step
from wm_kernels.dispatch import is_plain_host_tensor
from wm_kernels.finish_step.reference import AutoresetPlan, FinishedStep
from wm_vec.core.actions import JointAction
from wm_vec.core.dynamics import Dynamics
from wm_vec.core.host import (
    EndedStep,
    HostDynamics,
    HostRows,
    HostStep,
    can_step_on_host,
    read_columns,
)
from wm_vec.core.judge import Judge
from wm_vec.core.perspective import PerMany
from wm_vec.core.proposal import GradientGate, Proposal, off_host, on_host
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import RowLayout, Rows
from wm_vec.core.single import RowStep, RowTransition, SingleRow, is_finite, one_row, row_leaves
from wm_vec.core.starts import Starts, restart
from wm_vec.core.state import AutoresetMode, ColumnStep, StepResult
from wm_vec.core.trees import Tree, finite_rows, join_trees, map_tree, select_rows

EXACT_ROWS_CHUNK = 32
"""Rows that go through the network together under ``exact_rows``."""
PLANS: dict[AutoresetMode, AutoresetPlan] = {
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.DISABLED: "disabled",
}


class StepFunction:
    """What an engine does in a step, without the state that it owns.

    Args:
        dynamics: The batched transition.
        judge: Rewards and terminations of the perspectives.
        layout: The rows' leaves.
        joint: The perspectives' actions.
        starts: Where episodes start.
        horizon: Steps after which an episode is truncated; None for no limit.
        mode: When finished rows reset.
        exact_rows: Run rows in chunks of a fixed size.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        judge: Judge,
        layout: RowLayout,
        joint: JointAction,
        starts: Starts,
        *,
        horizon: int | None,
        mode: AutoresetMode,
        exact_rows: bool,
    ) -> None:
        self.dynamics, self.judge, self.layout, self.joint = dynamics, judge, layout, joint
        self.perspectives = joint.perspectives
        self.horizon, self.plan, self.exact_rows = horizon, PLANS[mode], exact_rows
        self.starts = starts
        plain = not judge.has_functions and len(self.perspectives) == 1 and not layout.stateful and not exact_rows
        short = plain and isinstance(dynamics, HostDynamics) and dynamics.steps_on_host
        self.host_dynamics: HostDynamics | None = dynamics if short else None  # type: ignore[assignment]
        picked = self.perspectives[0].picked_columns(dynamics.dtype) if short else None
        if picked is not None and bool(((picked < 0) | (picked >= layout.examples[-1].shape[1])).any()):
            picked = None  # a select says what is wrong with them
        self._picked = picked
        self.row_dynamics = one_row(dynamics, layout)

    def __call__(
        self,
        rows: Rows,
        actions: list[Tensor],
        rng: CounterRNG,
        plan: AutoresetPlan | None = None,
    ) -> tuple[Rows, StepResult]:
        """Step `rows`; arguments as in `advance`."""
        plan = plan or self.plan
        after, finished, proposal = self.advance(rows, actions, rng, plan)
        return after, self.result(finished, proposal, plan)

    def advance(
        self,
        rows: Rows,
        actions: list[Tensor],
        rng: CounterRNG,
        plan: AutoresetPlan,
    ) -> tuple[Rows, FinishedStep, Proposal]:
        """Step `rows`, without what `result` makes of it.

        Args:
            rows: As they are.
            actions: Checked.
            rng: At the rows' counters.
            plan: When finished rows reset.
        """
        gate = GradientGate() if torch.is_grad_enabled() else None
        if gate is not None:
            rows = rows._replace(leaves=[gate.admit(leaf) for leaf in rows.leaves])
            actions = [gate.admit(action) for action in actions]
        joint, clipped = self.joint.join(actions)
        if self.exact_rows:
            proposal = self.propose_in_chunks(rows, clipped, actions)
        else:
            proposal = self.propose(rows, clipped, actions, rng)
        after, finished = self.finish(rows, proposal, joint, plan)
        if gate is not None:
            gate.closed = finished.diverged
        return after, finished, proposal

    def single(self, one: SingleRow, action: Tensor, rng: CounterRNG) -> tuple[SingleRow, RowStep]:
        """The same for one row of one perspective without autoreset; no gradients.

        Args:
            one: The row.
            action: ``(1, *shape)``, finite and within its bounds.
            rng: At the row's counters.
        """
        joint = self.joint.columns(action, self.perspectives[0].action)
        out = self.row_dynamics.step_row(one.row, joint, rng)
        observation, carried, reward, ended = out.observation, one.carried, out.reward, out.terminated
        if self.judge.has_functions:
            if not finite_rows(observation).item():
                observation = self.dynamics.observe(self.row_dynamics.close_row(one.row))
            elapsed = torch.tensor([one.elapsed], device=joint.device)
            paid = torch.tensor([reward], dtype=self.judge.dtype, device=joint.device)
            own = paid, torch.tensor([ended], device=joint.device)
            judged, over, carried = self.judge(observation, [action], elapsed, carried, *own)
            reward, ended = judged.item(), bool(over.item())
        reward = float(type(one.returns)(reward))
        if not is_finite(out.total, reward, carried):
            return self._contained(one, out, observation, carried, reward, ended, joint)
        after = one.advanced(out.row, carried, reward)
        truncated = out.truncated or (self.horizon is not None and after.elapsed >= self.horizon)
        seen = self.see(observation)
        return after, RowStep(seen, reward, ended, truncated, False, after.elapsed, out.row, observation, out.info)

    def _contained(
        self,
        one: SingleRow,
        out: RowTransition,
        observation: Tree,
        carried: dict[str, Tensor],
        reward: float,
        ended: bool,
        joint: Tensor,
    ) -> tuple[SingleRow, RowStep]:
        """A single row that may have diverged: finished as any batch is."""
        layout, dynamics = self.layout, self.row_dynamics
        leaves = row_leaves(out.row, carried, layout, dynamics)
        paid = torch.full((1, 1), reward, dtype=self.judge.dtype, device=joint.device)
        flags = torch.full_like(paid, ended).bool(), torch.full_like(paid[0], out.truncated).bool()
        proposal = Proposal(leaves, observation, paid, *flags, out.info)
        rows, finished = self.finish(one.to_rows(layout, dynamics, joint.device), proposal, joint, "disabled")
        result = self.result(finished, proposal, "disabled")
        return SingleRow.of(rows, layout, dynamics), RowStep.of(result, dynamics)

    def step_on_host(
        self, host: HostRows, actions: list[Tensor], plan: AutoresetPlan, columns: bool
    ) -> StepResult | ColumnStep | Proposal:
        """Step `host` where it is, without gradients.

        Args:
            host: The rows.
            actions: Checked.
            plan: When finished rows reset; not ``"next_step"``.
            columns: Tell no more than `columns` does.

        Returns:
            What the caller is told; or, if a row may have diverged, what led to that, and nothing has been done yet.
        """
        dynamics, starts = self.host_dynamics, None if plan == "disabled" else self.starts
        if dynamics is None:
            joint, clipped = self.joint.join(actions)
            finite = not self.joint.may_diverge or math.isfinite(joint.sum().item())
            out = on_host(self.propose(host.to_rows(), clipped, actions, host.rng()))
        else:
            *others, values = host.leaves
            values, finite = self.joint.write(values, dynamics.action_columns, actions)
            leaves = dynamics.next_on_host([*others, values], host.rng())
            if finite and host.can_finish_columns(starts):
                picked, values = self._picked if columns else None, leaves[0].contiguous()
                rows = host.finish_columns(dynamics, values, self.horizon, starts, picked, keep=not columns)
                if rows is not None and rows.observation is not None:
                    seen = rows.observation if rows.fresh is None else rows.fresh
                    flags = rows.terminated, rows.truncated, rows.finished
                    return ColumnStep(seen, rows.observation, rows.reward, *flags, rows.running)
                if rows is not None:
                    return self._told(HostStep.of(rows, values, starts is not None), values, {}, plan, columns)
            out = read_columns(dynamics, leaves)
        if not finite or not math.isfinite(out.total):
            return off_host(out)
        done = host.finish(out, self.horizon, starts, keep=not columns)
        return self._told(done, out.observation, out.info, plan, columns)

    def _told(
        self, done: HostStep, observation: Tree, info: dict[str, Any], plan: AutoresetPlan, columns: bool
    ) -> StepResult | ColumnStep:
        """What the caller is told of a step that was finished in host memory."""
        if not columns:
            proposal = Proposal(done.final, observation, done.reward, done.terminated, None, info)
            return self.result(done.ended(), proposal, plan)
        if self._picked is not None:
            final, seen = (leaves[-1].index_select(1, self._picked) for leaves in (done.final, done.state))
        else:
            final = seen = self.see(observation)
            if done.resets:  # what is handed out twice is two tensors
                seen = map_tree(Tensor.clone, final) if done.state is done.final else self.observe(done.state)
        return ColumnStep(seen, final, done.reward, done.terminated, done.truncated, done.finished)

    def finish(self, rows: Rows, proposal: Proposal, joint: Tensor, plan: AutoresetPlan) -> tuple[Rows, FinishedStep]:
        """Contain, end, reset, count."""
        acted = joint if self.joint.may_diverge else None
        judged = proposal.reward, proposal.terminated, proposal.truncated
        if plan != "next_step" and can_step_on_host(proposal.reward):
            out = on_host(proposal)
            if math.isfinite(out.total + (0.0 if acted is None else acted.sum().item())):
                host = HostRows.of(rows)
                step = host.finish(out, self.horizon, None if plan == "disabled" else self.starts, keep=True)
                return host.to_rows(), host.finished_step(step)
        # In host memory a look tells which rows end, and only those are drawn for.
        look = plan == "same_step" and is_plain_host_tensor(rows.seed)
        bank: list[Tensor] = []
        index = None
        if plan != "disabled" and not look:
            bank, index = self.starts.draw(rows.seed, rows.episode + 1)
            index = torch.arange(rows.seed.shape[0], device=rows.seed.device) if index is None else index
        finished = finish_step(
            rows.leaves,
            proposal.leaves,
            bank,
            index,
            acted,
            *judged,
            rows.elapsed,
            rows.episode,
            rows.returns,
            rows.pending if plan == "next_step" else None,
            self.horizon,
            "disabled" if look else plan,
        )
        # A copy, since `finished` is handed out.
        pending = finished.finished.clone() if plan == "next_step" else rows.pending
        after = Rows(finished.state, finished.elapsed, finished.episode, rows.seed, finished.returns, pending)
        if look:
            after = restart(self.starts, after, mask=finished.finished)._replace(pending=pending)
            finished = finished._replace(
                state=after.leaves,
                was_reset=finished.finished.clone(),
                elapsed=after.elapsed,
                episode=after.episode,
                returns=after.returns,
            )
        return after, finished

    def observe(self, leaves: Sequence[Tensor]) -> PerMany:
        """What the perspectives see of a state's leaves."""
        return self.see(self.dynamics.observe(self.layout.to_tensordict(leaves)))

    def see(self, whole: Tree) -> PerMany:
        """Every perspective's own copy of the dynamics' observation."""
        if len(self.perspectives) == 1:
            return self.perspectives[0].observe(whole)
        return {p.name: p.observe(whole) for p in self.perspectives}

    def propose(self, rows: Rows, joint: Tensor, actions: list[Tensor], rng: CounterRNG) -> Proposal:
        """Run the dynamics, then let every perspective judge."""
        layout = self.layout
        before = layout.to_tensordict(rows.leaves)
        transition = self.dynamics.step(before, joint, rng)
        leaves = [transition.state.get(key) for key in layout.keys]
        observation = transition.observation
        if self.judge.has_functions:
            # Users' functions never see a diverged row: they get its last finite observation.
            observation = select_rows(finite_rows(observation), observation, self.dynamics.observe(before))
        carried = layout.reward_states(rows.leaves) if layout.stateful else {}
        reward, terminated, carried = self.judge(
            observation, actions, rows.elapsed, carried, transition.reward, transition.terminated
        )
        leaves += [carried[name] for name in layout.stateful]
        return Proposal(leaves, observation, reward, terminated, transition.truncated, dict(transition.info))

    def propose_in_chunks(self, rows: Rows, joint: Tensor, actions: list[Tensor]) -> Proposal:
        """The same in chunks of one size, the last one padded with copies of the last row."""
        batch = joint.shape[0]
        parts = []
        for start in range(0, batch, EXACT_ROWS_CHUNK):
            index = torch.arange(start, start + EXACT_ROWS_CHUNK, device=joint.device).clamp_(max=batch - 1)
            chunk = rows.pick(index)
            rng = CounterRNG(chunk.seed, chunk.episode, chunk.elapsed)
            parts.append(self.propose(chunk, joint[index], [a[index] for a in actions], rng))

        def join(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))[:batch]

        return Proposal(
            [join(leaves) for leaves in zip(*(p.leaves for p in parts), strict=True)],
            join_trees(join, [p.observation for p in parts]),
            join([p.reward for p in parts]),
            join([p.terminated for p in parts]),
            None if parts[0].truncated is None else join([p.truncated for p in parts if p.truncated is not None]),
            {name: _joined([p.info.get(name) for p in parts], batch) for name in parts[0].info},
        )

    def result(self, finished: FinishedStep | EndedStep, proposal: Proposal, plan: AutoresetPlan) -> StepResult:
        """What the caller is told of a finished step."""
        final_state = self.layout.to_tensordict(finished.final)
        predictions = self._predictions(finished, proposal)
        final_observation = self.see(predictions)
        # Where resets are the step's own, what is handed out twice is two tensors.
        observation = final_observation if plan == "disabled" else self.observe(finished.state)
        reward: PerMany = finished.reward
        terminated: PerMany = finished.terminated
        returns = finished.final_returns
        length = finished.final_elapsed
        if finished.state is finished.final:
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
            info=proposal.info,
        )

    def columns(self, finished: FinishedStep, proposal: Proposal, plan: AutoresetPlan) -> ColumnStep:
        """The part of `result` that one perspective sees of itself."""
        final = self.see(self._predictions(finished, proposal))
        observation = final if plan == "disabled" else self.observe(finished.state)
        flags = finished.truncated.unsqueeze(1), finished.finished.unsqueeze(1)
        return ColumnStep(observation, final, finished.reward, finished.terminated, *flags)

    def _predictions(self, finished: FinishedStep | EndedStep, proposal: Proposal) -> Tree:
        """The dynamics' whole observation where the step ended."""
        # Where no row diverged and none had to be looked at, the leaves are still the proposed ones.
        if finished.final is proposal.leaves:
            return proposal.observation
        return self.dynamics.observe(self.layout.to_tensordict(finished.final))


def _joined(parts: list[Any], batch: int) -> Any:
    """What the chunks report, of `batch` rows: tensors and lists one after another, the rest as the first says."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts], batch) for key in first}
    if isinstance(first, list):
        return [one for part in parts for one in part][:batch]
    if isinstance(first, Tensor) and first.dim():
        return torch.cat(parts)[:batch]
    return first
