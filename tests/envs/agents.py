"""A small world of fields in groups, with three agents in it."""

from functools import cache

import torch

from wm_vec import AgentSpec, Field, ModelConfig, WorldModel, compile_schema

SCHEMA = {
    "firm": {"revenue": Field(), "growth": Field(w=2), "capital": Field(w=2, low=-3.0, high=3.0)},
    "person": {"stress": Field(), "focus": Field(low=0.0, high=1.0), "mood": Field(num_classes=3)},
    "regime": Field(w=2),
    "slow": Field(period=40),
}


def employee_reward(obs, act, info):
    return 0.5 - obs["person.stress"].mean() + act.sum()


def ceo_reward(obs, act, info):
    return obs.get("firm.growth", [0])[0]


def state_reward(obs, act, info):
    return -sum(abs(v.mean()) for v in obs.values()) + 1.0


AGENTS = {
    "employee": AgentSpec(
        ["person.stress", "firm.revenue"],
        ["person.focus"],
        employee_reward,
        terminated_fn=lambda obs, step, info: (step >= 3) | (obs["person.stress"][0] > 1.5),
    ),
    "ceo": AgentSpec(["firm.revenue", "firm.growth"], ["firm.capital"], ceo_reward, act_high={"firm.capital": [1, 2]}),
    "state": AgentSpec(["regime", "person.mood"], ["regime"], state_reward, None, -0.5, 0.5),
}


@cache
def world() -> WorldModel:
    """The world, of random weights, so that everything moves; do not change it."""
    torch.manual_seed(0)
    made = WorldModel(
        compile_schema(SCHEMA, d_model=32), config=ModelConfig(num_blocks=1, mlp_ratio=2, n_denoise_steps=2)
    )
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.trained = True  # as far as warnings go
    return made


def capital(path="firm.capital", *seen, **bounds) -> AgentSpec:
    """An agent that acts on a field that others may act on, too."""
    return AgentSpec([*seen] or ["firm.revenue"], [path], lambda obs, act, info: act.sum(), **bounds)
