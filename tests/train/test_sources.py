"""Tables of series: several sources of different frequency and coverage on one time line."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from wm_vec import Field, ModelConfig, TrainConfig, WorldModel, collect_transitions, compile_schema
from wm_vec.canvas import UnknownFieldError
from wm_vec.train import data_from_sources, read_checkpoint, write_checkpoint
from wm_vec.train.data import DataError

NAN = np.nan
ECONOMY = compile_schema({"price": Field(), "gdp": Field(period=12), "rates": Field(1, 2), "unseen": Field()})
"""Positions: price 0, gdp 1, rates 2 and 3, unseen 4. A month has 4 ticks, a quarter 12."""
MONTHLY = {"tick": [0, 4, 8, 12, 16], "price": [1.0, 2.0, NAN, 4.0, 5.0]}
QUARTERLY = {"tick": [0, 12], "gdp": [10.0, 20.0]}


def known_values(table, known):
    """Numbers, None where unknown."""
    pairs = zip(table.tolist(), known.tolist(), strict=True)
    return [[v if k else None for v, k in zip(row, mask, strict=True)] for row, mask in pairs]


def test_a_quarterly_and_a_monthly_source_make_one_time_line():
    data = data_from_sources([MONTHLY, QUARTERLY], ECONOMY, ticks_per_step=4)
    none = [None] * 3
    rows = [[1.0, 10.0, *none], [2.0, 10.0, *none], [None, 10.0, *none], [4.0, 20.0, *none], [5.0, 20.0, *none]]
    assert known_values(data.values, data.known) == rows[:-1]
    assert known_values(data.next_values, data.next_known) == rows[1:]
    assert known_values(data.starts, data.starts_known) == rows, "of a recording without episodes, all rows"
    assert data.values[~data.known].unique().tolist() == [0.0]
    assert data.tick.tolist() == [0, 4, 8, 12]
    assert data.episode.tolist() == [0] * 4
    assert data.fingerprint() == data_from_sources((QUARTERLY, MONTHLY), ECONOMY, 4).fingerprint()


def test_a_slow_value_fills_its_own_period_and_no_other():
    late = {"tick": [8, 40], "gdp": [10.0, 20.0]}  # known in the first and the fourth quarter
    data = data_from_sources([{"tick": np.arange(12) * 4, "price": np.arange(12.0)}, late], ECONOMY, 4)
    quarters = [10.0] * 3 + [None] * 6 + [20.0] * 2
    assert [row[1] for row in known_values(data.values, data.known)] == quarters
    monthly = compile_schema({"price": Field(), "gdp": Field(period=4)})
    data = data_from_sources({"tick": [0, 1, 4, 5, 8, 9], "gdp": [1.0, NAN, 2.0, NAN, 3.0, NAN]}, monthly, 4)
    assert data.known[:, 1].tolist() == [True, False, True, False], "a step changes it anyway"


def test_rows_one_step_apart_make_a_pair():
    daily = data_from_sources({"tick": [0, 2, 4, 6, 7], "price": [0.0, 2.0, 4.0, 6.0, 7.0]}, ECONOMY, 4)
    assert list(zip(daily.values[:, 0].tolist(), daily.next_values[:, 0].tolist(), strict=True)) == [(0, 4), (2, 6)]
    torn = data_from_sources({"tick": [0, 4, 12, 16], "price": [0.0, 4.0, 12.0, 16.0]}, ECONOMY, 4)
    assert torn.tick.tolist() == [0, 12]
    assert torn.next_values[:, 0].tolist() == [4.0, 16.0]


def test_episodes_meet_across_sources_and_start_at_their_first_rows():
    one = {"episode": [7, 7, 7, 3, 3], "tick": [0, 4, 8, 4, 8], "price": [1.0, 2.0, 3.0, 4.0, 5.0]}
    two = {"episode": [3, 7], "tick": [8, 0], "gdp": [30.0, 70.0]}
    data = data_from_sources([one, two], ECONOMY, 4)
    assert data.episode.tolist() == [0, 1, 1], "sorted by the numbers given: 3, 7"
    assert data.values[:, :2].tolist() == [[4.0, 30.0], [1.0, 70.0], [2.0, 70.0]]
    assert data.starts[:, :2].tolist() == [[4.0, 30.0], [1.0, 70.0]]


def test_sources_without_ticks_are_recordings_of_their_own():
    one = {"price": [1.0, 2.0, 3.0]}
    two = {"episode": [0, 1, 0, 1], "price": [4.0, 6.0, 5.0, 7.0]}  # the envs take turns
    data = data_from_sources([one, two, QUARTERLY], ECONOMY, 4)
    pairs = zip(data.values[:, 0].tolist(), data.next_values[:, 0].tolist(), data.tick.tolist(), strict=True)
    assert [*pairs] == [(1, 2, 0), (2, 3, 4), (4, 5, 0), (6, 7, 0)]
    assert data.episode.diff().tolist() == [0, 1, 1]
    assert data.starts[data.starts_known[:, 0], 0].tolist() == [1.0, 2.0, 3.0, 4.0, 6.0]


def recording(rows=40):
    rng = np.random.default_rng(0)
    return {"price": rng.normal(size=rows), "gdp": np.repeat(rng.normal(size=rows), 3)[:rows]}, rng.normal(
        size=(rows, 2)
    )


def test_every_form_of_a_table_is_the_same(tmp_path):
    series, rates = recording()
    series["price"][3] = NAN
    plain = {**series, "rates": rates}
    frame = pd.DataFrame({**series, "rates[1]": rates[:, 1], "rates[0]": rates[:, 0]})
    arrays = pd.DataFrame({**series, "rates": list(rates)})
    arrays.to_parquet(tmp_path / "arrays.parquet")
    frame.to_parquet(tmp_path / "frame.parquet")
    forms = {
        "lists": {path: column.tolist() for path, column in plain.items()},
        "tensors": {path: torch.as_tensor(column) for path, column in plain.items()},
        "pandas": {**{path: pd.Series(column).astype("Float64") for path, column in series.items()}, "rates": rates},
        "DataFrame": frame,
        "columns of arrays": arrays,
        "Parquet": tmp_path / "frame.parquet",
        "Parquet of arrays": str(tmp_path / "arrays.parquet"),
        "own ticks": {"tick": np.arange(40) * 4, **plain},
        "parts": [{"tick": np.arange(40) * 4, k: v} for k, v in plain.items()],
    }
    world = WorldModel(ECONOMY, config=ModelConfig(num_blocks=1), ticks_per_step=4)
    expected = world.as_data(plain)
    assert expected.next_known.sum(0).tolist() == [38, 39, 39, 39, 0]
    for name, form in forms.items():
        assert world.as_data(form).fingerprint() == expected.fingerprint(), name


def test_whole_numbers_with_gaps_and_missing_arrays_are_unknown():
    frame = pd.DataFrame({"price": pd.array([1, None, 3], "Int64"), "rates": [np.array([1.0, 2.0]), None, [3.0, 4.0]]})
    data = data_from_sources(frame, ECONOMY)
    assert known_values(data.starts, data.starts_known)[1] == [None] * 5
    assert data.starts[2, 2:4].tolist() == [3.0, 4.0]


def test_categories_are_numbers_where_their_names_are():
    frame = pd.DataFrame({"price": pd.Categorical([3, 1, None, 3]), "unseen": pd.Categorical([0, 1, 0, 1])})
    data = data_from_sources(frame, ECONOMY)
    assert known_values(data.starts[:, :1], data.starts_known[:, :1]) == [[3.0], [1.0], [None], [3.0]]
    assert data.starts[:, 4].tolist() == [0.0, 1.0, 0.0, 1.0]
    with pytest.raises(DataError, match="'price' must be an array of real numbers"):
        data_from_sources({"price": pd.Series(pd.Categorical(["up", "down", "up"]))}, ECONOMY)


def test_ticks_and_episodes_may_be_the_index():
    frame = pd.DataFrame({"episode": [0, 0, 0, 1, 1], "tick": [0, 4, 12, 0, 4], "price": np.arange(5.0)})
    expected = data_from_sources(frame, ECONOMY, 4)
    assert expected.tick.tolist() == [0, 0]
    for index in (["tick"], ["episode", "tick"]):
        assert data_from_sources(frame.set_index(index), ECONOMY, 4).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        (
            {"price": [1, 2, 3], "gdp": [1, 2]},
            DataError,
            r"2 \('gdp'\), 3 \('price'\).*sources of their own.*'tick' column",
        ),
        ([{"price": [1, 2, 3]}, {"gpd": [1, 2, 3]}], UnknownFieldError, "'gpd'. Closest: gdp"),
        ({"rates[2]": [1, 2, 3]}, DataError, r"'rates' has 2 positions, \[0\] to \[1\]"),
        ({"rates": np.ones((3, 2)), "rates[0]": [1, 2, 3]}, DataError, r"'rates\[0\]' is in two columns"),
        ({"tick": [0, 4, 4], "price": [1, 2, 3]}, DataError, "it is 4 in row 2 after 4 in row 1"),
        ({"tick": [0, 4, 1.5], "price": [1, 2, 3]}, DataError, "'tick' is 1.5 in row 2; it takes whole numbers from 0"),
        ({"tick": [0, NAN, 8], "price": [1, 2, 3]}, DataError, "'tick' is nan in row 1"),
        ({"tick": [[0, 1], [2, 3], [4, 5]], "price": [1, 2, 3]}, DataError, "one whole number per row"),
        (
            {"tick": [0, 12, 24], "price": [1, 2, 3]},
            DataError,
            r"3 rows, 0 have a row one step \(4 .*ticks_per_step=12",
        ),
        (
            {"tick": pd.date_range("2024-01", periods=3, freq="MS"), "price": [1, 2, 3]},
            DataError,
            "The data: 'tick' holds dates.*'tick' column of whole numbers",
        ),
        ({"price": [NAN, NAN, NAN]}, DataError, "Every value is unknown"),
        ([MONTHLY, {"price": 1.0}], DataError, "Source 1: 'price' must be a series over time, got 1.0"),
        ([MONTHLY, {"prise": [1.0]}], UnknownFieldError, "Source 1: Unknown field path 'prise'. Closest: price"),
        ({"tick": [0, 4, 8]}, DataError, r"no series of a field, only \['tick'\]"),
        ({"price": []}, DataError, "empty"),
        (pd.DataFrame({"rates": [[1.0, 2.0], [3.0], None]}), DataError, "'rates' must be an array of real numbers"),
        (pd.DataFrame([[1.0, 2.0]] * 3, columns=["price", "price"]), DataError, r"\['price'\] stand more than once"),
        (pd.DataFrame(np.ones((3, 2))), UnknownFieldError, "Unknown field path 0"),
        ([MONTHLY, {"tick": [4, 12], "price": [2.0, 4.5]}], DataError, "Source 1: 'price' is 4.5 at tick 12 .*says 4"),
        ([MONTHLY, {**QUARTERLY, "episode": [0, 0]}], DataError, "some have an 'episode' column and some not"),
        (["data.csv"], DataError, "'data.csv'.*end in '.parquet'"),
        ("missing.parquet", FileNotFoundError, "missing.parquet"),
        ([MONTHLY, 3], DataError, "got list"),
    ],
)
def test_sources_that_do_not_fit(sources, error, message):
    with pytest.raises(error, match=message):
        data_from_sources(sources, ECONOMY, 4)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (broken := tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="no whole Parquet file"):
        data_from_sources(broken, ECONOMY)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'wm_vec\[data\]'"):
        data_from_sources(broken, ECONOMY)


def test_agreeing_sources_may_overlap():
    again = {"tick": [8, 12], "price": [3.0, 4.0 + 1e-7]}
    data = data_from_sources([MONTHLY, again], ECONOMY, 4)
    assert data.values[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_field_of_one_source_is_never_held_out_whole():
    one, two = {"price": np.arange(50.0)}, {"gdp": np.arange(20.0)}
    training, held_out = data_from_sources([one, two], ECONOMY, 1).split(0.1)
    assert training.known[:, :2].sum(0).tolist() == [44, 17]
    assert held_out.values[held_out.known[:, 0], 0].tolist() == [44.0, 45.0, 46.0, 47.0, 48.0]
    assert held_out.values[held_out.known[:, 1], 1].tolist() == [17.0, 18.0]


# -- learning -----------------------------------------------------------------------------------------------


def economy(months, seed=0):
    """A price that follows its drift, and a quarterly figure three months' worth of it, in two tables."""
    rng = np.random.default_rng(seed)
    push, price, gdp = rng.uniform(-1, 1, months), np.zeros(months), np.zeros(months)
    for t in range(1, months):
        price[t] = 0.5 * price[t - 1] + push[t - 1]
        gdp[t] = gdp[t - 1] if t % 3 else price[t - 1]
    month = np.arange(months)
    frame = pd.DataFrame({"tick": 4 * month, "price": price, "push": push})
    return frame, {"tick": 12 * month[: months // 3], "gdp": gdp[::3]}


def test_a_world_learns_from_sources_of_different_frequency():
    bound = compile_schema({"price": Field(), "gdp": Field(period=12), "push": Field(is_output=False)}, d_model=32)
    world = WorldModel(bound, config=ModelConfig(num_blocks=1), ticks_per_step=4)
    config = TrainConfig(n_steps=80, batch_size=128, eval_every=80, learning_rate=1e-2)
    world.finetune([*economy(1500)], config=config)
    assert world.coverage == {"price": 1.0, "gdp": 1.0, "push": 1.0}

    data = world.as_data([*economy(300, seed=1)])
    envs = world.to_vector_env(len(data), ["price", "gdp"], ["push"], lambda obs, act, info: obs["price"].sum(), seed=0)
    envs.reset()
    state = envs.state()
    state.dynamics["values"], state.dynamics["tick"] = data.values.clone(), data.tick.clone()
    envs.set_state(state)
    imagined = envs.step(data.values[:, 2:])[0]
    change, error = data.next_values[:, :2] - data.values[:, :2], data.next_values[:, :2] - imagined
    r2 = 1 - error.var(0) / change.var(0)
    assert r2.min() > 0.8, r2
    within = data.tick // 4 % 3 != 2
    assert torch.equal(imagined[within, 1], data.values[within, 1]), "a quarterly field holds for three months"


def test_coverage_says_what_is_known_and_is_saved(tmp_path):
    world = WorldModel(ECONOMY, config=ModelConfig(num_blocks=1), ticks_per_step=4)
    assert world.coverage is None
    config = TrainConfig(n_steps=1, batch_size=8)
    with pytest.warns(UserWarning, match=r"2 of 4 fields are in none of the data \(rates, unseen\)"):
        world.finetune([MONTHLY, QUARTERLY], config=config)
    assert world.coverage == {"price": 0.75, "gdp": 1.0, "rates": 0.0, "unseen": 0.0}
    series, rates = recording()
    rates[:20, 0] = NAN
    with pytest.warns(UserWarning, match=r"1 of 4 fields are in none of the data \(unseen\)"):
        world.finetune({"price": series["price"], "rates": rates}, config=config)
    assert world.coverage == {"price": 1.0, "gdp": 1.0, "rates": pytest.approx((20 + 39) / 78), "unseen": 0.0}
    world.save(path := tmp_path / "world.safetensors")
    assert WorldModel.load(path).coverage == world.coverage
    tensors, saved = read_checkpoint(path)
    old = {name: part for name, part in saved.items() if name not in ("coverage", "format_version")}
    write_checkpoint(path, tensors, old)
    assert WorldModel.load(path).coverage is None
    for wrong in ({"price": 1.0}, 3, {**world.coverage, "price": 2.0}):
        write_checkpoint(path, tensors, {**old, "coverage": wrong})
        with pytest.raises(ValueError, match="coverage cannot be read"):
            WorldModel.load(path)


def test_worlds_of_environments_have_coverage_too():
    world = WorldModel.from_env("Pendulum-v1", config=ModelConfig(num_blocks=1))
    world.finetune(collect_transitions("Pendulum-v1", 64), config=TrainConfig(n_steps=1, batch_size=8))
    assert world.coverage == dict.fromkeys(world.bound, 1.0)


def test_what_is_covered_warns_of_nothing():
    series, rates = recording()
    bound = compile_schema({"price": Field(), "gdp": Field(period=3), "rates": Field(1, 2)})
    world = WorldModel(bound, config=ModelConfig(num_blocks=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.finetune({**series, "rates": rates}, config=TrainConfig(n_steps=1, batch_size=8))
