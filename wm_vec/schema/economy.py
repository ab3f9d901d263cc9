"""A small coupled economy with known equations: data to learn from, and the truth to judge what was learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_kernels import changing_fields
from wm_vec.canvas import Field, compile_schema
from wm_vec.plain import real_number, seed_number, whole_number
from wm_vec.schema.calendar import TICKS

GROWTH, VOLATILITY = "regime.growth_regime", "regime.volatility"
REVENUE, MARGIN = "firm_acme.financials.revenue_growth", "firm_acme.financials.operating_margin"
EQUITY, HEALTH = "firm_acme.market.equity_price", "firm_acme.latent_health"
SATISFACTION = "firm_acme.operations.employee_satisfaction"
TRAINING = "firm_acme.operations.training"
ALLOCATION, CAPEX = "firm_acme.strategy.capital_allocation", "firm_acme.strategy.capex_plan"
STRESS, CONFIDENCE = "person_employee.state.stress", "person_employee.state.confidence"
CAREER = "person_employee.incentives.career_incentives"
FOCUS, RISK = "person_employee.state.current_focus", "person_employee.cognitive.risk_appetite"

UNIT = "1 = a usual deviation"
Values = Mapping[str, Tensor]


class Equation(NamedTuple):
    """How a field moves.

    Attributes:
        meaning: What it is.
        mean: Its next value's mean, given the values of all fields.
        spread: Standard deviation of its normal noise.
        period: Ticks between two changes.
    """

    meaning: str
    mean: Callable[[Values], Tensor]
    spread: float
    period: int = TICKS["month"]


EQUATIONS: dict[str, Equation] = {
    GROWTH: Equation("Growth of the economy", lambda x: 0.6 * x[GROWTH] - 0.25 * x[VOLATILITY], 0.25),
    VOLATILITY: Equation("Nervousness of markets", lambda x: 0.6 * x[VOLATILITY] - 0.25 * x[GROWTH], 0.25),
    REVENUE: Equation(
        "Growth of sales, which investment and good work raise",
        lambda x: 0.5 * x[REVENUE] + 0.3 * x[GROWTH] + 0.4 * x[CAPEX] + 0.2 * x[SATISFACTION],
        0.25,
        TICKS["quarter"],
    ),
    MARGIN: Equation(
        "Profit over sales, which investment and training cost",
        lambda x: 0.75 * x[MARGIN] + 0.15 * x[REVENUE] - 0.25 * x[CAPEX] - 0.1 * x[TRAINING],
        0.2,
    ),
    EQUITY: Equation(
        "Price of a share",
        lambda x: 0.6 * x[EQUITY] + 0.25 * x[REVENUE] + 0.3 * x[HEALTH] - 0.2 * x[VOLATILITY],
        0.2,
    ),
    HEALTH: Equation(
        "How sound the firm is; spending in nervous times harms it",
        lambda x: 0.8 * x[HEALTH] + 0.15 * x[MARGIN] + (0.3 - 0.2 * x[VOLATILITY]) * x[ALLOCATION],
        0.2,
    ),
    SATISFACTION: Equation(
        "How content the staff is",
        lambda x: 0.75 * x[SATISFACTION] - 0.2 * x[STRESS] + 0.3 * x[TRAINING] - 0.2 * x[ALLOCATION],
        0.2,
    ),
    STRESS: Equation(
        "The employee's stress, which hard work raises",
        lambda x: 0.7 * x[STRESS] + 0.35 * x[FOCUS] + 0.1 * x[VOLATILITY] - 0.1 * x[SATISFACTION],
        0.2,
    ),
    CONFIDENCE: Equation(
        "The employee's confidence; hard work under stress gains little",
        lambda x: (
            0.75 * x[CONFIDENCE] + (0.3 - 0.15 * torch.tanh(x[STRESS])) * x[FOCUS] + 0.2 * x[RISK] - 0.15 * x[STRESS]
        ),
        0.2,
    ),
    CAREER: Equation("What a career promises", lambda x: 0.6 * x[CAREER] + 0.2 * x[EQUITY] + 0.3 * x[RISK], 0.2),
}
"""Path -> equation, in units of about twice a field's standard deviation; 0 in ordinary times."""
CONTROLS = {
    ALLOCATION: "Capital to projects rather than to reserves",
    CAPEX: "Planned investment",
    TRAINING: "Training of the staff",
    FOCUS: "Hard work rather than rest",
    RISK: "The employee's readiness to take risks",
}
"""What agents act on, from -1 to 1. What nobody acts on is drawn anew every month, uniformly."""


