"""`encode_fields` and `decode_fields` by hand, and as inverses of what training asks for."""

import math

import pytest
import torch

from wm_kernels import decode_fields, encode_fields
from wm_kernels.encode_fields import encode_channels
from wm_vec.canvas import Field, compile_schema
from wm_vec.model.codec import FieldCodec

INF, NAN = math.inf, math.nan


def encode(values, known, weight, *, center, scale, bits):
    """Biases 10 and 100, so that a token shows where it comes from."""
    n, _, d = weight.shape
    return encode_fields(
        torch.tensor(values),
        torch.tensor(known),
        torch.tensor(center),
        torch.tensor(scale),
        torch.tensor(bits),
        weight,
        torch.full((n, d), 10.0),
        torch.full((n, d), 100.0),
    )


def decode(sample, values, *, base, shift, scale, low, high, bits, classes):
    rows = [torch.tensor([x]) for x in (base, shift, scale)]
    return decode_fields(
        torch.tensor(sample),
        torch.tensor(values),
        *rows,
        torch.tensor(low),
        torch.tensor(high),
        torch.tensor(bits),
        torch.tensor(classes),
    ).tolist()


# -- encode -------------------------------------------------------------------------------------------------


def test_channels_by_hand():
    # A number normalised by (5 - 1) * 0.5; class 5 of 8 as bits 1 0 1; class 0 of 2 as one bit.
    channels = encode_channels(
        torch.tensor([[5.0, 5.0, 0.0]]), torch.tensor([1.0, 0.5, 0.5]), torch.tensor([0.5, 2.0, 2.0]),
        torch.tensor([0, 3, 1]), 3,
    )  # fmt: skip
    assert channels.tolist() == [[[2.0, 0.0, 0.0], [1.0, -1.0, 1.0], [-1.0, 0.0, 0.0]]]


def test_two_classes_in_one_channel_are_plus_and_minus_one():
    channels = encode_channels(
        torch.tensor([[0.0], [1.0]]), torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([1]), 1
    )
    assert channels.flatten().tolist() == [-1.0, 1.0]


def test_tokens_by_hand_with_one_channel():
    weight = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    tokens = encode([[4.0, 7.0]], [[True, False]], weight, center=[2.0, 0.0], scale=[0.5, 1.0], bits=[0, 0])
    # (4 - 2) / 2 = 1 times the encoder, over the known bias; the unknown bias alone.
    assert tokens.tolist() == [[[11.0, 12.0], [100.0, 100.0]]]


def test_tokens_by_hand_with_bits():
    weight = torch.tensor([[[1.0], [0.0]], [[2.0], [4.0]]])
    tokens = encode([[3.0, 2.0]], [[True, True]], weight, center=[0.0, 0.5], scale=[1.0, 2.0], bits=[0, 2])
    # Class 2 is bits 0, 1: -2 + 4.
    assert tokens.tolist() == [[[13.0], [12.0]]]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("hidden", [NAN, INF, -INF, 1e30])
def test_what_stands_at_unknown_positions_never_leaks(channels, hidden):
    weight = torch.randn(3, channels, 8, generator=torch.Generator().manual_seed(0))
    known = [[True, False, True], [False, True, False]]
    settings = {"center": [0.0, 0.5, 0.0], "scale": [1.0, 2.0, 3.0], "bits": [0, channels, 0]}
    values, known_mask = torch.tensor([[0.5, 1.0, 2.0], [0.1, 0.0, 0.3]]), torch.tensor(known)
    clean = encode(torch.where(known_mask, values, 0.0).tolist(), known, weight, **settings)
    dirty = encode(torch.where(known_mask, values, hidden).tolist(), known, weight, **settings)
    assert torch.equal(clean, dirty)
    assert bool((clean[~known_mask] == 100.0).all())


def test_no_gradient_flows_into_unknown_positions():
    values = torch.tensor([[1.0, NAN]], requires_grad=True)
    weight = torch.ones(2, 1, 4)
    zeros, ones = torch.zeros(2), torch.ones(2)
    tokens = encode_fields(
        values, torch.tensor([[True, False]]), zeros, ones, torch.zeros(2, dtype=torch.int64), weight,
        torch.zeros(2, 4), torch.zeros(2, 4),
    )  # fmt: skip
    tokens.sum().backward()
    assert values.grad.tolist() == [[4.0, 0.0]]


def test_known_broadcasts_over_rows():
    weight = torch.randn(2, 1, 4)
    settings = {"center": [0.0, 0.0], "scale": [1.0, 1.0], "bits": [0, 0]}
    values = [[1.0, 2.0], [3.0, 4.0]]
    one = encode(values, [[True, False]], weight, **settings)
    both = encode(values, [[True, False]] * 2, weight, **settings)
    assert torch.equal(one, both)


# -- decode -------------------------------------------------------------------------------------------------

PLAIN = {"low": [-INF], "high": [INF], "bits": [0], "classes": [0]}


def test_numbers_by_hand():
    # A residual: 10 + 1 + 2 * 3. A value of its own: 1 + 2 * 3. What is not predicted: as it was.
    residual, own, kept = (
        decode([[[3.0]]], [[10.0]], base=[b], shift=[s], scale=[c], **PLAIN)
        for b, s, c in ((1.0, 1.0, 2.0), (0.0, 1.0, 2.0), (1.0, 0.0, 0.0))
    )
    assert (residual, own, kept) == ([[17.0]], [[7.0]], [[10.0]])


