"""Many envs of several agents: the numbers of one agent's envs, ends, and what becomes of fields that they share."""

import warnings
from copy import deepcopy

import cloudpickle
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from tests.core.test_launches import launches_of
from tests.envs.agents import AGENTS, capital, world
from wm_vec import AgentSpec, Field, ModelConfig, WorldModel, compile_schema
from wm_vec.canvas.schema import SchemaError, UnknownFieldError

MODES = ["same_step", "next_step", "disabled"]


def some_actions(env, step):
    """Actions by agent that depend on the agent's name alone, whatever the order."""
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.rand(
            env.num_envs, *env.action_spaces[name].shape, generator=generator.manual_seed(len(name) + step)
        )
        for name in env.agents
    }


def run(env, steps=7):
    shown = [env.reset(seed=3)]
    shown += [env.step(some_actions(env, step)) for step in range(steps)]
    return torch.stack(shown[1:], 1), shown[0]


def assert_same(one, two):
    assert {*one.keys(True, True)} == {*two.keys(True, True)}
    for key in one.keys(True, True):
        assert torch.equal(one[key], two[key]), key


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_any_order_of_the_agents_gives_the_same_bits(combine):
    agents = {**AGENTS, "bank": capital(act_high=0.3), "state owner": capital(act_low=-0.7)}
    runs = []
    for names in ([*agents], [*agents][::-1], sorted(agents)):
        env = world().to_multi_vector_env({name: agents[name] for name in names}, 5, max_steps=6, combine=combine)
        runs.append(run(env))
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert_same(one, two)


def test_an_agents_numbers_are_those_of_an_env_of_its_own():
    """Whoever else looks on: where others' actions are the same, an agent sees the same and is paid the same."""
    ceo = AGENTS["ceo"]
    many = world().to_vector_env(4, perspectives={"employee": AGENTS["employee"], "ceo": ceo}, max_steps=6, seed=1)
    alone = world().to_vector_env(
        4,
        ceo.obs_fields,
        ["person.focus", "firm.capital"],
        ceo.reward_fn,
        max_steps=6,
        seed=1,
        act_low=-1.0,
        act_high=2.0,
    )
    observation, seen = many.reset()[0]["ceo"], alone.reset()[0]
    assert torch.equal(observation, seen)
    for _ in range(2):  # before the employee ends
        push = torch.rand(4, 3) - 0.5
        observation, reward, *_, info = many.step({"employee": push[:, :1], "ceo": push[:, 1:]})
        seen, paid, *_, expected = alone.step(push)
        assert torch.equal(observation["ceo"], seen)
        assert torch.equal(reward[:, 1], paid)
        assert torch.equal(info["final_obs"]["ceo"], expected["final_obs"])
        for path, values in expected["predictions"].items():
            assert torch.equal(info["ceo"]["predictions"][path], values)
        assert torch.equal(info["ceo"]["obs_dict"]["firm.growth"], expected["obs_dict"]["firm.growth"])


@pytest.mark.parametrize("mode", MODES)
def test_several_agents_cost_one_predict(mode):
    on_meta = deepcopy(world()).to("meta")
    counts = []
    for names in (["ceo"], ["ceo", "employee", "state"]):
        agents = {name: AGENTS[name] for name in names}
        env = on_meta.to_multi_vector_env(agents, 4, max_steps=6, autoreset_mode=mode, seed=0)
        env.reset()
        actions = env.sample_actions()
        env.step(actions)  # which packs the weights; without values: nothing is read on the host
        counts.append(launches_of(lambda env=env, actions=actions: env.step(actions)))
    assert counts[0]["blocks"] == counts[1]["blocks"] > 0
    assert counts[0]["philox"] == counts[1]["philox"] > 0


def test_a_thousand_envs_of_three_agents():
    env = world().to_vector_env(1024, perspectives=AGENTS, max_steps=5, seed=0)
    first, _ = env.reset()
    shown = [env.step(env.sample_actions()) for _ in range(3)]
    observation, reward, terminated, truncated, _ = shown[-1]
    assert env.agents == [*AGENTS] == [*env.single_observation_space]
    assert all(observation[name].shape == (1024, *env.observation_spaces[name].shape) for name in AGENTS)
    assert reward.shape == terminated.shape == truncated.shape == (1024, 3)
    assert terminated[:, 0].all()  # employees end in the third step, at the latest
    assert not terminated[:, 1:].any()
    assert (observation["ceo"] != first["ceo"]).any(0).all()
    assert reward.std(0).gt(0.01).sum() >= 2


