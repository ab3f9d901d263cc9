"""The evaluation, of worlds that are right by construction, and with planted faults."""

from __future__ import annotations

import io
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console

from tests.train.exact_worlds import CartPoleRules, JumpRules, LakeRules, RulesWorld
from wm_vec import Field, WorldModel, collect_transitions
from wm_vec.render.evaluation_plot import plot_evaluation
from wm_vec.train.episodes import Imagination, real_episodes
from wm_vec.train.evaluation import EvaluationError, evaluate_world
from wm_vec.train.ground_truth import GROUND_TRUTH, true_next_observations

SMALL = {"n_transitions": 1500, "n_starts": 40, "horizon": 30}


def balance(observation):
    """Holds the pole for most of an episode."""
    return (observation[:, 2] + 0.3 * observation[:, 3] > 0).astype(np.int64)


@pytest.fixture(scope="module")
def exact():
    """The report on CartPole's own equations."""
    return evaluate_world(RulesWorld(CartPoleRules()), "CartPole-v1", policies={"balance": balance}, **SMALL)


def of_fault(fault, **sizes):
    report = evaluate_world(RulesWorld(CartPoleRules(), fault), "CartPole-v1", **{**SMALL, **sizes})
    return report.policies["random"]


def by_name(metrics):
    return {f.name: f for f in metrics}


def test_an_exact_world_passes_everywhere(exact):
    for policy in exact.policies.values():
        assert all(d.r2 > 0.999999 for d in policy.one_step.dimensions)
        assert policy.one_step.reward.max_error == 0
        assert not any(d.stochastic for d in policy.one_step.distributions)
        assert max(e for errors in policy.open_loop.error for e in errors if e is not None) < 1e-3
        velocities = [e for e in policy.effects if "velocity" in e.name]
        assert all(e.sign_agreement == 1 and e.relative_error < 1e-3 for e in velocities)
        assert all(e.relative_size is None for e in policy.effects if "velocity" not in e.name)
        assert policy.returns.ks <= policy.returns.ks_critical
        assert policy.returns.ks_lengths <= policy.returns.ks_critical
    random = exact.policies["random"]
    ends = random.one_step.termination
    assert ends.recall == ends.precision == ends.ceiling == 1
    assert random.one_step.termination.n_terminal > 30
    assert random.one_step.reward.exact == random.one_step.reward.right == 1
    assert exact.policies["balance"].returns.real.mean > 5 * random.returns.real.mean
    assert random.open_loop.counts[0] == 40 > random.open_loop.counts[-1], "ended episodes drop out"


def test_swapped_actions_show():
    rules = CartPoleRules()
    policy = of_fault(lambda obs, action, *_: rules.step(obs, 1 - action))
    metrics = by_name(policy.one_step.dimensions)
    assert metrics["cart velocity"].r2 < -2
    assert metrics["cart position"].r2 > 0.9999, "the action reaches the position one step later"
    assert all(e.sign_agreement == 0 for e in policy.effects if e.sign_agreement is not None)
    assert policy.open_loop.error[1][9] > 0.5


def test_ignored_actions_show():
    rules = CartPoleRules()
    policy = of_fault(lambda obs, action, *_: rules.step(obs, torch.ones_like(action)))
    assert by_name(policy.one_step.dimensions)["cart velocity"].skill_linear < 0
    assert all(e.imagined == 0 for e in policy.effects)


def test_standing_still_shows():
    policy = of_fault(lambda obs, action, after, *rest: (obs.clone(), *rest))
    for metrics in policy.one_step.dimensions:
        assert metrics.r2 <= 0
        assert metrics.skill_persistence == pytest.approx(0)
    assert policy.open_loop.error == policy.open_loop.persistence


def test_wrong_effect_sizes_show():
    def half(obs, action, after, reward, terminated):
        return obs + 0.5 * (after - obs), reward, terminated

    policy = of_fault(half)
    for effect in policy.effects:
        if effect.relative_size is not None:
            assert effect.relative_size == pytest.approx(0.5, rel=1e-3)
            assert effect.sign_agreement == 1


