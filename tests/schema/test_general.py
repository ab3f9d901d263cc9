"""`GeneralUnifiedWorldModel`, and what `describe` says of a world."""

import io
import re
from dataclasses import dataclass, field

import pytest
import torch
from rich.console import Console

from wm_vec import Field, GeneralUnifiedWorldModel, WorldModel
from wm_vec.canvas import SchemaError, UnknownFieldError
from wm_vec.schema import TICKS, Business

OPENNESS = "Openness to trade by economy (United States, euro area, China, rest of the world)"
SMALL = {"d_model": 32, "n_layers": 1, "n_loops": 1}


@dataclass
class Shop:
    stock: Field = field(default_factory=lambda: Field(1, 3, low=0.0, period=48, unit="pieces", meaning="In the shop"))
    kind: Field = field(default_factory=lambda: Field(num_classes=4))


def small(**arguments):
    return GeneralUnifiedWorldModel(**{"include": ["regime"], **SMALL, **arguments})


def cells(line):
    """The cells of a line of the table that hold anything."""
    return re.split(r"  +", line.strip())


def described(world, width=160):
    text = io.StringIO()
    world.describe(Console(file=text, width=width))
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def test_what_is_included_excluded_and_added():
    without = ["sector_tech.wages", "a.shop.kind"]
    world = small(include=["regime", "sector_tech"], exclude=without, entities={"a.shop": Shop()})
    assert "regime.growth_regime" in world.bound
    assert "sector_tech.wages" not in world.bound
    assert world.bound.field_names[-1] == "a.shop.stock"
    assert len(GeneralUnifiedWorldModel(entities={"acme": Business()}, **SMALL).bound) > 400, "the whole root, and it"


def test_the_network_is_as_asked():
    world = GeneralUnifiedWorldModel(["regime"], None, None, 64, 2, 2, 3, step="quarter", dtype=torch.float64, seed=4)
    config = world.model.config
    assert (config.num_blocks, config.num_loops, config.ticks_per_step) == (2, 3, TICKS["quarter"])
    assert world.bound.layout.d_model == 64
    same = GeneralUnifiedWorldModel(["regime"], n_layers=2, step="quarter", dtype=torch.float64, seed=4)
    assert all(map(torch.equal, world.parameters(), same.parameters()))
    assert small().model.config.ticks_per_step == TICKS["month"]


@pytest.mark.filterwarnings("ignore:This world is untrained")
def test_it_comes_back_from_its_file(tmp_path):
    asked = {"include": ["regime", "financial.credit"], "step": "week"}
    world, path = small(**asked, entities={"shop": Shop()}), tmp_path / "world.safetensors"
    world.save(path)
    for kind in (WorldModel, GeneralUnifiedWorldModel):
        again = kind.load(path)
        assert type(again) is kind
        assert again.bound.to_dict() == world.bound.to_dict()
        assert again.bound["shop.stock"].spec.meaning == "In the shop"
        assert again.model.config == world.model.config
        assert torch.equal(again.predict(seed=3)["regime.volatility"], world.predict(seed=3)["regime.volatility"])
    small(**asked, entities={"shop": Shop(kind=Field(num_classes=4, unit="of goods"))}).load_weights(path)
    assert isinstance(GeneralUnifiedWorldModel.from_env("CartPole-v1"), GeneralUnifiedWorldModel)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"include": ["financal.equities"]}, UnknownFieldError, "`include`.*Closest: .*financial.equities"),
        ({"include": ["regime.growth"]}, UnknownFieldError, "Closest: regime.growth_regime"),
        (
            {"include": ["regime", "firm_acme.financials"], "entities": {"firm_acme": Business()}},
            UnknownFieldError,
            "Entities are kept anyway; leave out parts of them by `exclude`",
        ),
        ({"exclude": ["sector_tech"]}, UnknownFieldError, "`exclude`: no field or group is called 'sector_tech'"),
        ({"entities": {"regime": Business()}}, SchemaError, "'regime' collides with 'regime.growth_regime'"),
        ({"entities": {"financial": Business()}}, SchemaError, "'financial' collides with 'financial.equities"),
        ({"entities": {"regime.volatility": Field()}}, SchemaError, "collides with 'regime.volatility'"),
        ({"entities": {"firm-acme": Business()}}, SchemaError, "'firm-acme'; use letters"),
        ({"entities": {"acme": "Business"}}, SchemaError, "'acme' is a str"),
        ({"step": "fortnight"}, ValueError, "step must be one of hour, day, week, month, quarter, year"),
        ({"step": 192}, ValueError, "step must be one of hour"),
        ({"n_heads": 3}, ValueError, "`num_heads` must divide d_model, 32, got 3"),
        ({"n_layers": 0}, ValueError, "n_layers must be a whole number"),
        ({"d_model": 40}, ValueError, "multiple of 32"),
    ],
)
def test_bad_input_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        small(**wrong)


def test_fields_that_do_not_exist():
    world = small(entities={"firm_acme": Business()})
    with pytest.raises(UnknownFieldError, match=r"Closest: firm_acme\.financials\.revenue"):
        world.observe("firm_acme.financials.revenu", 1.0)


def test_describe_says_what_there_is():
    world = small(include=["regime.trade_openness", "regime.liquidity"], entities={"a.shop": Shop()})
    title, head, _, *lines = described(world)
    assert title == "4 fields, 9 positions; a step lasts a month"
    assert cells(head) == ["field", "h x w", "unit", "period", "bounds", "coverage", "meaning"]
    assert [cells(line) for line in lines] == [
        ["regime"],
        ["liquidity", "1 x 1", "balance", "each step, week", "-1 to 1", "-", "Funding, from frozen to abundant"],
        ["trade_openness", "1 x 4", "index", "3 steps, quarter", "0 to 1", "-", OPENNESS],
        ["a.shop"],
        ["stock", "1 x 3", "pieces", "each step, week", "from 0", "-", "In the shop"],
        ["kind", "1 x 1", "each step, hour", "4 classes", "-"],
    ]


def test_describe_of_any_world(capsys):
    WorldModel({"x": Field(period=3)}, ticks_per_step=2).describe()
    out = capsys.readouterr().out
    assert "1 fields, 1 positions; a step lasts 2 ticks" in out
    assert "1.5 steps" in out
    assert "month" not in out
    world = small(entities={"firm_acme": Business()})
    world.coverage = {"firm_acme.market.brand": 0.25}
    assert any("brand" in line and " 25%" in line for line in described(world))
    assert len(described(world, width=100)) == len(described(world)), "a line per field, however narrow"
    with pytest.raises(TypeError, match="console"):
        world.describe("out.txt")
