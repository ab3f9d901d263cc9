"""`encode_fields` and `decode_fields` by hand, and as inverses of what training asks for."""

import math

import pytest
import torch

from wm_kernels import ClassInputs, decode_fields, encode_fields
from wm_vec.canvas import Field, compile_schema
from wm_vec.model.codec import FieldCodec

INF, NAN = math.inf, math.nan


def encode(values, known, weight, *, center, scale, classes=None):
    """Biases 10 and 100, so that a token shows where it comes from."""
    n, d = weight.shape
    tables = torch.tensor(center), torch.tensor(scale), weight, torch.full((n, d), 10.0), torch.full((n, d), 100.0)
    return encode_fields(torch.tensor(values), torch.tensor(known), *tables, classes)


def class_inputs(positions, first_rows, values, embedding):
    """Positions whose classes stand for evenly spaced values."""
    base, step = torch.tensor([v[0] for v in values]), torch.tensor([v[1] - v[0] for v in values])
    last = torch.tensor([len(v) - 1.0 for v in values])
    return ClassInputs(torch.tensor(positions), torch.tensor(first_rows), base, 1 / step, last, embedding)


def decode(sample, values, *, base, shift, scale, low, high):
    tables = [torch.tensor([x]) for x in (base, shift, scale)]
    return decode_fields(
        torch.tensor(sample), torch.tensor(values), *tables, torch.tensor(low), torch.tensor(high)
    ).tolist()


# -- encode -------------------------------------------------------------------------------------------------


def test_tokens_of_numbers_by_hand():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    tokens = encode([[4.0, 7.0]], [[True, False]], weight, center=[2.0, 0.0], scale=[0.5, 1.0])
    # (4 - 2) / 2 = 1 times the encoder, over the known bias; the unknown bias alone.
    assert tokens.tolist() == [[[11.0, 12.0], [100.0, 100.0]]]


def test_tokens_of_classes_by_hand():
    embedding = torch.tensor([[1.0], [2.0], [3.0], [40.0], [50.0]])
    classes = class_inputs([0, 2], [0, 3], [[0.0, 1.0, 2.0], [-0.5, 0.25]], embedding)
    weight = torch.zeros(3, 1)
    values = [[2.0, 9.0, -0.5], [1.0, 9.0, 0.25], [7.0, 9.0, 3.0], [-3.0, 9.0, -9.0]]
    tokens = encode(values, [[True] * 3], weight, center=[0.0] * 3, scale=[1.0] * 3, classes=classes)
    # What is no class at all is taken for the nearest.
    assert tokens[..., 0].tolist() == [[13.0, 10.0, 50.0], [12.0, 10.0, 60.0], [13.0, 10.0, 60.0], [11.0, 10.0, 50.0]]


@pytest.mark.parametrize("hidden", [NAN, INF, -INF, 1e30])
def test_what_stands_at_unknown_positions_never_leaks(hidden):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=generator) * torch.tensor([[1.0], [0.0], [1.0]])
    classes = class_inputs([1], [0], [[0.0, 1.0]], torch.randn(2, 8, generator=generator))
    known = [[True, False, True], [False, True, False]]
    settings = {"center": [0.0, 0.0, 0.0], "scale": [1.0, 1.0, 3.0], "classes": classes}
    values, known_mask = torch.tensor([[0.5, 1.0, 2.0], [0.1, 0.0, 0.3]]), torch.tensor(known)
    clean = encode(torch.where(known_mask, values, 0.0).tolist(), known, weight, **settings)
    dirty = encode(torch.where(known_mask, values, hidden).tolist(), known, weight, **settings)
    assert torch.equal(clean, dirty)
    assert bool((clean[~known_mask] == 100.0).all())