def test_bounds_clamp_numbers():
    same = {"base": [0.0] * 3, "shift": [0.0] * 3, "scale": [1.0] * 3, "bits": [0] * 3, "classes": [0] * 3}
    got = decode([[[9.0], [-9.0], [-9.0]]], [[0.0] * 3], low=[-INF, -2.0, -INF], high=[3.0, INF, INF], **same)
    assert got == [[3.0, -2.0, -9.0]]


def test_classes_by_hand():
    same = {"base": [1.0], "shift": [0.0], "scale": [1.0], "low": [-INF], "high": [INF]}
    two = [decode([[[x]]], [[0.0]], bits=[1], classes=[2], **same)[0][0] for x in (-0.1, 0.1, 7.0)]
    assert two == [0.0, 1.0, 1.0]
    signs = [[-1.0, -1.0, -1.0], [0.2, -3.0, -1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0]]
    six = decode([[s] for s in signs], [[0.0]] * 5, bits=[3], classes=[6], **same)
    # 1 1 1 would be class 7, of six: the last one.
    assert [row[0] for row in six] == [0.0, 1.0, 2.0, 5.0, 5.0]


def test_channels_beyond_a_fields_bits_are_not_read():
    got = decode(
        [[[1.0, 9.0, 9.0]]],
        [[0.0]],
        base=[1.0],
        shift=[0.0],
        scale=[1.0],
        low=[-INF],
        high=[INF],
        bits=[1],
        classes=[2],
    )
    assert got == [[1.0]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [0, 1])
def test_a_nan_sample_stays_nan(channels, bits):
    sample = torch.zeros(2, 1, channels)
    sample[1] = NAN
    got = decode(
        sample.tolist(), [[1.0], [1.0]], base=[1.0], shift=[0.0], scale=[1.0], low=[-5.0], high=[5.0],
        bits=[bits], classes=[2 * bits],
    )  # fmt: skip
    assert math.isfinite(got[0][0])
    assert math.isnan(got[1][0])


def test_a_nan_in_any_bit_stays_nan():
    for channel in range(3):
        sample = torch.ones(1, 1, 3)
        sample[..., channel] = NAN
        got = decode(
            sample.tolist(),
            [[0.0]],
            base=[1.0],
            shift=[0.0],
            scale=[1.0],
            low=[-INF],
            high=[INF],
            bits=[3],
            classes=[8],
        )
        assert math.isnan(got[0][0]), channel


def test_a_nan_in_an_unread_channel_does_no_harm():
    got = decode(
        [[[2.0, NAN]]], [[1.0]], base=[1.0], shift=[0.0], scale=[1.0], low=[-INF], high=[INF], bits=[0], classes=[0]
    )
    assert got == [[3.0]]


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
}


def plausible(codec, generator, rows=40):
    values = torch.randn(rows, len(codec.mean), generator=generator)
    values = torch.maximum(torch.minimum(values, codec.high), codec.low)
    classes = (torch.rand(values.shape, generator=generator) * codec.num_classes).floor()
    return torch.where(codec.is_class, classes, values)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("context", ["known", "unknown", "mixed"])
def test_decode_inverts_the_target(world, context):
    generator = torch.Generator().manual_seed(4)
    codec = FieldCodec(compile_schema(WORLDS[world]))
    for table in (codec.mean, codec.residual_mean):
        table.copy_(torch.randn(table.shape, generator=generator))
    for table in (codec.std, codec.residual_std):
        table.copy_(torch.rand(table.shape, generator=generator) + 0.1)
    values, following = plausible(codec, generator), plausible(codec, generator)
    known = torch.rand(values.shape, generator=generator) < {"known": 2.0, "unknown": -1.0, "mixed": 0.5}[context]
    sample = codec.target(values, following, known)
    base, shift, scale = codec.affine(known)
    decoded = decode_fields(
        sample, values, base, shift, scale, codec.low, codec.high, codec.output_bits(), codec.num_classes
    )
    expected = torch.where(codec.is_output, following, values)
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-5)
    used = codec.used_channels()
    assert bool((sample[:, ~used] == 0).all()), "channels that a position does not use must be silent"


def test_targets_are_normalised_residuals():
    codec = FieldCodec(compile_schema({"x": Field(w=2)}))
    codec.residual_mean.copy_(torch.tensor([1.0, 0.0]))
    codec.residual_std.copy_(torch.tensor([2.0, 4.0]))
    codec.mean.fill_(100.0)
    codec.std.fill_(10.0)
    values, following = torch.tensor([[5.0, 5.0]]), torch.tensor([[10.0, 9.0]])
    told = codec.target(values, following, torch.tensor([[True, True]]))
    assert told[..., 0].tolist() == [[2.0, 1.0]]  # (10 - 5 - 1) / 2 and (9 - 5) / 4
    untold = codec.target(values, following, torch.tensor([[False, False]]))
    torch.testing.assert_close(untold[..., 0], torch.tensor([[-9.0, -9.1]]))  # (10 - 100) / 10


def test_the_same_tick_flag_marks_known_values_alone():
    codec = FieldCodec(compile_schema({"x": Field(w=2)}))
    values, known = torch.zeros(2, 2), torch.tensor([[True, False], [True, False]])
    plain, flagged = codec.encode(values, known), codec.encode(values, known, torch.tensor([False, True]))
    assert torch.equal(plain[0], flagged[0])
    assert torch.equal(plain[1, 1], flagged[1, 1])
    assert not torch.allclose(plain[1, 0], flagged[1, 0])
