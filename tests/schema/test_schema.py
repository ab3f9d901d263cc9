"""The ready-made fields: what each has, and the paths that examples use."""

import re
from itertools import pairwise
from types import SimpleNamespace

import pytest

from wm_vec.canvas import compile_schema
from wm_vec.schema import TICKS, Business, Country, Individual, World
from wm_vec.schema.fields import BOUNDS

CORPORATE = {
    "include": ["regime", "financial.equities", "sector_tech"],
    "entities": {"firm_acme": Business(), "person_ceo": Individual(), "person_employee": Individual()},
}
PATHS = {
    "firm_acme.financials": "revenue revenue_growth operating_margin fcf net_debt_to_ebitda opex",
    "firm_acme.market": "equity_price analyst_consensus",
    "firm_acme.operations": "utilization headcount employee_satisfaction quality_incidents tech_debt capacity",
    "firm_acme.strategy": "capital_allocation capex_plan m_and_a_appetite geographic_expansion",
    "firm_acme.risk": "key_person_risk",
    "firm_acme": "latent_health latent_momentum latent_tail_risk",
    "person_employee.state": "stress confidence current_focus",
    "person_employee.incentives": "career_incentives",
    "person_employee.cognitive": "risk_appetite",
    "regime": "growth_regime volatility",
    "physical.infrastructure": "shipping_lane_capacity port_congestion rail_freight_network undersea_cable_topology",
    "physical.disasters": "active_disaster_state wildfire_state pandemic_risk",
    "physical.climate": "global_temp_anomaly carbon_ppm",
}
"""Of every example: those of the guide's corporate and robot worlds."""
GROUPS = ("financial.equities", "financial.credit", "financial.yield_curves", "sector_tech", "resources", "technology")
GROUPS += ("infrastructure", "person_employee.network", "person_ceo.state", "country_x.economy")


@pytest.fixture(scope="module")
def everything():
    return compile_schema(World, entities={**CORPORATE["entities"], "country_x": Country})


def test_every_field_has_unit_meaning_and_period(everything):
    for path, spec in ((f.path, f.spec) for f in everything.bound_fields()):
        assert spec.unit, path
        assert re.match(r"[A-Z0-9]", spec.meaning), path
        assert not spec.meaning.endswith("."), path
        assert spec.period in TICKS.values(), path
        assert (spec.low, spec.high) == BOUNDS.get(spec.unit, (spec.low, spec.high)), path
        if spec.num_positions > 1:  # each position has a name, row by row
            names = [part.split(", ") for part in re.findall(r"\(([^)]*)\)", spec.meaning)]
            assert [len(part) for part in names] == [size for size in (spec.h, spec.w) if size > 1], path
            assert all(len({*part}) == len(part) for part in names), path


def test_the_paths_of_the_examples_are_there(everything):
    missing = [f"{group}.{name}" for group, names in PATHS.items() for name in names.split()]
    assert [path for path in missing if path not in everything] == []
    for group in GROUPS:
        assert sum(path.startswith(f"{group}.") for path in everything) >= 5, group


def test_the_sizes_of_the_worlds(everything):
    corporate = compile_schema(World, **CORPORATE)
    assert len(corporate) >= 195
    assert 880 <= corporate.layout.num_positions <= 960
    assert len(everything) - len(corporate) >= 300


def test_the_calendar_is_whole():
    ticks = list(TICKS.values())
    assert ticks == sorted(ticks)
    assert all(longer % shorter == 0 for shorter, longer in pairwise(ticks))


def test_a_large_schema_of_another_library_compiles():
    """951 fields with 2,438 positions, with that library's own attributes."""

    def foreign(i):
        h, w = (1, 3) if i < 268 else (2, 2) if i < 585 else (1, 1)
        return SimpleNamespace(h=h, w=w, period=1 + i % 48, loss_weight=0.5, is_output=i % 7 > 0, attn="linear")

    groups = {f"group_{g}": {f"field_{i}": foreign(i) for i in range(g, 951, 20)} for g in range(20)}
    bound = compile_schema(groups, include=list(groups), d_model=32)
    assert (len(bound), bound.layout.num_positions) == (951, 268 * 3 + 317 * 4 + 366)
    assert bound["group_4.field_264"].spec.w == 3
    assert bound["group_4.field_264"].spec.period == 25
    assert bound["group_0.field_300"].indices()[-1] - bound["group_0.field_300"].start == 3