@pytest.mark.parametrize("position", [0, 1])
def test_a_known_value_that_is_not_finite_shows(position):
    classes = class_inputs([1], [0], [[0.0, 1.0]], torch.ones(2, 4))
    values = [[0.5, 1.0]]
    values[0][position] = NAN
    weight = torch.tensor([[1.0], [0.0]]).expand(2, 4)
    tokens = encode(values, [[True, True]], weight, center=[0.0] * 2, scale=[1.0] * 2, classes=classes)
    assert bool(tokens[0, position].isnan().all())
    assert not bool(tokens[0, 1 - position].isnan().any())


def test_no_gradient_flows_into_unknown_positions():
    values = torch.tensor([[1.0, NAN]], requires_grad=True)
    tables = torch.zeros(2), torch.ones(2), torch.ones(2, 4), torch.zeros(2, 4), torch.zeros(2, 4)
    encode_fields(values, torch.tensor([[True, False]]), *tables).sum().backward()
    assert values.grad.tolist() == [[4.0, 0.0]]


def test_known_broadcasts_over_envs():
    weight = torch.randn(2, 4)
    settings = {"center": [0.0, 0.0], "scale": [1.0, 1.0]}
    values = [[1.0, 2.0], [3.0, 4.0]]
    one = encode(values, [[True, False]], weight, **settings)
    both = encode(values, [[True, False]] * 2, weight, **settings)
    assert torch.equal(one, both)


# -- decode -------------------------------------------------------------------------------------------------