@pytest.mark.parametrize("mode", MODES)
def test_what_ends_and_what_goes_on_is_told_agent_by_agent(mode):
    env = world().to_multi_vector_env(AGENTS, 6, max_steps=5, autoreset_mode=mode)
    shown, first = run(env, 5)
    assert all(first[name, "active"].all() for name in AGENTS)
    employee, ceo = shown["employee"], shown["ceo"]
    # What acted in a step is what was active before it.
    acted = torch.cat([first["employee", "active"][:, None], employee["active"][:, :-1]], 1)
    assert (employee["reward"][~acted] == 0).all()
    assert employee["terminated"][~acted].all()
    assert not employee["truncated"].any()
    assert employee["terminated"][:, 2].all()
    assert not employee["active"][:, 2:4].any()
    assert ceo["active"][:, :4].all()
    assert ceo["truncated"].tolist() == [[False] * 4 + [True]] * 6
    assert not ceo["terminated"].any()
    assert torch.equal(shown["finished"], ceo["truncated"])
    assert shown["episode_length"][:, -1].tolist() == [5] * 6
    torch.testing.assert_close(employee["episode_return"][:, -1], employee["reward"].sum(1))
    restarted = mode == "same_step"
    assert torch.equal(ceo["observation"][:, :4], ceo["final_observation"][:, :4])
    assert (ceo["observation"][:, 4] != ceo["final_observation"][:, 4]).all() == restarted
    assert ceo["active"][:, 4].all() == (mode != "next_step")
    again = env.step(some_actions(env, 9)) if mode != "disabled" else env.reset(mask=shown["finished"][:, -1])
    assert all(again[name, "active"].all() for name in AGENTS)


def test_a_policy_writes_its_actions_into_what_it_was_shown():
    env, other = (world().to_multi_vector_env(AGENTS, 3, max_steps=9, seed=0) for _ in range(2))
    td, _ = env.reset(), other.reset()
    for step in range(3):
        actions = some_actions(env, step)
        for name, action in actions.items():
            td[name, "action"] = action
        td = env.step(td)
        assert_same(td, other.step(actions))
    with pytest.raises(ValueError, match=r"none for \['ceo', 'state'\]"):
        env.step(td.set(("employee", "action"), torch.zeros(3, 1)))
    written = TensorDict({name: {"action": action} for name, action in actions.items()}, batch_size=[3])
    with pytest.raises(ValueError, match=r"'coe' does not act \(closest: 'ceo'\)"):
        env.step(written.set("coe", written["ceo"]))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_was_returned_is_written_into_or_shared(mode):
    env, other = (world().to_multi_vector_env(AGENTS, 3, max_steps=2, autoreset_mode=mode, seed=0) for _ in range(2))
    env.reset(), other.reset()
    for step in range(4):
        actions = some_actions(env, step)
        shown, expected = env.step(actions), other.step(actions)
        assert_same(shown, expected)
        keys = [*shown.keys(True, True)]
        for key in keys:
            kept = shown.clone()
            shown[key].fill_(False if shown[key].dtype is torch.bool else 77)
            assert all(torch.equal(shown[other], kept[other]) for other in keys if other != key), key
        assert_same(*(one.state().to_tensordict() for one in (env, other)))


def test_two_envs_of_one_model_never_disturb_each_other():
    view = (["firm.revenue"], ["firm.capital"], lambda obs, act, info: obs["firm.revenue"].mean())
    one, two, alone = (world().to_openenv(*view, max_steps=9, n_denoise_steps=2) for _ in range(3))
    one.reset(seed=0), two.reset(seed=5), alone.reset(seed=0)
    for step in range(4):
        push = np.full(2, 0.1 * step, np.float32)
        shown = one.step(push)
        two.step(-push)
        if step == 2:
            two.reset()
        expected = alone.step(push)
        assert np.array_equal(shown[0], expected[0])
        assert shown[1:4] == expected[1:4]


