"""Technology: what can be done, at what cost, and who takes it up."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import REGION
from wm_vec.schema.fields import axis, monthly, quarterly, weekly, yearly

FIELD = axis("technology", "AI", "chips", "biotechnology", "clean energy", "robotics", "space")
NODE = axis("chips", "leading edge", "mature", "memory")
TASK = axis("task", "language", "code", "vision", "science", "control")


@dataclass(frozen=True)
class Technology:
    """Research, capability, cost, adoption, rules."""

    research_spending: Field = quarterly("billion USD", "Research and development", FIELD, low=0)
    venture_funding: Field = monthly("billion USD", "Venture capital", FIELD, low=0)
    patents: Field = quarterly("% per year", "Growth of patents", FIELD)
    maturity: Field = yearly("index", "From idea to mass market", FIELD)
    cost_decline: Field = yearly("% per year", "Fall of unit costs", FIELD)
    adoption: Field = quarterly("share", "Firms that use it", FIELD)
    hype: Field = weekly("index", "Attention of press and investors", FIELD)
    regulation: Field = quarterly("balance", "Rules, from permissive to strict", FIELD)
    export_controls: Field = quarterly("index", "Limits on exports", FIELD)
    talent: Field = quarterly("balance", "Specialists, from scarce to plentiful", FIELD)
    ai_capability: Field = monthly("share", "Tasks done as well as by experts", TASK)
    compute_cost: Field = monthly("1 = start of year", "Price of computation", low=0)
    compute_supply: Field = quarterly("% per year", "Growth of computation", REGION)
    chip_utilization: Field = monthly("share", "Factories' capacity in use", NODE)
    chip_lead_time: Field = monthly("weeks", "From order to delivery", NODE, low=0)
    leadership: Field = yearly("share", "Part in the world's best research", REGION)
