"""Which positions attend to which, held to the definition pair by pair."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_vec.canvas import BoundSchema, Field, Topology, compile_schema
from wm_vec.canvas.field import MAX_POSITIONS


def above(group):
    """The group that a group lies in; None above the root."""
    return None if group == "" else group[: group.rfind(".")] if "." in group else ""


def attends(query, key):
    """Whether one token attends to another; each is its kind and its group."""
    (kind, group), (other, theirs) = query, key
    if other == "position":
        return group == theirs
    if kind == "position":
        return theirs in (group, above(group))
    return theirs in (group, above(group)) or above(theirs) == group


def tokens_of(bound, topology):
    """Kind and group of every token."""
    positions = [("position", above(field.path)) for field in bound.bound_fields() for _ in field.indices()]
    return positions + [("summary", group) for group in topology.groups]


paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(".".join)
worlds = st.dictionaries(paths, st.integers(1, 9), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(worlds, st.sampled_from([4, 16, 32, 64]))
def test_the_mask_is_its_definition_and_the_lists_are_the_mask(sizes, size):
    bound = BoundSchema({path: Field(w=w) for path, w in sizes.items()}, d_model=32)
    topology = Topology.of(bound)
    mask, order, count = topology.mask, topology.order, len(topology.mask)

    # Every part of a path but the last is a group, each after the one above it.
    expected = {""} | {path[:i] for path in sizes for i, c in enumerate(path) if c == "."}
    assert set(topology.groups) == expected
    assert len(topology.groups) == topology.num_summaries == len(expected)
    assert all(above(g) in (None, *topology.groups[:i]) for i, g in enumerate(topology.groups))
    tokens = tokens_of(bound, topology)
    assert mask.tolist() == [[attends(query, key) for key in tokens] for query in tokens]

    # A group is one run of the order, its summary last.
    groups = [tokens[i][1] for i in order.tolist()]
    assert sorted(order.tolist()) == list(range(count))
    assert sum(a != b for a, b in pairwise(groups)) == len(expected) - 1
    last = [i for i, (one, other) in zip(order.tolist(), pairwise([*groups, None]), strict=True) if one != other]
    assert all(tokens[i][0] == "summary" for i in last)

    tiles = topology.tiles(size)
    rebuilt = torch.zeros(count, count, dtype=torch.bool)
    for queries, keys, part in zip(*tiles[:3], strict=True):
        assert len(set(keys.tolist())) == len(keys)
        for query, row in zip(queries, part, strict=True):
            rebuilt[query, keys[row]] = True
    assert torch.equal(rebuilt, mask)
    assert torch.equal(tiles.queries.flatten()[tiles.places], torch.arange(count))
    assert bool(tiles.mask.any(1).all(1).any()), "some tile needs all of its keys"

    starts, keys = topology.blocks(size)
    ordered = mask[order][:, order]
    for i, (first, last) in enumerate(pairwise(starts)):
        rows = ordered[i * size : (i + 1) * size]
        touched = [j for j in range(-(-count // size)) if rows[:, j * size : (j + 1) * size].any()]
        assert keys[first:last].tolist() == touched


def test_what_is_said_in_an_entity_reaches_all_of_it_in_three_blocks_and_the_world_in_five():
    firm = {"health": Field(), "financials": {"revenue": Field(w=2)}, "operations": {"staff": Field()}}
    bound = compile_schema({"mood": Field(), "acme": firm, "rival": firm})
    mask = Topology.of(bound).mask.to(torch.float64)
    count = bound.layout.num_positions
    acme = bound.indices([path for path in bound if path.startswith("acme")])
    reach = [torch.linalg.matrix_power(mask, k)[:count, :count] > 0 for k in range(1, 6)]
    inside = [bool(r[acme][:, acme].all()) for r in reach]
    assert inside == [False, False, True, True, True]
    assert [bool(r.all()) for r in reach] == [False, False, False, False, True]


def test_positions_of_a_group_lie_together_and_orders_that_have_them_so_stay():
    firm = {"a": Field(), "ops": {"x": Field(w=2)}, "b": Field(), "fin": {"y": Field()}}
    bound = compile_schema({"firm": firm, "top": Field()}, entities={"shop": firm})
    inside = ["a", "b", "ops.x", "fin.y"]
    assert bound.field_names == [*(f"firm.{name}" for name in inside), "top", *(f"shop.{name}" for name in inside)]
    assert bound.indices(["firm.ops.x", "firm.fin.y"]) == [2, 3, 4]
    straight = {"top": Field(), "firm": {"b": Field(), "a": Field(), "ops": {"x": Field(w=2)}}}
    assert compile_schema(straight).field_names == ["top", "firm.b", "firm.a", "firm.ops.x"]


@pytest.mark.parametrize("path", [".".join("a" * MAX_POSITIONS), ".".join("a" * 2_000_000)])
def test_more_groups_than_a_canvas_takes_are_refused(path):
    with pytest.raises(ValueError, match=r"at most 4096 positions and groups.*topology='dense'"):
        Topology.of(BoundSchema({path: Field()}, d_model=32))