def test_values_by_hand():
    # A residual: 10 + 1 + 2 * 3. A value of its own: 1 + 2 * 3. A class: 3. What is not predicted: as it was.
    residual, own, drawn, kept = (
        decode([[3.0]], [[10.0]], base=[b], shift=[s], scale=[c], low=[-INF], high=[INF])
        for b, s, c in ((1.0, 1.0, 2.0), (0.0, 1.0, 2.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
    )
    assert (residual, own, drawn, kept) == ([[17.0]], [[7.0]], [[3.0]], [[10.0]])


def test_bounds_clamp():
    same = {"base": [0.0] * 3, "shift": [0.0] * 3, "scale": [1.0] * 3}
    got = decode([[9.0, -9.0, -9.0]], [[0.0] * 3], low=[-INF, -2.0, -INF], high=[3.0, INF, INF], **same)
    assert got == [[3.0, -2.0, -9.0]]


@pytest.mark.parametrize("sample", [NAN, INF, -INF])
def test_what_is_not_finite_stays_visible_behind_the_bounds(sample):
    same = {"base": [1.0], "shift": [0.0], "scale": [1.0], "low": [-5.0], "high": [5.0]}
    good, bad = decode([[0.0], [sample]], [[1.0], [1.0]], **same)
    assert good == [1.0]
    assert math.isnan(bad[0])


# -- the codec: what decodes to the next values is what training aims at ------------------------------------

WORLDS = {
    "numbers": {"a": Field(w=3), "b": Field(low=-2.0, high=2.0)},
    "two classes": {"a": Field(w=2), "flag": Field(w=2, num_classes=2)},
    "many classes": {
        "a": Field(),
        "five": Field(w=2, num_classes=5),
        "flag": Field(num_classes=2),
        "big": Field(num_classes=300),
    },
    "inputs and outputs": {
        "act": Field(is_output=False),
        "act_class": Field(is_output=False, num_classes=4),
        "reward": Field(is_input=False),
        "x": Field(),
    },
    "an end": {
        "x": Field(),
        "reward": Field(is_input=False),
        "end": Field(is_input=False, num_classes=2, leads=True),
    },
}


def plausible(codec, generator, num_envs=40):
    values = torch.randn(num_envs, len(codec.mean), generator=generator)
    values = torch.maximum(torch.minimum(values, codec.high), codec.low)
    classes = (torch.rand(values.shape, generator=generator) * codec.num_classes).floor()
    return torch.where(codec.is_class, classes, values)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("context", ["known", "unknown", "mixed"])
def test_decode_inverts_the_target(world, context):
    generator = torch.Generator().manual_seed(4)
    codec = FieldCodec(compile_schema(WORLDS[world]))
    for table in (codec.mean, codec.step_mean):
        table.copy_(torch.randn(table.shape, generator=generator))
    for table in (codec.std, codec.step_std):
        table.copy_(torch.rand(table.shape, generator=generator) + 0.1)
    codec.step_mean[1, codec.is_input] = codec.step_mean[0, codec.is_input]
    codec.step_std[1, codec.is_input] = codec.step_std[0, codec.is_input]
    values, following = plausible(codec, generator), plausible(codec, generator)
    known = torch.rand(values.shape, generator=generator) < {"known": 2.0, "unknown": -1.0, "mixed": 0.5}[context]
    sample = codec.target(values, following, known)
    assert bool((sample[:, codec.is_class] == 0).all()), "classes are no numbers to denoise"
    base, shift, scale = codec.affine(known)
    ended = following[:, [codec.end or 0]] > 0.5 if codec.by_end else torch.zeros(len(values), 1, dtype=torch.bool)
    shift, scale = torch.where(ended, shift[1], shift[0]), torch.where(ended, scale[1], scale[0])
    drawn = torch.where(codec.is_class, following, sample)
    decoded = decode_fields(drawn, values, base, shift, scale, codec.low, codec.high)
    expected = torch.where(codec.is_output, following, values)
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-5)


def test_targets_are_normalised_residuals():
    codec = FieldCodec(compile_schema({"x": Field(w=2)}))
    codec.step_mean.copy_(torch.tensor([1.0, 0.0]))
    codec.step_std.copy_(torch.tensor([2.0, 4.0]))
    codec.mean.fill_(100.0)
    codec.std.fill_(10.0)
    values, following = torch.tensor([[5.0, 5.0]]), torch.tensor([[10.0, 9.0]])
    told = codec.target(values, following, torch.tensor([[True, True]]))
    assert told.tolist() == [[2.0, 1.0]]  # (10 - 5 - 1) / 2 and (9 - 5) / 4
    untold = codec.target(values, following, torch.tensor([[False, False]]))
    torch.testing.assert_close(untold, torch.tensor([[-9.0, -9.1]]))  # (10 - 100) / 10


def test_rewards_that_come_with_an_end_have_normalisers_of_their_own():
    codec = FieldCodec(compile_schema(WORLDS["an end"]))
    reward = 1
    codec.step_mean[:, reward], codec.step_std[:, reward] = torch.tensor([1.0, -100.0]), torch.tensor([2.0, 4.0])
    following = torch.tensor([[0.0, 5.0, 0.0], [0.0, -92.0, 1.0]])
    target = codec.target(torch.zeros(2, 3), following, torch.ones(2, 3, dtype=torch.bool) & codec.is_input)
    assert target[:, reward].tolist() == [2.0, 2.0]  # (5 - 1) / 2 and (-92 + 100) / 4


def test_the_same_tick_flag_marks_known_values_alone():
    codec = FieldCodec(compile_schema({"x": Field(w=2)}))
    values, known, none = torch.zeros(2, 2), torch.tensor([[True, False], [True, False]]), torch.zeros(2).bool()
    plain, flagged = codec.encode(values, known, none), codec.encode(values, known, torch.tensor([False, True]))
    assert torch.equal(plain[0], flagged[0])
    assert torch.equal(plain[1, 1], flagged[1, 1])
    assert not torch.allclose(plain[1, 0], flagged[1, 0])


def test_the_order_in_which_classes_are_drawn():
    fields = {
        "reward": Field(is_input=False, num_classes=3),
        "act": Field(is_output=False, num_classes=4),
        "cell": Field(w=2, num_classes=5),
        "end": Field(is_input=False, num_classes=2, leads=True),
    }
    codec = FieldCodec(compile_schema(fields))
    assert [(c.position, c.num_classes) for c in codec.classes] == [(4, 2), (2, 5), (3, 5), (0, 3)]
    assert (codec.num_first, codec.end, codec.has_numbers) == (3, 4, False)
    assert [c.position for c in codec.class_inputs] == [1, 2, 3]
