"""The physical world: climate, disasters, and the networks that move goods and data."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.canvas import Field
from wm_vec.schema.axes import REGION
from wm_vec.schema.fields import axis, daily, monthly, quarterly, weekly, yearly

LANE = axis("lane", "Suez", "Panama", "Malacca", "Hormuz", "transpacific", "transatlantic")
PORT = axis("port", "Shanghai", "Singapore", "Rotterdam", "Los Angeles", "Dubai", "Santos")
CABLE = axis("route", "transatlantic", "transpacific", "Europe to Asia", "Africa", "Latin America")
HAZARD = axis("hazard", "storm", "flood", "earthquake", "drought", "heat")
POLE = axis("pole", "north", "south")
OCEAN = axis("ocean", "Atlantic", "Pacific", "Indian", "Southern", "Arctic")
SYSTEM = axis("system", "ice sheets", "permafrost", "rain forests", "ocean currents", "coral reefs")
GAS = axis("gas", "carbon dioxide", "methane", "nitrous oxide")


@dataclass(frozen=True)
class Climate:
    """Slow states of atmosphere, oceans and ice."""

    global_temp_anomaly: Field = monthly("degrees C", "Surface temperature above 1850 to 1900")
    regional_temp_anomaly: Field = monthly("degrees C", "Surface temperature above 1991 to 2020", REGION)
    carbon_ppm: Field = monthly("ppm", "Carbon dioxide in the air", low=0)
    emissions: Field = yearly("billion tonnes CO2e", "Emissions", GAS, low=0)
    precipitation_anomaly: Field = monthly("standard deviations", "Rain against the seasonal norm", REGION)
    soil_moisture: Field = weekly("standard deviations", "Moisture against the seasonal norm", REGION)
    ocean_temperature: Field = weekly("degrees C", "Sea surface above 1991 to 2020", OCEAN)
    el_nino: Field = monthly("degrees C", "Niño 3.4 anomaly of the Pacific")
    sea_level: Field = quarterly("mm", "Mean sea level above 1993")
    sea_ice: Field = monthly("million km2", "Area of sea ice", POLE, low=0)
    tipping_risk: Field = yearly("index", "Nearness of an irreversible change", SYSTEM)


@dataclass(frozen=True)
class Disasters:
    """Hazards as they are and as they threaten."""

    active_disaster_state: Field = daily("standard deviations", "Severity against the seasonal norm", HAZARD)
    wildfire_state: Field = daily("standard deviations", "Area that burns against the seasonal norm", REGION)
    pandemic_risk: Field = weekly("share", "Chance of a pandemic within a year")
    outbreaks: Field = weekly("standard deviations", "Infections against the seasonal norm", REGION)
    storm_outlook: Field = weekly("standard deviations", "Storms to come against the seasonal norm", OCEAN)
    people_displaced: Field = weekly("million", "People away from home", REGION, low=0)
    insured_losses: Field = quarterly("billion USD", "Losses of insurers", HAZARD, low=0)
    relief_capacity: Field = weekly("index", "Readiness of relief", REGION)


@dataclass(frozen=True)
class Transport:
    """Networks that move goods and data."""

    shipping_lane_capacity: Field = daily("relative change", "Capacity against the usual", LANE, low=-1)
    port_congestion: Field = daily("index", "Ships that wait", PORT)
    rail_freight_network: Field = weekly("share", "Trains on time", REGION)
    road_freight: Field = weekly("share", "Lorries on time", REGION)
    air_freight: Field = weekly("share", "Capacity in use", REGION)
    container_rates: Field = weekly("1 = start of year", "Price of a container", LANE, low=0)
    delivery_times: Field = weekly("days", "From order to delivery", REGION, low=0)
    undersea_cable_topology: Field = monthly("relative change", "Bandwidth against the usual", CABLE, low=-1)
    satellites: Field = monthly("index", "Coverage of communication and navigation", REGION)
    bottlenecks: Field = weekly("index", "Pressure in supply chains", REGION)


@dataclass(frozen=True)
class Ecosystems:
    """Living things that the economy rests on."""

    biodiversity: Field = yearly("1 = 1970", "Living Planet Index", REGION, low=0)
    forest_cover: Field = yearly("share", "Land under forest", REGION)
    fish_stocks: Field = yearly("share", "Stocks fished within their limits", OCEAN)
    air_quality: Field = daily("micrograms per m3", "Fine dust in cities", REGION, low=0)
    crop_conditions: Field = weekly("index", "Crops in good condition", REGION)


@dataclass(frozen=True)
class Physical:
    """All of it."""

    climate: Climate = Climate()
    disasters: Disasters = Disasters()
    infrastructure: Transport = Transport()
    ecosystems: Ecosystems = Ecosystems()
