# ruff: noqa: RUF009 - frozen fields as defaults are how schemas are written
import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_vec.canvas import BoundSchema, Field, SchemaError, UnknownFieldError, compile_schema


@dataclass
class Financials:
    revenue: Field = field(default_factory=Field)
    margin: Field = Field(low=-1.0, high=1.0)


@dataclass
class Firm:
    name_rank: Field = Field(num_classes=5)
    financials: Financials = field(default_factory=Financials)
    grid: Field = Field(2, 3, period=4)


@dataclass
class World:
    regime: Field = Field(num_classes=2)
    financial: Financials = field(default_factory=Financials)
    financial_risk: Field = Field()
    firm: Firm = field(default_factory=Firm)


ALL = [
    "regime",
    "financial_risk",
    "financial.revenue",
    "financial.margin",
    "firm.name_rank",
    "firm.grid",
    "firm.financials.revenue",
    "firm.financials.margin",
]


def test_nested_dataclasses_in_the_order_of_declaration_each_group_together():
    bound = compile_schema(World())
    assert bound.field_names == ALL
    assert bound["firm.grid"].num_positions == 6
    assert bound["firm.grid"].indices() == [5, 6, 7, 8, 9, 10]
    assert bound["firm.grid"].spec == Field(2, 3, period=4)
    assert bound["firm.financials.margin"].spec.low == -1.0
    assert bound.layout.num_positions == 13
    assert "firm.grid" in bound
    assert "firm" not in bound
    assert list(bound) == ALL
    assert len(bound) == 8


def test_a_class_stands_for_its_default_instance():
    assert compile_schema(World) == compile_schema(World())


def test_instances_carry_their_own_values():
    assert compile_schema(Firm(grid=Field(5)))["grid"].num_positions == 5


def test_mappings_are_groups():
    bound = compile_schema({"a": {"b": Field(), "c": Financials}, "d": Field(w=2)})
    assert bound.field_names == ["a.b", "a.c.revenue", "a.c.margin", "d"]


def test_foreign_fields_compile():
    foreign = SimpleNamespace(h=1, w=2, period=3, loss_weight=0.5, is_output=True, attn="own")
    assert compile_schema({"x": foreign})["x"].spec == Field(1, 2, period=3, loss_weight=0.5)


def test_include_takes_fields_and_groups_in_the_order_of_declaration():
    bound = compile_schema(World(), include=["firm.financials", "regime"])
    assert bound.field_names == ["regime", "firm.financials.revenue", "firm.financials.margin"]
    assert bound["firm.financials.margin"].indices() == [2], "what is left out takes no place"
    # A group's name is no mere prefix: `financial` does not bring `financial_risk`.
    assert compile_schema(World(), include=["financial"]).field_names == [
        "financial.revenue",
        "financial.margin",
    ]


def test_exclude_is_taken_after_include():
    bound = compile_schema(World(), include=["firm"], exclude=["firm.financials", "firm.grid"])
    assert bound.field_names == ["firm.name_rank"]


def test_entities_come_last_and_are_always_kept():
    bound = compile_schema(World(), include=["regime"], entities={"firm_acme": Firm(), "firm_b": Financials})
    assert bound.field_names[0] == "regime"
    assert "firm_acme.financials.revenue" in bound
    assert bound.field_names[-2:] == ["firm_b.revenue", "firm_b.margin"]
    less = compile_schema(None, entities={"e": Firm()}, exclude=["e.financials"])
    assert less.field_names == ["e.name_rank", "e.grid"]