def test_wrong_endings_show():
    policy = of_fault(lambda obs, action, after, reward, terminated: (after, reward, terminated & False))
    assert policy.one_step.termination.recall == 0
    assert policy.one_step.termination.precision is None
    assert policy.one_step.termination.imagined_rate.high < policy.one_step.termination.real_rate.low
    assert policy.returns.imagined.mean == 500, "nothing but the time limit ends these"
    assert policy.returns.ks == policy.returns.ks_lengths == 1
    policy = of_fault(lambda obs, action, after, reward, terminated: (after, reward, terminated | True))
    assert policy.one_step.termination.recall == 1
    assert policy.one_step.termination.precision == pytest.approx(0.046, abs=0.03), "the real rate"
    assert policy.one_step.termination.ceiling == 1
    assert policy.returns.imagined.mean_length == 1


def test_wrong_rewards_and_breakdowns_show():
    def fault(obs, action, after, reward, terminated):
        broken = obs[:, :1] > 0.2
        return torch.where(broken, float("nan"), after), reward + 0.25, terminated

    policy = of_fault(fault)
    assert policy.one_step.reward.max_error >= 0.25
    assert policy.one_step.reward.exact == 0
    assert policy.one_step.diverged > 0
    assert np.isfinite([d.r2 for d in policy.one_step.dimensions]).all()


def test_a_discrete_observation_and_environment_arguments():
    rules = LakeRules()
    world = RulesWorld(rules)
    report = evaluate_world(world, rules.env_id, env_kwargs=rules.env_kwargs, **SMALL)
    one_step = report.policies["random"].one_step
    assert one_step.dimensions == []
    (classes,) = one_step.classes
    assert (classes.name, classes.accuracy, classes.ceiling) == ("observation", 1, 1)
    assert (one_step.transitions.impossible, one_step.transitions.ceiling) == (0, 1)
    assert [(g.group, g.imagined) for g in one_step.end_given_class] == [("always", 1), ("never", 0)]
    assert report.policies["random"].open_loop.units == ["mismatch"]
    assert report.policies["random"].open_loop.error[0][0] == 0
    # The same world against the lake that slips.
    slippery = evaluate_world(world, rules.env_id, **SMALL).policies["random"].one_step
    assert slippery.classes[0].accuracy < 0.7
    assert slippery.classes[0].ceiling == 1, "the world knows no chance,"
    assert slippery.transitions.ceiling < 0.6, "the real lake does"


