"""What the economy draws on: energy, minerals, water, food, land, people."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import AGE, REGION
from wm_vec.schema.fields import axis, monthly, quarterly, weekly, yearly

FUEL = axis("fuel", "oil", "gas", "coal", "uranium")
SOURCE = axis("source", "fossil", "nuclear", "hydro", "wind", "solar")
MINERAL = axis("mineral", "copper", "lithium", "nickel", "rare earths", "iron ore")
FOOD = axis("food", "grain", "oilseeds", "meat", "dairy", "fish")


@dataclass(frozen=True)
class Energy:
    """Fuels and power."""

    supply: Field = monthly("% per year", "Growth of supply", FUEL)
    demand: Field = monthly("% per year", "Growth of demand", FUEL)
    spare_capacity: Field = monthly("% of demand", "Capacity that can be started", FUEL, low=0)
    strategic_reserves: Field = monthly("days of use", "Reserves of states", FUEL, low=0)
    power_mix: Field = monthly("share", "Power generated", SOURCE)
    build_out: Field = quarterly("GW per year", "New power plants", SOURCE, low=0)
    producer_discipline: Field = monthly("balance", "Exporters, from free-for-all to cartel")


@dataclass(frozen=True)
class Minerals:
    """Ores and metals."""

    production: Field = monthly("% per year", "Growth of production", MINERAL)
    stocks: Field = weekly("days of use", "Stocks at exchanges", MINERAL, low=0)
    mine_pipeline: Field = yearly("% of production", "Mines under construction", MINERAL, low=0)
    supplier_concentration: Field = yearly("share", "Output of the largest country", MINERAL)
    recycling: Field = yearly("share", "Use met by scrap", MINERAL)
    export_limits: Field = monthly("index", "Limits on exports", MINERAL)


@dataclass(frozen=True)
class Food:
    """Food, water and land."""

    production: Field = monthly("% per year", "Growth of production", FOOD)
    stocks: Field = monthly("days of use", "Stocks", FOOD, low=0)
    food_insecurity: Field = quarterly("share", "People without enough to eat", REGION)
    fertiliser: Field = monthly("1 = start of year", "Price of fertiliser", low=0)
    reservoirs: Field = weekly("share", "Fill of reservoirs", REGION)
    groundwater: Field = quarterly("standard deviations", "Groundwater against its norm", REGION)
    arable_land: Field = yearly("% per year", "Change of arable land", REGION)


@dataclass(frozen=True)
class People:
    """Labour and skills."""

    population: Field = yearly("million", "People", AGE, low=0)
    participation: Field = quarterly("share", "Adults who work or look for work", REGION)
    skills: Field = yearly("index", "Fit of skills to jobs", REGION)
    migration: Field = quarterly("million per year", "Net arrivals", REGION)
    health: Field = yearly("years", "Healthy life expectancy", REGION, low=0)


@dataclass(frozen=True)
class Resources:
    """All of it."""

    energy: Energy = Energy()
    minerals: Minerals = Minerals()
    food: Food = Food()
    people: People = People()
