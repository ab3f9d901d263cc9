"""What training rows are told, and what is asked of them."""

import pytest
import torch

from wm_vec.canvas import Field, compile_schema
from wm_vec.model.codec import FieldCodec
from wm_vec.train.context_dropout import FILL_SHARE, START_SHARE, context_batch
from wm_vec.train.data import WorldData

ROWS = 20000
BOUND = compile_schema(
    {"x": Field(w=2), "slow": Field(period=4), "act": Field(is_output=False), "reward": Field(is_input=False)}
)  # positions x 0 1, slow 2, act 3, reward 4
CODEC = FieldCodec(BOUND)


def world_data(steps=8, observed=True):
    """Step t of a recording: values t + n / 10 at position n, starts at 100."""
    t = torch.arange(steps)[:, None]
    places = torch.arange(5) / 10
    known = torch.ones(steps, 5, dtype=torch.bool)
    known[:, 4] = False
    if not observed:
        known[1::2, 1] = False
    starts_known = torch.tensor([[True, True, True, False, False]])
    return WorldData(
        values=torch.where(known, t + places, 0.0),
        next_values=t + 1 + places,
        known=known,
        next_known=torch.ones(steps, 5, dtype=torch.bool),
        tick=torch.arange(steps),
        episode=torch.zeros(steps, dtype=torch.int64),
        starts=torch.where(starts_known, 100.0, 0.0),
        starts_known=starts_known,
    )


def batch(dropout, data=None, rows=None, seed=0, ticks_per_step=1):
    generator = torch.Generator().manual_seed(seed)
    data = world_data() if data is None else data
    rows = torch.randint(len(data), (ROWS,), generator=generator) if rows is None else rows
    return data, rows, context_batch(data, rows, CODEC, dropout, generator, ticks_per_step)


def kinds(known, same_tick):
    """Which rows are plain steps, steps with gaps, starts, completions."""
    inputs = known[:, :4]
    plain = inputs.all(1) & ~same_tick
    start = same_tick & ~inputs.any(1)
    return plain, ~plain & ~same_tick, start, same_tick & ~start


def test_without_dropout_everything_observed_is_told():
    data, rows, (values, following, known, same_tick, _, weight) = batch(0.0)
    assert torch.equal(values, data.values[rows])
    assert torch.equal(following, data.next_values[rows])
    assert bool(known[:, :4].all())
    assert not bool(known[:, 4].any()), "a reward is predicted, never read"
    assert not bool(same_tick.any())
    assert bool((weight[:, [0, 1, 3, 4]] == 1).all())


def test_a_slow_field_is_asked_for_only_where_it_is_due():
    _, rows, (_, _, _, _, _, weight) = batch(0.0)
    # The step from tick 3 arrives at tick 4, that from 7 at 8: multiples of the period.
    assert torch.equal(weight[:, 2] == 1, (rows == 3) | (rows == 7))


@pytest.mark.parametrize(("ticks_per_step", "due"), [(2, [1, 3, 5, 7]), (3, [1, 2, 3, 5, 6, 7]), (4, [*range(8)])])
def test_a_step_of_several_ticks_asks_where_any_of_them_is_due(ticks_per_step, due):
    # Step t goes from tick t T to (t + 1) T; the slow field changes at multiples of 4.
    data = world_data()
    data.tick *= ticks_per_step
    _, rows, (_, _, _, _, _, weight) = batch(0.0, data, ticks_per_step=ticks_per_step)
    assert rows[weight[:, 2] == 1].unique().tolist() == due
    assert bool((weight[:, [0, 1, 3, 4]] == 1).all())


def test_classes_are_told_of_steps_as_observed_and_of_one_tick_where_they_are_inputs():
    data = world_data(observed=False)
    data.next_known[::2, 0] = False
    _, rows, (_, following, known, same_tick, told, _) = batch(0.9, data)
    start, steps = following[:, 0] == 100.0, ~same_tick
    fill = same_tick & ~start
    assert torch.equal(told[steps], data.next_known[rows][steps]), "a reward, too"
    assert torch.equal(told[start], data.starts_known.expand(len(rows), -1)[start])
    assert torch.equal(told[fill], data.known[rows][fill] & CODEC.is_input)
    assert bool((told & ~known)[fill].any()), "what is asked for is told to what is drawn later"
    data.known[:, 4] = data.starts_known[:, 4] = True
    _, _, (_, _, _, same_tick, told, _) = batch(0.9, data)
    assert not bool(told[same_tick, 4].any()), "a reward led to no state by itself"