def test_an_exact_sampler_of_a_slippery_lake_and_a_blurred_one(tmp_path):
    def blurred(obs, action, after, reward, terminated):
        jumps = torch.arange(len(obs)) % 8 == 0  # an eighth of the steps leads anywhere and neither ends nor pays
        after = torch.where(jumps[:, None], torch.arange(len(obs), dtype=obs.dtype)[:, None] // 8 % 16, after)
        return after, torch.where(jumps, 0.03, reward), terminated & ~jumps

    rules = LakeRules(is_slippery=True)
    sizes = {**SMALL, "n_transitions": 6000}
    reports = [evaluate_world(RulesWorld(rules, fault), rules.env_id, **sizes) for fault in (None, blurred)]
    exact, wrong = (report.policies["random"].one_step for report in reports)
    data = json.loads(json.dumps(reports[0].to_dict(), allow_nan=False))
    assert data["policies"]["random"]["one_step"]["transitions"]["impossible"] == 0
    console = Console(file=io.StringIO(), width=200)
    console.print(reports[1].table())
    assert "two samples agree" in console.file.getvalue()
    plot_evaluation(reports[1], tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    for share in (exact.classes[0].accuracy, exact.classes[0].ceiling, exact.transitions.ceiling):
        assert share == pytest.approx(0.39, abs=0.03), "a third, and more at walls and corners"
    assert exact.transitions.impossible <= exact.transitions.unseen + 0.001 < 0.003
    assert [(g.group, g.imagined) for g in exact.end_given_class] == [("always", 1), ("never", 0)]
    ends = exact.termination
    assert ends.recall == pytest.approx(ends.ceiling, abs=0.06)
    assert ends.imagined_rate.low < ends.real_rate.high
    assert ends.real_rate.low < ends.imagined_rate.high
    assert (exact.reward.exact, exact.reward.n_values) == (1, 2)
    assert wrong.transitions.impossible > 0.06
    assert wrong.end_given_class[0].imagined < 0.95
    assert wrong.reward.exact == pytest.approx(7 / 8, abs=0.01)


def test_chance_in_numbers_rewards_and_ends():
    policies = {}
    for name, rules in {"exact": JumpRules(), "narrow": JumpRules(0.4), "lasting": JumpRules(hazard=0.004)}.items():
        sizes = {**SMALL, "n_transitions": 3000, "n_starts": 100}
        report = evaluate_world(RulesWorld(rules), rules.env_id, **sizes)
        json.dumps(report.to_dict(), allow_nan=False)
        policies[name] = report.policies["random"]
    exact, narrow, lasting = (policy.one_step for policy in policies.values())
    x, y = exact.distributions
    assert (x.stochastic, y.stochastic) == (True, False)
    assert x.variance_ratio == pytest.approx(1, abs=0.05)
    assert (x.coverage_50, x.coverage_90) == pytest.approx((0.5, 0.9), abs=0.05)
    assert exact.dimensions[1].r2 > 0.9999
    assert (exact.reward.exact, exact.reward.n_values) == (1, 2)
    assert exact.reward.right == pytest.approx(exact.reward.ceiling, abs=0.03)
    assert all(b.observed.low <= b.imagined <= b.observed.high for b in exact.termination.reliability)
    assert narrow.distributions[0].variance_ratio < 0.2
    assert narrow.distributions[0].coverage_90 < 0.5
    assert lasting.termination.imagined_rate.high < lasting.termination.real_rate.low
    for name, differ in (("exact", False), ("lasting", True)):
        assert (policies[name].returns.ks_lengths > policies[name].returns.ks_critical) == differ


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_bundled_worlds_do_well_and_untrained_ones_badly(env_id, cartpole, pendulum):
    world = {"CartPole-v1": cartpole, "Pendulum-v1": pendulum}[env_id]
    policy = evaluate_world(world, env_id, **SMALL).policies["random"]
    assert all(d.r2 > 0.9 for d in policy.one_step.dimensions)
    assert all(e.sign_agreement > 0.9 for e in policy.effects if e.sign_agreement is not None)
    assert all(0.7 < e.relative_size < 1.3 for e in policy.effects if e.relative_size is not None)
    assert max(errors[9] for errors in policy.open_loop.error) < 0.3
    with pytest.warns(UserWarning, match="untrained"):
        untrained = evaluate_world(WorldModel.from_env(env_id), env_id, **SMALL).policies["random"]
    assert all(d.r2 < 0 for d in untrained.one_step.dimensions)
    assert untrained.returns.ks > untrained.returns.ks_critical


def test_real_episodes_are_those_of_single_environments():
    episodes = real_episodes("CartPole-v1", 5, None, max_steps=500, keep=16, seed=3)
    observations, actions, following, alive = (np.stack(column) for column in zip(*episodes.steps, strict=True))
    assert alive.shape == (16, 5)
    assert not alive.all(), "the case is of no use unless an episode ends early"
    for i in range(5):
        env = gym.make("CartPole-v1")
        observation, _ = env.reset(seed=3 + i)
        np.testing.assert_array_equal(observations[0, i], observation)
        length = int(episodes.lengths[i])
        for t in range(min(16, length)):
            observation, _, terminated, truncated, _ = env.step(int(actions[t, i]))
            np.testing.assert_array_equal(following[t, i], observation)
            assert alive[t, i]
            assert (terminated or truncated) == (t + 1 == length)
        assert not alive[length:, i].any()
        assert episodes.returns[i] == length
    assert episodes.ended.all()
    assert not real_episodes("Pendulum-v1", 2, None, max_steps=7, keep=3, seed=0).ended.any()


@pytest.mark.parametrize("env_id", list(GROUND_TRUTH))
def test_states_are_set_as_the_environment_reaches_them(env_id):
    data = collect_transitions(env_id, 60, seed=5)
    for row in range(0, 60, 4):
        observation, action = data["observation"][row : row + 1].numpy(), data["action"][row].numpy()
        (after,) = true_next_observations(env_id, {}, observation, [np.asarray(action)])
        np.testing.assert_allclose(after[0], data["next", "observation"][row].numpy(), atol=2e-5)


def test_imagined_steps_do_not_depend_on_how_they_are_cut(monkeypatch, cartpole):
    data = collect_transitions("CartPole-v1", 40, seed=1)
    observation, action = data["observation"].numpy(), data["action"].numpy()
    engine = cartpole.to_engine(1, autoreset_mode="disabled")
    whole = Imagination(engine).steps(observation, action[None], seed=7)
    monkeypatch.setattr("wm_vec.train.episodes.CHUNK_POSITIONS", 7 * 9)
    parts = Imagination(engine).steps(observation, action[None], seed=7)
    np.testing.assert_allclose(whole.observation, parts.observation, atol=1e-5)


def test_the_same_seed_gives_the_same_metrics_and_no_training_data(exact):
    again = evaluate_world(RulesWorld(CartPoleRules()), "CartPole-v1", policies={"balance": balance}, **SMALL)
    first, second = exact.to_dict(), again.to_dict()
    first["seconds"] = second["seconds"] = 0
    assert first == second
    other = evaluate_world(RulesWorld(CartPoleRules()), "CartPole-v1", seed=1, **SMALL)
    assert other.policies["random"].returns.real != exact.policies["random"].returns.real
    trained_on = collect_transitions("CartPole-v1", 5000, seed=0)["observation"].numpy()
    starts = exact.policies["random"].shown.real_paths[0]
    assert not any((trained_on == start).all(1).any() for start in starts.astype(np.float32))


def test_the_report_is_plain_json_a_table_and_a_picture(exact, tmp_path):
    data = json.loads(json.dumps(exact.to_dict(), allow_nan=False))
    assert list(data["policies"]) == ["random", "balance"]
    assert "shown" not in data["policies"]["random"]
    assert len(data["policies"]["random"]["open_loop"]["error"][0]) == 30
    console = Console(file=io.StringIO(), width=120)
    console.print(exact.table())
    text = console.file.getvalue()
    assert "Policy: balance" in text
    assert "pole angle" in text
    assert "fit is exact" in text, "CartPole's position moves by its velocity, which a linear fit gets right"

    from matplotlib.image import imread

    plot_evaluation(exact, tmp_path / "report.png")
    picture = imread(tmp_path / "report.png")
    assert picture.shape[0] > 1000
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 50


def test_what_cannot_be_compared_is_refused(cartpole):
    with pytest.raises(EvaluationError, match=r"CartPole-v1.*observation space"):
        evaluate_world(cartpole, "Acrobot-v1", **SMALL)
    with pytest.raises(EvaluationError, match="schema"):
        evaluate_world(WorldModel({"a": Field(1, 1)}), "CartPole-v1", **SMALL)
    with pytest.raises(ValueError, match="random"):
        evaluate_world(cartpole, "CartPole-v1", policies={"random": balance})
    with pytest.raises(ValueError, match=r"n_starts.*at least 2.*got 1"):
        evaluate_world(cartpole, "CartPole-v1", n_starts=1)
