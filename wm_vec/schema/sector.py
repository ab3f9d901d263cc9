"""A sector of the economy; the world has one group of these fields per sector."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import HORIZON, REGION
from wm_vec.schema.fields import axis, daily, monthly, quarterly, weekly, yearly

COST = axis("cost", "labour", "materials", "energy", "capital")
SIZE = axis("size of firms", "large", "medium", "small")


@dataclass(frozen=True)
class Sector:
    """Demand, supply, prices, people and rules of one sector."""

    demand_growth: Field = monthly("% per year", "Growth of demand", REGION)
    output: Field = monthly("1 = start of year", "Output", REGION, low=0)
    capacity_utilization: Field = monthly("share", "Capacity in use", REGION)
    order_backlog: Field = monthly("months of sales", "Orders not yet filled", low=0)
    inventories: Field = monthly("months of sales", "Finished goods in stock", low=0)
    selling_prices: Field = monthly("% per year", "Change of selling prices", REGION)
    input_costs: Field = monthly("% per year", "Change of costs", COST)
    operating_margin: Field = quarterly("% of sales", "Operating margin", SIZE)
    investment: Field = quarterly("% of sales", "Planned capital expenditure", HORIZON)
    research: Field = quarterly("% of sales", "Research and development", low=0)
    employment: Field = monthly("% per year", "Growth of jobs", SIZE)
    wages: Field = monthly("% per year", "Growth of wages", REGION)
    concentration: Field = yearly("share", "Sales of the four largest firms", REGION)
    entry: Field = quarterly("% per year", "New firms over all firms", low=0)
    regulation: Field = quarterly("balance", "Rules, from loosened to tightened", REGION)
    equity_index: Field = daily("1 = start of year", "Level of the sector's shares", low=0)
    valuation: Field = weekly("ratio", "Price over expected earnings", SIZE)
    disruption: Field = quarterly("index", "Threat from new technology")