@pytest.mark.parametrize(
    "reward_fn",
    [
        lambda obs, act, info: obs["firm.growth"].mean() - 0.8 * obs["person.stress"].mean(),
        lambda obs, act, info: obs.get("firm.growth", [0])[0],
        lambda obs, act, info: obs.get("nobody", [0])[0],
        lambda obs, act, info: -sum(abs(v.mean()) for v in obs.values()) + 1.0,
    ],
)
def test_rewards_as_people_write_them_pay_the_same_everywhere(reward_fn):
    seen = ["firm.growth", "person.stress"]
    env = world().to_openenv(
        seen, ["person.focus"], reward_fn, lambda obs, step, info: step >= 3, max_steps=9, n_denoise_steps=2
    )
    many = world().to_vector_env(2, seen, ["person.focus"], reward_fn, n_denoise_steps=2)
    env.reset(seed=0), many.reset(seed=0)
    for step in range(1, 4):
        observation, reward, terminated, truncated, info = env.step([0.3])
        assert info["step"] == step
        assert np.array_equal(np.concatenate([*info["obs_dict"].values()]), observation)
        assert {*info["predictions"]} == {*world().bound}
        np.testing.assert_allclose(reward, reward_fn(info["obs_dict"], None, info), rtol=1e-5)
        np.testing.assert_allclose(many.step(torch.full((2, 1), 0.3))[1][0], reward, rtol=1e-4, atol=1e-5)
        assert (terminated, truncated) == (step == 3, False)


def test_a_reward_that_remembers_does_so_for_its_agent_alone():
    def reward_fn(obs, act, info, last):
        return act.sum() + 0.5 * last, act.sum() + 0.5 * last

    agents = {
        "plain": capital(),
        "stateful": AgentSpec(["regime"], ["person.focus"], reward_fn, reward_state=torch.tensor(0.0)),
    }
    env = world().to_multi_vector_env(agents, 2, max_steps=2, seed=0)
    env.reset()
    push = {"plain": torch.full((2, 2), 0.25), "stateful": torch.full((2, 1), 0.5)}
    paid = [env.step(push) for _ in range(3)]
    assert [td["plain", "reward"].tolist() for td in paid] == [[0.5] * 2] * 3
    assert [td["stateful", "reward"].tolist() for td in paid] == [[0.5] * 2, [0.75] * 2, [0.5] * 2]


def test_all_kinds_pickle_in_the_middle_of_an_episode():
    for made in (
        world().to_multi_vector_env(AGENTS, 2, max_steps=6),
        world().to_vector_env(2, perspectives=AGENTS, max_steps=6),
        world().to_multi_openenv(AGENTS, 6, 2),
    ):
        made.reset(seed=0)
        batched = hasattr(made, "num_envs")
        actions = made.sample_actions() if batched else {n: made.action_space(n).sample() for n in made.agents}
        made.step(actions)
        other = cloudpickle.loads(cloudpickle.dumps(made))
        for one, two in zip(leaves(made.step(actions)), leaves(other.step(actions)), strict=True):
            assert np.array_equal(one, two)


def leaves(shown):
    """The numbers of what a step gave, infos left out."""
    shown = shown if isinstance(shown, TensorDict) else dict(enumerate(shown[:4]))
    found = []
    for value in shown.values():
        found += (
            leaves(value) if isinstance(value, TensorDict) else value.values() if isinstance(value, dict) else [value]
        )
    return [np.asarray(value) for value in found]


# -- the Gymnasium face --------------------------------------------------------------------------------------------


def test_the_gymnasium_face_speaks_gymnasium():
    env = world().to_vector_env(3, perspectives=AGENTS, max_steps=4, seed=0, render_mode="rgb_array")
    observation, info = env.reset(seed=[5, 6, 7], options={})
    shown = {name: value.numpy() for name, value in observation.items()}
    assert env.observation_space.contains(shown)
    assert info["active"].tolist() == [[True] * 3] * 3
    assert {*env.action_space.sample()} == {*AGENTS}
    for _ in range(4):
        observation, *_, info = env.step(env.action_space.sample())
    assert info["_final_obs"].all()
    assert info["_episode"].all()
    assert info["episode"]["r"].shape == (3, 3)
    final = info["final_info"]["ceo"]["obs_dict"]["firm.revenue"]
    assert torch.equal(final, info["final_obs"]["ceo"][:, :1])
    assert torch.equal(info["ceo"]["obs_dict"]["firm.revenue"], observation["ceo"][:, :1])
    assert info["active"].all()
    before = env.state()
    env.reset(options={"reset_mask": np.array([True, False, False])})
    assert env.state().episode.tolist() == (before.episode + torch.tensor([1, 0, 0])).tolist()
    frames = env.render()
    assert len(frames) == 3
    assert frames[0].dtype == np.uint8
    assert torch.equal(env.set_state(before)["ceo"], observation["ceo"])
    with pytest.raises(ValueError, match="unknown options"):
        env.reset(options={"options": 1})