def test_shares_of_the_kinds():
    dropout = 0.4
    _, _, (_, _, known, same_tick, _, _) = batch(dropout)
    _, gaps, start, fill = kinds(known, same_tick)
    # What drew no context at all is a start, and one step in five of those with gaps looks like a plain one (shares
    # are uniform, so are the numbers of positions kept: each of 0 to 4 one time in 5).
    expected = {
        "start": dropout * (START_SHARE + (1 - START_SHARE) / 5),
        "fill": dropout * FILL_SHARE * 4 / 5,
        "gaps": dropout * (1 - START_SHARE - FILL_SHARE) * 3 / 5,
    }
    got = {"start": start, "fill": fill, "gaps": gaps}
    for name, share in expected.items():
        sigma = (share * (1 - share) / ROWS) ** 0.5
        assert abs(float(got[name].float().mean()) - share) < 4 * sigma, name


def test_starts_ask_for_a_start_and_are_told_nothing():
    _, _, (_, following, known, same_tick, _, weight) = batch(0.9)
    start = (following[:, 0] == 100.0).nonzero().flatten()
    assert len(start) > 1000
    assert not bool(known[start].any())
    assert bool(same_tick[start].all())
    assert bool((following[start, :3] == 100.0).all())
    assert weight[start].unique(dim=0).tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0]], "only what is known of the start"


def test_completions_ask_for_what_they_are_not_told_of_the_same_tick():
    data, rows, (values, following, known, same_tick, _, weight) = batch(0.9, world_data(observed=False))
    fill = (same_tick & (following[:, 0] != 100.0)).nonzero().flatten()
    assert len(fill) > 1000
    assert torch.equal(following[fill], values[fill])
    present = data.known[rows][fill]
    assert not bool((known[fill] & ~present).any()), "nothing unobserved is told"
    assert torch.equal(weight[fill] == 1, present & ~known[fill])


def test_steps_with_gaps_still_ask_for_the_next_values():
    data, rows, (_, following, known, same_tick, _, weight) = batch(0.9)
    _, gaps, _, _ = kinds(known, same_tick)
    assert torch.equal(following[gaps], data.next_values[rows][gaps])
    assert bool((weight[gaps][:, [0, 1, 4]] == 1).all())
    kept = known[gaps][:, :4].float().mean(0)
    assert bool(((kept > 0.42) & (kept < 0.58)).all()), "each position is kept about as often"


def test_what_was_not_observed_next_is_not_asked_for():
    data = world_data()
    data.next_known[:, 0] = False
    for dropout in (0.0, 0.9):
        _, _, (_, _, _, same_tick, _, weight) = batch(dropout, data)
        steps = ~same_tick
        assert bool((weight[steps, 0] == 0).all())


def test_one_generator_one_batch():
    one, two, three = batch(0.5)[2], batch(0.5)[2], batch(0.5, seed=1)[2]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[2], three[2])


def test_the_data_are_not_written_to():
    data = world_data()
    before = data.fingerprint()
    batch(0.9, data)
    assert data.fingerprint() == before


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_every_row_makes_a_finite_loss(dropout):
    from wm_vec.model import CanvasModel

    model = CanvasModel(BOUND)
    _, rows, parts = batch(dropout, world_data(observed=False), rows=torch.arange(8))
    loss = model.loss(*parts, torch.randn(8), torch.randn(8, 5), 3)
    assert bool(torch.isfinite(loss))
    assert len(rows) == 8


def test_who_is_told_nothing_is_always_asked_for_a_start():
    """A completion or a step that happens to keep nothing would otherwise blur what starts look like."""
    _, _, (_, following, known, same_tick, _, _) = batch(0.9)
    nothing = ~known.any(1)
    assert int(nothing.sum()) > 1000
    assert bool((following[nothing, 0] == 100.0).all())
    assert bool(same_tick[nothing].all())
