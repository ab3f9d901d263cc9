"""Built systems that firms and households depend on; lanes, ports and cables are in `physical.infrastructure`."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import HORIZON, REGION
from wm_vec.schema.fields import axis, daily, hourly, monthly, quarterly, weekly, yearly

NETWORK = axis("network", "power", "water", "roads", "rail", "telecoms")


@dataclass(frozen=True)
class Infrastructure:
    """Power, data, water, buildings."""

    grid_load: Field = hourly("share", "Peak load over capacity", REGION)
    grid_reliability: Field = daily("share", "Hours without a cut", REGION)
    grid_storage: Field = quarterly("GWh", "Batteries on the grid", REGION, low=0)
    grid_queue: Field = quarterly("years", "Wait for a connection", REGION, low=0)
    data_centres: Field = quarterly("GW", "Power of data centres", REGION, low=0)
    internet_traffic: Field = daily("% per year", "Growth of traffic", REGION)
    network_outages: Field = hourly("index", "Outages", NETWORK)
    water_supply: Field = weekly("share", "People with safe water", REGION)
    hospitals: Field = weekly("share", "Beds in use", REGION)
    housing_starts: Field = monthly("million per year", "Homes begun", REGION, low=0)
    house_prices: Field = monthly("% per year", "Change of house prices", REGION)
    office_vacancy: Field = quarterly("share", "Empty offices", REGION)
    public_investment: Field = quarterly("% of GDP", "Public investment", REGION, low=0)
    backlog: Field = yearly("% of GDP", "Maintenance not done", NETWORK, low=0)
    project_pipeline: Field = quarterly("billion USD", "Projects agreed on", HORIZON, low=0)
    construction_costs: Field = monthly("% per year", "Change of costs of construction", NETWORK)
    cyber_attacks: Field = daily("index", "Attacks on infrastructure", NETWORK)