# -- fields that several act on ------------------------------------------------------------------------------------


def test_shared_fields_become_what_the_rule_says():
    agents = {"one": capital("firm.capital", "firm.capital"), "two": capital("firm.capital", "firm.capital")}
    given = {"one": torch.tensor([[0.6, -0.2]]), "two": torch.tensor([[0.2, 0.4]])}
    for combine, expected in [("sum", [0.8, 0.2]), ("mean", [0.4, 0.1]), ("last", [0.2, 0.4])]:
        for rule in (combine, {"firm.capital": combine}):
            env = world().to_multi_vector_env(agents, combine=rule, act_mode="hold", seed=0)
            env.reset()
            held = env.step(given)["one", "observation"]
            torch.testing.assert_close(held, torch.tensor([expected]))


def test_kernels_that_know_no_rules_are_left_out(pendulum):
    agents = {name: AgentSpec(["observation"], ["action"], None) for name in ("one", "two")}
    on_meta = deepcopy(pendulum).to("meta")
    for names, combine in ((["one"], None), (["one", "two"], "sum")):
        some = {name: agents[name] for name in names}
        env = on_meta.to_multi_vector_env(some, 4, backend="triton", combine=combine, seed=0)
        env.reset()
        assert env.step(env.sample_actions())["one", "reward"].shape == (4,)
        assert (env.engine.world.fused is None) == (len(names) > 1)


def test_the_mean_of_two_is_the_action_of_one(pendulum):
    agents = {name: AgentSpec(["observation"], ["action"], None) for name in ("one", "two")}
    env = pendulum.to_multi_vector_env(agents, 3, combine="mean", seed=0, n_denoise_steps=1)
    single = pendulum.to_vector_env(
        3, ["observation"], ["action"], act_low=-1.0, act_high=1.0, seed=0, n_denoise_steps=1
    )
    env.reset(), single.reset()
    push = torch.tensor([[0.5], [-0.25], [1.0]])
    shown, expected = env.step({"one": push + 0.125, "two": push - 0.125}), single.step(push)
    first = slice(0, 2)  # where neither is clipped
    assert torch.equal(shown["two", "observation"][first], expected[0][first])
    assert torch.equal(shown["one", "reward"][first], expected[1][first])


# -- bad input -----------------------------------------------------------------------------------------------------

PAID = AGENTS["ceo"].reward_fn