class SyntheticEconomy:
    """A firm, its employee and the economy about them, in months; `EQUATIONS` say what moves how.

    Args:
        noise: Factor on the spread of all equations.
        d_model: Of the schema.

    Attributes:
        bound: The schema: N fields of one position each, under the paths of the ready-made worlds.
        ticks_per_step: Ticks of a month, for the world that learns it.
        spread: ``(N,)`` float32, standard deviation of a field's noise where it changes.
    """

    def __init__(self, noise: float = 1.0, d_model: int = 32) -> None:
        noise = real_number(noise, "noise", 0.0, 10.0)
        fields = {path: Field(period=e.period, unit=UNIT, meaning=e.meaning) for path, e in EQUATIONS.items()}
        month = TICKS["month"]
        fields |= {
            path: Field(period=month, low=-1.0, high=1.0, unit="-1 to 1", meaning=CONTROLS[path]) for path in CONTROLS
        }
        self.bound = compile_schema(fields, d_model=d_model)
        self.ticks_per_step = TICKS["month"]
        self.period = torch.tensor([field.spec.period for field in self.bound.bound_fields()])
        self.is_control = torch.tensor([path in CONTROLS for path in self.bound])
        spreads = [1 / math.sqrt(3) if path in CONTROLS else noise * EQUATIONS[path].spread for path in self.bound]
        self.spread = torch.tensor(spreads)

    def mean(self, values: Tensor, tick: Tensor) -> Tensor:
        """The mean of the next values ``(B, N)``, given the values ``(B, N)`` at the ticks ``(B,)`` int64."""
        x = dict(zip(self.bound, values.unbind(1), strict=True))
        after = torch.stack([EQUATIONS[p].mean(x) if p in EQUATIONS else torch.zeros_like(x[p]) for p in x], 1)
        return torch.where(changing_fields(tick, self.period, self.ticks_per_step), after, values)

    def advance(self, values: Tensor, tick: Tensor, normals: Tensor) -> Tensor:
        """The next values ``(B, N)``, with standard normals ``(B, N)`` for noise."""
        noise = torch.where(self.is_control, torch.erf(normals / math.sqrt(2.0)), self.spread * normals)
        changing = changing_fields(tick, self.period, self.ticks_per_step)
        return self.mean(values, tick) + torch.where(changing, noise, 0.0)

    def start(self, normals: Tensor) -> Tensor:
        """Values ``(B, N)`` at the start of episodes, from as many standard normals: ordinary times, more or less."""
        return torch.where(self.is_control, torch.erf(normals / math.sqrt(2.0)), 0.5 * normals)

    def series(self, num_episodes: int = 500, num_steps: int = 60, seed: int = 0) -> dict[str, np.ndarray]:
        """Recordings to learn from, as `WorldModel.finetune` takes them: what happens while nobody acts.

        Args:
            num_episodes: Recordings E.
            num_steps: Months T of each.
            seed: Seeds them.

        Returns:
            Field path -> ``(E * T,)`` float32, and ``tick`` and ``episode``, ``(E * T,)`` int64.
        """
        num_episodes, num_steps = whole_number(num_episodes, "num_episodes"), whole_number(num_steps, "num_steps")
        generator = torch.Generator().manual_seed(seed_number(seed, "seed"))
        shape = num_episodes, len(self.bound)
        ticks = torch.arange(num_steps) * self.ticks_per_step
        rows = [self.start(torch.randn(shape, generator=generator))]
        for tick in ticks[:-1]:
            rows.append(self.advance(rows[-1], tick.expand(num_episodes), torch.randn(shape, generator=generator)))
        columns = torch.stack(rows, 1).flatten(0, 1).unbind(1)
        episode = torch.arange(num_episodes).repeat_interleave(num_steps)
        index = {"tick": ticks.repeat(num_episodes).numpy(), "episode": episode.numpy()}
        return {path: column.numpy() for path, column in zip(self.bound, columns, strict=True)} | index


def synthetic_economy(noise: float = 1.0, d_model: int = 32) -> SyntheticEconomy:
    """See `SyntheticEconomy`."""
    return SyntheticEconomy(noise, d_model)
