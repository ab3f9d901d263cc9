"""Why pessimism: a planner goes where a learned model errs in its favour, unless that costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict

from tests.adapters.ensembles import Ensemble, fit
from wm_vec.envs import PessimisticVectorReward, WorldModelVectorEnv

EDGE = 1.0
PLACE, PUSH = Box(-10, 10, (1,), np.float32), Box(-1, 1, (1,), np.float32)
HORIZON, CANDIDATES = 12, 256


def walk(place, push):
    """The true world: it pays the more, the nearer one comes to the edge, and beyond the edge one has fallen."""
    following = place + 0.25 * push
    return following, torch.where(following <= EDGE, torch.sin(1.2 * following), -2.0)


def random_walks(seed) -> TensorDict:
    """Transitions of random play that never got to the edge: nothing in them says that one can fall."""
    generator = torch.Generator().manual_seed(seed)
    place, push = (2 * torch.rand(3000, 1, generator=generator) - shift for shift in (1.2, 1.0))
    following, reward = walk(place, push)
    data = TensorDict({"observation": place, "action": push, "next": {"observation": following, "reward": reward}})
    data.auto_batch_size_(1)
    return data[(following <= 0.95)[:, 0]]


def plan(env) -> tuple[torch.Tensor, float]:
    """The pushes ``(HORIZON, 1)`` that the cross-entropy method finds best in `env`, and what it makes of them."""
    generator = torch.Generator().manual_seed(0)
    mean, spread = torch.zeros(HORIZON, 1, 1), torch.ones(HORIZON, 1, 1)
    for _ in range(6):
        pushes = (mean + spread * torch.randn(HORIZON, CANDIDATES, 1, generator=generator)).clamp(-1, 1)
        env.reset(seed=0)
        returns = sum(env.step(push)[1] for push in pushes)
        best = pushes[:, returns.topk(24).indices]
        mean, spread = best.mean(1, keepdim=True), best.std(1, keepdim=True)
    return mean[:, 0], float(returns.max())


def true_return(pushes) -> float:
    place, total = torch.zeros(1), 0.0
    for push in pushes:
        place, reward = walk(place, push)
        total += float(reward)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_the_planner_falls_over_the_edge_without_the_penalty_and_stops_before_it_with(seed):
    torch.manual_seed(seed)
    ensemble = fit(Ensemble(1, 1), random_walks(seed), 300).requires_grad_(False)
    plans = {}
    for coefficient in (0.0, 30.0):
        env = WorldModelVectorEnv.from_callables(
            ensemble,
            PLACE,
            PUSH,
            num_envs=CANDIDATES,
            initial_state=torch.zeros(1),
            transition_fn=Ensemble.predict,
        )
        pushes, promised = plan(PessimisticVectorReward(env, coefficient))
        plans[coefficient] = promised, true_return(pushes)
    promised, got = plans[0.0]
    assert promised > 10
    assert got < -10
    promised, got = plans[30.0]
    assert got > 5
    assert promised < got, "what is charged should make the plan's worth a cautious guess"


def test_standing_still_and_the_best_plan_in_the_true_world():
    """What the figures above lie between: 12 steps of nothing, and running up to the edge."""
    assert true_return(torch.zeros(HORIZON, 1)) == 0
    best = true_return([torch.ones(1)] * 4 + [torch.zeros(1)] * 8)
    assert 8 < best < 12
