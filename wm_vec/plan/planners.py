"""Model predictive control: TorchRL's planners in imagination.

The search is TorchRL's, `CEMPlanner` and `MPPIPlanner`. `PlanningEnv` adapts the world to it: it encodes actions, and
forks states so that no candidate meets the noise of the real future. `Advantage` adapts returns to MPPI, which wants a
value network and whose weights ``exp(temperature * advantage)`` would otherwise overflow.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.modules.planners import CEMPlanner, MPCPlannerBase, MPPIPlanner

from wm_vec.envs.torchrl import StatelessTorchRLEnv, TorchRLEnv
from wm_vec.envs.torchrl.specs import STATE_KEY
from wm_vec.plain import check_type, real_number, whole_number
from wm_vec.plan.planning_env import PlanningEnv


class Planner(MPCPlannerBase):
    """TorchRL's planners with the state of the world in and the environment's own actions out.

    A policy for `StatelessTorchRLEnv` and, with ``expose_state=True``, `TorchRLEnv`. All states of a TensorDict
    ``(*N,)`` are planned for at once, a batch of all their candidates. Rewards after the end of an episode do not
    count. Candidates are drawn with torch's generator, their noise from the states' counters.
    """

    env: PlanningEnv

    def forward(self, tensordict: TensorDictBase, tensordict_out: TensorDictBase | None = None) -> TensorDictBase:
        """Plan from every state of `tensordict` ``(*N,)``, and write the first ``"action"`` of each plan.

        Raises:
            KeyError, ValueError: No state, or another world's.
        """
        with torch.no_grad():
            start = self.env.env.reset(tensordict.exclude("_reset"), set_state=True)
            code = self.action_spec.project(self.planning(start.select(STATE_KEY).to(self.env.device)))
        return (tensordict if tensordict_out is None else tensordict_out).set("action", self.env.encoding.decode(code))


class CEM(Planner, CEMPlanner):
    """The cross-entropy method: fits a normal distribution to the best candidates, again and again.

    Args:
        env: The world; of a `TorchRLEnv` its `to_stateless`.
        horizon: Steps that are planned ahead.
        num_candidates: Action sequences per state and iteration.
        num_iterations: How often candidates are drawn and compared.
        num_elites: The best candidates, which the distribution is fitted to; at least 2.

    Raises:
        TypeError: Another kind of environment.
        ValueError: Numbers that do not fit.
    """

    def __init__(
        self,
        env: StatelessTorchRLEnv | TorchRLEnv,
        *,
        horizon: int = 15,
        num_candidates: int = 512,
        num_iterations: int = 5,
        num_elites: int = 64,
    ) -> None:
        numbers = _checked("CEM", horizon, num_iterations, num_candidates, num_elites)
        super().__init__(PlanningEnv(_stateless(env, "CEM")), *numbers)


class MPPI(Planner, MPPIPlanner):
    """Model predictive path integral control: fits the distribution to candidates weighted by what they are worth.

    Args:
        env, horizon, num_candidates, num_iterations, num_elites: As for `CEM`.
        temperature: Per unit of return, above 0: a candidate counts ``exp(temperature * (its return - the best))``,
            as TorchRL has it, so that more is greedier.
        advantage_module: Writes what candidates are worth, ``"advantage"`` ``(*N, K, T, 1)``, as TorchRL's value
            estimators do; it gets their transitions without the states. None for the return.

    Raises:
        TypeError: Another kind of environment.
        ValueError: Numbers that do not fit.
    """

    def __init__(
        self,
        env: StatelessTorchRLEnv | TorchRLEnv,
        *,
        horizon: int = 15,
        num_candidates: int = 512,
        num_iterations: int = 5,
        num_elites: int = 64,
        temperature: float = 1.0,
        advantage_module: nn.Module | None = None,
    ) -> None:
        numbers = _checked("MPPI", horizon, num_iterations, num_candidates, num_elites)
        if advantage_module is not None:
            check_type(advantage_module, nn.Module, "MPPI: advantage_module")
        temperature = real_number(temperature, "MPPI: temperature", 1e-30)
        super().__init__(PlanningEnv(_stateless(env, "MPPI")), Advantage(advantage_module), temperature, *numbers)


class Advantage(nn.Module):
    """By how much candidates fall short of the best of their state, so that ``exp`` of it never overflows.

    Args:
        module: Writes ``"advantage"``, from which the best is then subtracted; None for returns.
    """

    def __init__(self, module: nn.Module | None) -> None:
        super().__init__()
        self.module = module

    def forward(self, rollouts: TensorDictBase) -> TensorDictBase:
        """Set ``"advantage"`` ``(*N, K, T, 1)`` of K candidates' transitions ``(*N, K, T)``."""
        if self.module is None:
            reward = rollouts.get(("next", "reward"))
            advantage = reward.sum(-2, keepdim=True).expand_as(reward)
        else:
            self.module(rollouts)
            advantage = rollouts.get("advantage")
        return rollouts.set("advantage", advantage - advantage.amax(-3, keepdim=True))


def _stateless(env: StatelessTorchRLEnv | TorchRLEnv, where: str) -> StatelessTorchRLEnv:
    if isinstance(env, (StatelessTorchRLEnv, TorchRLEnv)):
        return env if isinstance(env, StatelessTorchRLEnv) else env.to_stateless()
    raise TypeError(
        f"{where} plans in a StatelessTorchRLEnv or TorchRLEnv, got {type(env).__name__}. Every world has one: "
        "world.to_torchrl_env(), vector_env.to_torchrl(), TorchRLEnv.from_dynamics(...)."
    )


def _checked(where: str, horizon: int, iterations: int, candidates: int, elites: int) -> tuple[int, int, int, int]:
    """The numbers of a search in TorchRL's order, checked."""
    for name, count in {"horizon": horizon, "num_iterations": iterations, "num_candidates": candidates}.items():
        whole_number(count, f"{where}: {name}")
    if whole_number(elites, f"{where}: num_elites", 2) > candidates:
        raise ValueError(f"{where}: num_elites must lie between 2 and num_candidates, {candidates}, got {elites!r}.")
    return horizon, iterations, candidates, elites