def test_a_path_alone_is_a_list_of_one():
    assert compile_schema(World(), include="regime").field_names == ["regime"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: compile_schema({}), SchemaError, "no fields"),
        (lambda: compile_schema(None), SchemaError, "no fields"),
        (lambda: compile_schema({"a": {"b": 3}}), SchemaError, "'a.b' is a int"),
        (lambda: compile_schema(7), SchemaError, "The root.* is a int"),
        (lambda: compile_schema(World(), exclude=ALL), SchemaError, "no fields"),
        (lambda: compile_schema(World(), entities={"firm": Firm()}), SchemaError, "'firm'.*Rename"),
        (lambda: compile_schema(World(), include=["firm.financial"]), UnknownFieldError, "firm.financials"),
        (
            lambda: compile_schema(World(), exclude=["regimes"]),
            UnknownFieldError,
            "`exclude`.*'regimes'.*regime",
        ),
        # A group that was not included, a field below another, two entities.
        (
            lambda: compile_schema(World(), include=["regime"], entities={"firm": Field()}),
            SchemaError,
            "'firm' collides with 'firm.name_rank'",
        ),
        (lambda: compile_schema(World(), entities={"firm.grid.x": Field()}), SchemaError, "collides with 'firm.grid'"),
        (
            lambda: compile_schema(None, entities={"a": Firm(), "a.grid": Firm()}),
            SchemaError,
            "'a.grid' collides with 'a.grid'",
        ),
        (lambda: compile_schema(World(), entities={"firm acme": Firm()}), SchemaError, "'firm acme'; use letters"),
        (lambda: compile_schema(World(), entities={"a": {"b.c": Field(), "b": {"c": Field()}}}), SchemaError, "a.b.c"),
        (lambda: compile_schema(World(), entities=[Firm()]), SchemaError, "entities must be a mapping"),
        (lambda: compile_schema({"a.b": Field(), "a": {"b": Field()}}), SchemaError, "a.b"),
        (lambda: compile_schema({"": Field()}), SchemaError, "name"),
        (lambda: compile_schema(Field()), SchemaError, "without a name"),
        (lambda: compile_schema({"a": Field()}, d_model=40), ValueError, "multiple of 32"),
        (
            lambda: compile_schema({"x": SimpleNamespace(h=0, w=1, period=1, loss_weight=1, is_output=True)}),
            SchemaError,
            "Field 'x': .*`h`",
        ),
    ],
)
def test_schemas_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_class_that_needs_arguments_says_where_it_stands():
    @dataclass
    class Needy:
        size: int

    with pytest.raises(SchemaError, match=r"Needy at 'a\.b'"):
        compile_schema({"a": {"b": Needy}})


def test_unknown_paths_name_the_closest():
    bound = compile_schema(World())
    with pytest.raises(UnknownFieldError, match=r"'firm\.financials\.revenu'\. Closest: firm\.financials\.revenue"):
        bound["firm.financials.revenu"]
    with pytest.raises(KeyError, match=r"is a group; name one of its fields: firm\.financials\.revenue"):
        bound["firm.financials"]
    with pytest.raises(UnknownFieldError, match="The schema has: regime, "):
        bound["zzzzzz"]
    with pytest.raises(UnknownFieldError):
        bound.indices(["regime", "firm.grod"])
    with pytest.raises(UnknownFieldError) as caught:
        bound["x"]
    assert str(caught.value).startswith("Unknown field path 'x'"), "a KeyError would print the message quoted"


def test_indices_of_several_fields_in_the_order_given():
    assert compile_schema(World()).indices(["firm.grid", "regime"]) == [5, 6, 7, 8, 9, 10, 0]


FIELDS = st.builds(
    Field,
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    period=st.integers(1, 9),
    loss_weight=st.floats(0, 10),
    is_output=st.booleans(),
    is_input=st.booleans(),
    low=st.sampled_from([-math.inf, -1.5]),
    high=st.sampled_from([math.inf, 2.5]),
    num_classes=st.sampled_from([None, 2, 7]),
)
NAMES = st.text("abcxyz_0", min_size=1, max_size=4)
TREES = st.recursive(FIELDS, lambda node: st.dictionaries(NAMES, node, min_size=1, max_size=4), max_leaves=12)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=4))
def test_no_position_is_dead_or_shared_and_json_keeps_everything(tree):
    bound = compile_schema(tree)
    places = [index for path in bound for index in bound[path].indices()]
    assert places == list(range(bound.layout.num_positions))
    again = BoundSchema.from_dict(json.loads(json.dumps(bound.to_dict(), allow_nan=False)))
    assert again == bound
    assert again.field_names == bound.field_names
    assert [f.spec for f in again.bound_fields()] == [f.spec for f in bound.bound_fields()]


def test_bounds_per_position_survive_json():
    bound = compile_schema({"x": Field(w=3, low=(-math.inf, 0.0, 1.5), high=(1.0, math.inf, 2.0))})
    again = BoundSchema.from_dict(json.loads(json.dumps(bound.to_dict(), allow_nan=False)))
    assert again["x"].spec == bound["x"].spec


def test_words_are_kept_and_make_no_other_schema():
    plain = compile_schema({"x": Field(w=2), "y": Field()})
    worded = compile_schema({"x": Field(w=2, unit="inf", meaning="Größe by side (left, right)"), "y": Field()})
    again = BoundSchema.from_dict(json.loads(json.dumps(worded.to_dict())))
    assert (again["x"].spec.unit, again["x"].spec.meaning) == ("inf", "Größe by side (left, right)")
    assert again == worded == plain
    assert worded.to_dict() != worded.to_dict(words=False) == plain.to_dict(), "files without words stay as they were"


def test_schemas_differ_by_field_order_and_width():
    one, two = ({"a": Field(), "b": Field(w=2)}, {"b": Field(w=2), "a": Field()})
    assert compile_schema(one) != compile_schema(two), "the same names at other positions are another schema"
    assert compile_schema(one) != compile_schema(one, d_model=32)