@pytest.mark.parametrize(
    ("agents", "options", "error", "words"),
    [
        ({}, {}, ValueError, "give at least one"),
        ([AGENTS["ceo"]], {}, TypeError, "agents must be a Mapping"),
        ({"ceo": {"obs_fields": ["slow"]}}, {}, TypeError, r"agents\['ceo'\] must be a AgentSpec"),
        ({3: AGENTS["ceo"]}, {}, TypeError, "name must be a str"),
        ({"reward": AGENTS["ceo"]}, {}, ValueError, "'reward' can be no agent's name"),
        (
            {"ceo": AgentSpec(["firm.revenu"], ["slow"], PAID)},
            {},
            UnknownFieldError,
            r"\['ceo'\].*Closest: firm.revenue",
        ),
        ({"ceo": AgentSpec(["slow"], ["firm.capitl"], PAID)}, {}, UnknownFieldError, "Closest: firm.capital"),
        ({"ceo": AgentSpec(["slow"], ["slow"], None)}, {}, SchemaError, r"\['ceo'\].*no learned reward"),
        ({"a": capital(), "b": capital()}, {}, SchemaError, "Agents 'a', 'b' all act on 'firm.capital'"),
        ({"a": capital(), "b": capital()}, {"combine": {}}, SchemaError, "all act on"),
        ({"a": capital(), "b": capital()}, {"combine": {"firm.captal": "sum"}}, UnknownFieldError, "firm.capital"),
        ({"a": capital()}, {"combine": "max"}, SchemaError, "'sum', 'mean' or 'last'"),
        (dict.fromkeys("ab", capital("person.mood")), {"combine": "mean"}, SchemaError, "holds classes"),
        ({"a": capital(act_low={"slow": 1.0})}, {}, SchemaError, r"act_low takes.*firm.capital"),
        ({"a": capital(act_low={"firm.capitl": 1.0})}, {}, UnknownFieldError, "Closest: firm.capital"),
        ({"a": capital(act_high={"firm.capital": [1.0]})}, {}, SchemaError, r"act_high\['firm.capital'\].*2 of them"),
        ({"a": capital(act_high=-2.0)}, {}, SchemaError, "act_low must be below act_high"),
        ({"a": capital(act_low=4.0, act_high=5.0)}, {}, SchemaError, "within the fields' bounds"),
        ({"a": capital()}, {"max_stps": 3}, TypeError, "Did you mean max_steps"),
        ({"a": capital()}, {"max_steps": 3, "max_episode_steps": 4}, ValueError, "give max_steps alone"),
    ],
)
def test_what_cannot_be_is_refused(agents, options, error, words):
    with pytest.raises(error, match=words):
        world().to_multi_vector_env(agents, 2, **options)
    if "max_steps" not in options and "max_stps" not in options:
        with pytest.raises(error, match=words):
            world().to_vector_env(2, perspectives=agents, **options)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"obs_fields": "slow", "act_fields": ["slow"], "reward_fn": PAID}, SchemaError),
        ({"obs_fields": ["slow"], "act_fields": [], "reward_fn": PAID}, SchemaError),
        ({"obs_fields": ["slow"], "act_fields": ["slow"], "reward_fn": 3}, TypeError),
        ({"obs_fields": ["slow"], "act_fields": ["slow"], "reward_fn": PAID, "reward_state": 0.0}, TypeError),
    ],
)
def test_a_spec_says_at_once_what_is_wrong(arguments, error):
    with pytest.raises(error, match="AgentSpec"):
        AgentSpec(**arguments)


@pytest.mark.parametrize(
    ("reward_fn", "words"),
    [
        (lambda obs, act, info: obs["firm.growth"], r"reward_fn of 'ceo' must return one number.*\(2,\)"),
        (lambda obs, act, info: "much", "reward_fn of 'ceo' must return one number per env, got str"),
    ],
)
def test_a_reward_of_another_shape_names_its_agent(reward_fn, words):
    agents = {"employee": AGENTS["employee"], "ceo": AgentSpec(["firm.growth"], ["firm.capital"], reward_fn)}
    with pytest.raises((TypeError, ValueError), match=words):
        world().to_multi_vector_env(agents)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda actions: actions.pop("ceo"), r"there is none for \['ceo'\]"),
        (lambda actions: actions.update(chef=actions["ceo"]), "'chef' does not act"),
        (lambda actions: actions.update(ceoo=actions.pop("ceo")), r"'ceoo' does not act \(closest: 'ceo'\)"),
        (lambda actions: actions.update(ceo=torch.zeros(2, 3)), r"agent 'ceo': .* must have shape \(2, 2\)"),
        (lambda actions: actions.update(ceo=np.full((2, 2), np.nan)), "agent 'ceo': .* finite"),
    ],
)
def test_actions_that_do_not_fit_say_whose_they_are(change, words):
    for env in (world().to_multi_vector_env(AGENTS, 2), world().to_vector_env(2, perspectives=AGENTS)):
        env.reset(seed=0)
        actions = env.sample_actions()
        change(actions)
        with pytest.raises(ValueError, match=words):
            env.step(actions)


def test_one_agents_arguments_do_not_go_with_several():
    with pytest.raises(ValueError, match="into each AgentSpec"):
        world().to_vector_env(2, ["slow"], perspectives=AGENTS)
    with pytest.raises(TypeError, match="act_low"):
        world().to_vector_env(2, perspectives=AGENTS, act_low=0.0)
    with pytest.raises(ValueError, match="combine is for"):
        world().to_vector_env(2, ["slow"], ["slow"], PAID, combine="sum")


# -- bounds and warnings -------------------------------------------------------------------------------------------


