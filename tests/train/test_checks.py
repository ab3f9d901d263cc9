"""`check_data` finds each fault, says where, and finds none in clean data."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from wm_vec import Field, ModelConfig, WorldModel, check_data, collect_transitions, compile_schema
from wm_vec.canvas import SchemaError
from wm_vec.train.checks import NOTES
from wm_vec.train.forms import as_world_data

NAN = np.nan
SHOP = compile_schema(
    {
        "stock": Field(1, 2),
        "share": Field(low=0.0, high=1.0),
        "mood": Field(num_classes=3),
        "tax": Field(period=10),
        "push": Field(is_output=False, low=-1.0, high=1.0),
    },
    d_model=32,
)
SMALL = ModelConfig(num_blocks=1)
POLICIES = ("random", "sticky", "policy", "policy with noise")


def shop():
    return WorldModel(SHOP, config=SMALL)


def recording(seed=0, rows=400, policy="random"):
    """A damped rotation that is pushed; a share and a mood that follow; a tax that changes every ten rows."""
    rng = np.random.default_rng(seed)
    turn = 0.95 * np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    stock, push = np.zeros((rows, 2)), rng.uniform(-1, 1, rows)
    for t in range(rows):
        if policy == "sticky" and t and rng.random() < 0.8:
            push[t] = push[t - 1]
        if policy.startswith("policy"):
            push[t] = np.clip(-0.4 * stock[t, 0] + 0.3 * push[t] * ("noise" in policy), -1, 1)
        if t + 1 < rows:
            stock[t + 1] = turn @ stock[t] + (0.2, 0.5 * push[t]) + 0.05 * rng.normal(size=2)
    share = 1 / (1 + np.exp(-stock[:, 0] - 0.3 * rng.normal(size=rows)))
    mood = np.digitize(stock[:, 1], (-0.5, 0.5))
    tax = np.repeat(rng.normal(size=rows), 10)[:rows]
    return {"stock": stock, "share": share, "mood": mood, "tax": tax, "push": push}


def kinds(report):
    return [finding.kind for finding in report.findings]


def only(report, kind):
    """The one fault; notes do not count."""
    faults = [finding for finding in report.findings if finding.kind not in NOTES]
    assert [finding.kind for finding in faults] == [kind], str(report)
    (finding,) = faults
    assert finding.text in str(report)
    return finding


@pytest.mark.parametrize("policy", POLICIES)
def test_clean_recordings_have_no_faults(policy):
    world = shop()
    for seed in range(8):
        report = check_data(recording(seed, rows=(60, 200, 1000)[seed % 3], policy=policy), world)
        assert report.ok, f"seed {seed}: {report}"
        assert str(report) == "No faults found."


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1"])
def test_clean_transitions_have_no_faults(env_id):
    world = WorldModel.from_env(env_id, config=SMALL)
    for seed, policy in enumerate(("random", "sticky", "random", "sticky")):
        transitions = collect_transitions(env_id, 800, policy, seed=seed, num_envs=1 + seed % 2 * 3)
        assert check_data(transitions, world).findings == ()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("by", [1, -1])
def test_actions_of_another_row(policy, by):
    for seed in range(4):
        data = recording(seed, policy=policy)
        data["push"] = np.roll(data["push"], by)
        report = check_data(data, shop())
        if policy == "policy" and "actions" not in kinds(report):
            continue  # what it does is a function of what is observed: no data say which row it belongs to
        finding = only(report, "actions")
        assert finding.fields == ("push",)
        which, way = ("after", "earlier") if by == 1 else ("before", "later")
        assert f"the row {which} explain the changes of" in finding.text
        assert "'stock[1]'" in finding.text or policy == "policy"
        assert f"move 'push' one row {way}" in finding.text


def test_actions_of_another_row_of_transitions():
    world = WorldModel.from_env("CartPole-v1", config=SMALL)
    transitions = collect_transitions("CartPole-v1", 600, num_envs=1)
    transitions["action"] = transitions["action"].roll(1, 0)
    (buffer := TensorDictReplayBuffer(storage=LazyTensorStorage(600))).extend(transitions)
    for form in (transitions, [transitions, transitions], buffer, world.as_data(transitions)):
        finding = only(check_data(form, world), "actions")
        assert "held-out R2 1.00 against" in finding.text
        assert finding.fields == ("action",)


def test_actions_may_be_named():
    data = recording()
    data["push"] = np.roll(data["push"], 1)
    outputs = {path: dataclasses.replace(SHOP[path].spec, is_output=True) for path in SHOP}
    world = WorldModel(compile_schema(outputs, d_model=32), config=SMALL)
    assert check_data(data, world).ok, "nothing says that it is an action"
    only(check_data(data, world, act_fields=["push"]), "actions")
    with pytest.raises(SchemaError, match="Closest: push"):
        check_data(data, world, act_fields=["pusch"])


def test_resets_inside_a_recording():
    for seed in range(5):
        parts = [recording(10 * seed + i, rows=n) for i, n in enumerate((90, 60, 120))]
        for part, offset in zip(parts, (0.0, 5.0, -5.0), strict=True):
            part["stock"] = part["stock"] + offset
        data = {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}
        data["share"] = np.concatenate([np.full(90, 0.2), np.full(60, 0.5), np.full(120, 0.8)])
        data["share"] += np.random.default_rng(seed).normal(size=270) * 0.01
        finding = only(check_data(data, shop()), "reset")
        assert finding.rows == (90, 150)
        assert "2 times most fields jump at once" in finding.text
        assert "at rows 90, 150" in finding.text
        assert check_data({**data, "episode": np.repeat([0, 1, 2], (90, 60, 120))}, shop()).ok


def test_resets_inside_transitions():
    world = WorldModel.from_env("CartPole-v1", config=SMALL)
    for seed in range(3):
        taken = collect_transitions("CartPole-v1", 500, seed=seed, num_envs=1)
        starts = {*taken["is_init"].flatten().nonzero().flatten().tolist()} - {0}
        finding = only(check_data({path: taken[path] for path in ("observation", "action")}, world), "reset")
        assert {*finding.rows} <= starts
        assert len(finding.rows) > 0.8 * len(starts)


def test_constant_columns():
    data = recording()
    data["stock"][:, 1], data["mood"] = 7.0, np.full(400, 2)
    finding = only(check_data(data, shop()), "constant")
    assert finding.fields == ("stock", "mood")
    assert "'stock[1]' (7), 'mood' (2) are the same in all rows" in finding.text
    short = {path: series[:8] for path, series in recording().items()}
    assert check_data(short, shop()).ok, "a tax holds for ten rows"


def test_columns_beyond_their_bounds_are_reported_not_raised():
    data = recording()
    data["share"][[17, 399]] = 1.5, -0.5
    data["mood"] = data["mood"].astype(float)
    data["mood"][30] = 1.5
    report = check_data(data, shop())
    assert kinds(report) == ["range", "range"]
    share, mood = report.findings
    assert (share.fields, share.rows) == (("share",), (17, 399))
    assert "'share' takes finite numbers from 0 to 1; 2 of 400 rows are beyond, first in row 17: 1.5." in share.text
    assert (mood.fields, mood.rows) == (("mood",), (30,))
    assert "'mood' takes whole numbers from 0 to 2" in mood.text
    data = recording()
    data["stock"][5, 1] = np.inf
    assert "first in row 5: inf" in only(check_data(data, shop()), "range").text
    world = WorldModel.from_env("Pendulum-v1", config=SMALL)
    transitions = collect_transitions("Pendulum-v1", 400)
    transitions["next", "observation"][-1, 1] = 3.0  # the end of an episode, which is in no other row
    assert only(check_data(transitions, world), "range").rows == (399,)


def test_repeated_rows():
    data = pd.DataFrame({**(made := recording()), "stock": list(made["stock"])}).drop(columns="tax")
    twice = data.iloc[[*range(101), 100, *range(101, 200), 199, 199, *range(200, 400)]]
    finding = only(check_data(twice, shop()), "repeated")
    assert finding.rows == (101, 201, 202)
    assert "3 rows are equal to the row before" in finding.text
    assert "101, 201-202" in finding.text
    transitions = collect_transitions("Pendulum-v1", 300, num_envs=1)
    world = WorldModel.from_env("Pendulum-v1", config=SMALL)
    doubled = transitions[torch.tensor([*range(50), *range(40, 41), *range(50, 300)])]
    assert check_data(doubled, world).ok, "another row stands between"
    assert only(check_data(transitions[torch.tensor([*range(51), *range(50, 300)])], world), "repeated").rows == (51,)


def test_series_of_different_lengths():
    data = recording()
    finding = only(check_data({**data, "push": data["push"][:-1]}, shop()), "length")
    assert finding.fields == ("push",)
    assert "append one NaN to them, or cut the last row of the others" in finding.text
    finding = only(
        check_data({path: s[: 400 if path == "push" else 399] for path, s in data.items()}, shop()), "length"
    )
    assert "one action more than observations: cut the last one" in finding.text
    finding = only(check_data({**data, "tax": data["tax"][::10]}, shop()), "length")
    assert "40 ('tax'), 400 ('stock', 'share', 'mood', 'push')" in finding.text
    assert "sources of their own, each with a 'tick' column" in finding.text
    report = check_data([data, {"tax": [1, 2], "share": [0.1]}], shop())
    assert only(report, "length").text.startswith("Source 1: "), "the other source is checked all the same"


class Episode:
    """As Minari gives them."""

    def __init__(self, steps=30):
        self.observations, self.actions = np.random.default_rng(0).uniform(-1, 1, (steps + 1, 3)), np.zeros((steps, 1))
        self.rewards, self.terminations = np.arange(float(steps)), np.zeros(steps, bool)


def test_episodes_without_their_last_observation():
    world = WorldModel.from_env("Pendulum-v1", config=SMALL)
    cut = Episode()
    cut.observations = cut.observations[:-1]
    finding = only(check_data([Episode(), cut], world), "unreadable")
    assert "Episode 1: It has 30 actions and 30 observations; expected 31" in finding.text
    assert "cut the last action" in finding.text


def test_unknown_values_and_gaps_are_notes():
    data = {"tick": np.arange(400), **recording()}
    data["share"][[3, 5]] = NAN
    data["tax"] = np.where(np.arange(400) % 10, NAN, data["tax"])  # one value per period is all that there is
    data["tick"][200:] += 10
    report = check_data(data, shop())
    assert report.ok
    assert kinds(report) == ["unknown", "gap"]
    unknown, gap = report.findings
    assert (unknown.fields, unknown.rows) == (("share",), (3, 5))
    assert "Unknown (NaN) is 0.5% of 'share'." in unknown.text
    assert gap.rows == (199,)
    assert "nothing one step (1 ticks) after 1 of 400 rows, though their episode goes on: row 199." in gap.text


def test_what_is_in_no_data_is_a_note_and_little_data_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_data({"share": [0.5, NAN, NAN]}, shop())
    assert report.ok
    (unknown,) = report.findings
    assert unknown.fields == ("stock", "share", "mood", "tax", "push")
    assert "100.0% of 'stock', 66.7% of 'share'" in unknown.text


def test_a_field_that_changes_within_its_period():
    data = recording()
    data["tax"][15:20] += 1.0
    finding = only(check_data(data, shop()), "period")
    assert (finding.fields, finding.rows) == (("tax",), (15,))
    assert "'tax' of a period of 10 ticks change within it in 1 of 400 rows, first in row 15" in finding.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stok": [1, 2, 3]}, "Unknown field path 'stok'. Closest: stock"),
        ({"share": ["a", "b", "c"]}, "'share' must be an array of real numbers"),
        ({"tick": [0, 0, 1], "share": [0, 0, 1]}, "'tick' must grow"),
        ({"tick": [0, 5, 10], "share": [0, 0, 1]}, "Most rows are 5 ticks apart"),
        ([{"tick": [0], "share": [1]}, {"tick": [0], "share": [0]}], "Source 1: 'share' is 0 at tick 0"),
    ],
)
def test_what_finetune_would_refuse(data, message):
    assert message in only(check_data(data, shop()), "unreadable").text


def test_rows_are_those_of_their_source():
    data = recording()
    order = np.argsort(np.arange(400) % 2, kind="stable")  # even rows, then odd rows
    shuffled = {path: series[np.argsort(order)] for path, series in data.items()}
    shuffled["episode"] = np.arange(400) % 2
    shuffled["share"][[7, 8]] = 2.0
    report = check_data(shuffled, shop())
    assert [finding.rows for finding in report.findings if finding.kind == "range"] == [(7, 8)]
    slow, fast = {"tick": [0, 10, 20], "tax": [1.0, 2.0, 3.0]}, {"tick": np.arange(60), "share": data["share"][:60]}
    fast["share"][25] = 2.0
    finding = only(check_data([slow, fast], shop()), "range")
    assert finding.rows == (25,)
    assert "first in tick 25 of episode 0: 2." in finding.text


def test_nothing_is_changed():
    world, data = shop(), recording()
    before = {name: tensor.clone() for name, tensor in world.state_dict().items()}
    copies = {path: series.copy() for path, series in data.items()}
    check_data(data, world)
    assert all(torch.equal(tensor, before[name]) for name, tensor in world.state_dict().items())
    assert not world.trained
    assert world.coverage is None
    assert all(np.array_equal(data[path], copies[path]) for path in data)
    steps = as_world_data(data, world.bound, None, 1)
    fingerprint = steps.fingerprint()
    check_data(steps, world)
    assert steps.fingerprint() == fingerprint


def test_what_is_no_world_or_no_data_is_refused():
    with pytest.raises(TypeError, match="world must be a WorldModel, got 3"):
        check_data(recording(), 3)
    with pytest.raises(TypeError, match="cannot learn from a int"):
        check_data(3, shop())
