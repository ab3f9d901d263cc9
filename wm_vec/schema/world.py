"""The root of the ready-made worlds."""

from __future__ import annotations

from dataclasses import dataclass

from wm_vec.schema.financial import Financial
from wm_vec.schema.infrastructure import Infrastructure
from wm_vec.schema.physical import Physical
from wm_vec.schema.regime import Regime
from wm_vec.schema.resources import Resources
from wm_vec.schema.sector import Sector
from wm_vec.schema.technology import Technology


@dataclass(frozen=True)
class World:
    """All domains; firms, people and countries are entities beside them."""

    regime: Regime = Regime()
    financial: Financial = Financial()
    sector_tech: Sector = Sector()
    sector_energy: Sector = Sector()
    sector_health: Sector = Sector()
    sector_finance: Sector = Sector()
    sector_industry: Sector = Sector()
    sector_consumer: Sector = Sector()
    sector_materials: Sector = Sector()
    sector_utilities: Sector = Sector()
    sector_real_estate: Sector = Sector()
    sector_transport: Sector = Sector()
    physical: Physical = Physical()
    resources: Resources = Resources()
    infrastructure: Infrastructure = Infrastructure()
    technology: Technology = Technology()