def test_bounds_of_actions_go_by_field():
    acted = ["firm.capital", "person.focus", "regime"]
    env = world().to_env(
        ["slow"], acted, lambda obs, act, info: act[0],
        act_low={"firm.capital": np.array([-0.5, -2.0]), "regime": -4}, act_high={"regime": (5.0, 6.0)},
    )  # fmt: skip
    assert env.action_space.low.tolist() == [-0.5, -2.0, 0.0, -4.0, -4.0]
    assert env.action_space.high.tolist() == [3.0, 3.0, 1.0, 5.0, 6.0]
    env.reset(seed=0)
    assert env.step(np.full(5, -9.0, np.float32))[1] == -0.5


@pytest.mark.parametrize("act_mode", ["set", "hold"])
def test_what_is_done_keeps_a_field_within_its_bounds(act_mode):
    """Also where the bounds of actions are wider, or several agents' sum is, and the field rests for a while."""
    made = WorldModel(compile_schema({"slow": Field(low=0.0, high=1.0, period=4)}, d_model=32))
    made.trained = True
    pushed = AgentSpec(["slow"], ["slow"], lambda obs, act, info: act.sum())
    envs = made.to_multi_vector_env({"one": pushed, "two": pushed}, 3, combine="sum", act_mode=act_mode, seed=0)
    envs.reset()
    for push, expected in ((-0.5, 0.0), (0.25, 0.5), (0.75, 1.0)):
        seen = envs.step({name: torch.full((3, 1), push) for name in envs.agents})
        assert seen["one", "observation"].tolist() == [[expected]] * 3
    env = made.to_openenv(["slow"], ["slow"], pushed.reward_fn)
    env.reset(seed=0)
    assert env.action_space.low == -1.0
    seen, reward, *_ = env.step([-1.0])
    assert (seen, reward) == (0.0, 0.0), "the reward sees what the world does"


def still(**settings):
    fields = {
        "fast": Field(period=10),
        "slow": Field(period=30),
        "acted": Field(period=30),
        "push": Field(is_output=False),
        "given": Field(is_output=False),
    }
    made = WorldModel(
        compile_schema(fields, d_model=32), config=ModelConfig(num_blocks=1, n_denoise_steps=1, **settings)
    )
    made.trained = True
    return made


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught], {w.filename for w in caught}


@pytest.mark.parametrize(
    ("seen", "horizon", "ticks", "warns"),
    [
        (["slow", "acted"], 9, 1, False),
        (["slow"], 29, 1, True),
        (["slow"], 30, 1, False),
        (["slow", "fast"], 9, 1, True),
        (["slow", "fast"], 10, 1, False),
        (["slow", "given"], 9, 3, True),
        (["slow"], 10, 3, False),
        (["given"], 2, 1, False),
        (["slow"], None, 1, False),
    ],
)
def test_who_sees_nothing_move_is_told_so(seen, horizon, ticks, warns):
    made, spec = still(ticks_per_step=ticks), AgentSpec(seen, ["push", "acted"], lambda obs, act, info: act.sum())
    for call in (
        lambda: made.to_openenv(seen, spec.act_fields, spec.reward_fn, max_steps=horizon),
        lambda: made.to_vector_env(2, seen, spec.act_fields, spec.reward_fn, max_steps=horizon),
        lambda: made.to_multi_vector_env({"me": spec}, 2, horizon),
        lambda: made.to_multi_openenv({"me": spec}, horizon),
    ):
        words, files = said(call)
        assert len(words) == warns
        assert not warns or "stands still" in words[0]
        assert not warns or f"ticks_per_step={10 if 'fast' in seen else 30}" in words[0]
        assert not warns or files == {__file__}


@pytest.mark.parametrize("call", ["to_env", "to_openenv", "to_vector_env", "to_multi_vector_env", "to_multi_openenv"])
def test_the_warning_of_an_untrained_world_points_at_who_made_the_env(call):
    made, one = still(), {"obs_fields": ["fast"], "act_fields": ["push"], "reward_fn": lambda obs, act, info: act.sum()}
    made.trained = False
    words, files = said(
        lambda: getattr(made, call)(**({"agents": {"me": AgentSpec(**one)}} if "multi" in call else one))
    )
    assert len(words) == 1
    assert "untrained" in words[0]
    assert files == {__file__}


def test_who_sees_what_no_data_covered_is_told_so():
    made = still()
    made.coverage = {"fast": 0.0, "slow": 0.4}
    words, _ = said(lambda: made.to_env(["fast", "slow"], ["push"], lambda obs, act, info: act.sum()))
    assert len(words) == 1
    assert "No data covered fast, which the agent observes" in words[0]
