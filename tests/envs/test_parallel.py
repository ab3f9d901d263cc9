"""One env of several agents: PettingZoo's own tests, the numbers of the batched envs, and how its parts answer."""

import builtins
import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
from pettingzoo import ParallelEnv
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, state_test
from pettingzoo.utils import parallel_to_aec

from tests.envs.agents import AGENTS, capital, world
from wm_vec import AgentSpec


def env_of(agents=AGENTS, max_steps=6, **options):
    return world().to_multi_openenv(agents, max_steps, 2, **options)


@pytest.mark.filterwarnings("ignore:Environment's (minimum|maximum) state space value is")  # fields without bounds
def test_pettingzoos_tests_pass(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Environment's m")
        parallel_api_test(env_of(), num_cycles=30)
        parallel_seed_test(env_of, num_cycles=20)
        state_test(parallel_to_aec(env_of()), env_of())
    api_test(parallel_to_aec(env_of()), num_cycles=20)
    render_test(lambda render_mode: parallel_to_aec(env_of(render_mode=render_mode)))
    assert "firm.revenue" in capsys.readouterr().out


def test_the_documented_use():
    multi = world().to_multi_openenv(agents=AGENTS, max_steps=200, n_denoise_steps=2)
    assert isinstance(multi, ParallelEnv)
    obs = multi.reset()
    actions = {name: multi.action_spaces[name].sample() for name in multi.agents}
    seen, rewards, terms, truncs, infos = multi.step(actions)
    for told in (seen, rewards, terms, truncs, infos):
        assert [*told] == [*AGENTS]
    assert isinstance(rewards["ceo"], float)
    assert terms["ceo"] is truncs["ceo"] is False
    assert infos["ceo"]["step"] == 1
    assert np.array_equal(infos["ceo"]["obs_dict"]["firm.growth"], seen["ceo"][1:])
    assert {*infos["employee"]["predictions"]} == {*world().bound}
    assert infos["ceo"]["obs_dict"]["firm.growth"].dtype == np.float32
    np.testing.assert_allclose(rewards["ceo"], seen["ceo"][1])
    # What reset gives is a tuple, and answers as the observations do.
    first, info = obs
    assert len(obs) == 2
    assert obs[0] is first
    assert obs[-1] is info
    assert obs["ceo"] is first["ceo"]
    assert "ceo" in obs
    assert "chef" not in obs
    assert [*obs.keys()] == [*obs.get("nobody", AGENTS)] == [*AGENTS]
    assert [name for name, _ in obs.items()] == [*AGENTS]
    assert len([*obs.values()]) == 3


def test_agents_are_a_list_of_names_and_know_their_specs():
    env = env_of()
    assert env.agents == env.possible_agents == [*AGENTS] == [*env.agents.keys()]
    assert env.agents["ceo"] is AGENTS["ceo"] is env.agents.get("ceo")
    assert env.agents[0] == "employee"
    assert env.agents[1:] == ["ceo", "state"]
    assert dict(env.agents.items()) == AGENTS
    assert [*env.agents.values()] == [*AGENTS.values()]
    assert env.observation_space("ceo") is env.observation_space("ceo") is env.observation_spaces["ceo"]
    assert env.action_space("ceo") is env.action_space("ceo") is env.action_spaces["ceo"]


def test_the_numbers_are_those_of_the_batched_envs():
    many = world().to_multi_vector_env(
        AGENTS, 3, max_steps=6, n_denoise_steps=2, exact_rows=True, autoreset_mode="disabled"
    )
    shown = [many.reset(seed=7)]
    actions = [many.sample_actions() for _ in range(6)]
    shown += [many.step(one) for one in actions]
    for i in range(3):
        env = env_of(exact_rows=True)
        seen, _ = env.reset(seed=7 + i)
        for step, expected in enumerate(shown):
            if step:
                live = [*env.agents]
                given = {name: actions[step - 1][name][i].numpy() for name in live}
                seen, rewards, terminated, truncated, _ = env.step(given)
                assert rewards == {name: expected[name, "reward"][i].item() for name in live}
                assert terminated == {name: expected[name, "terminated"][i].item() for name in live}
                assert truncated == {name: expected[name, "truncated"][i].item() for name in live}
            for name, value in seen.items():
                assert np.array_equal(value, expected[name, "observation"][i].numpy())
            assert np.array_equal(env.state()[:1], expected["ceo", "observation"][i, :1].numpy())
        assert not env.agents


def test_who_has_ended_is_gone_until_the_reset():
    env = env_of()
    env.reset(seed=0)
    gone = None
    while env.agents:
        live = [*env.agents]
        seen, rewards, terminated, truncated, infos = env.step({n: env.action_space(n).sample() for n in live})
        assert [*seen] == [*rewards] == [*infos] == live
        assert env.agents == [n for n in live if not (terminated[n] or truncated[n])]
        if "employee" not in env.agents and gone is None:
            gone = [*env.agents]
            with pytest.raises(ValueError, match="'employee' does not act"):
                env.step({name: env.action_space(name).sample() for name in AGENTS})
    assert gone == ["ceo", "state"]
    assert truncated == {"ceo": True, "state": True}
    with pytest.raises(RuntimeError, match="Call reset"):
        env.step({})
    env.reset()
    assert env.agents == [*AGENTS]


def test_fields_that_several_act_on():
    agents = {"one": capital("firm.capital", "firm.capital"), "two": capital("firm.capital", "firm.capital")}
    env = env_of(agents, combine="last", act_mode="hold")
    env.reset(seed=0)
    seen, *_ = env.step({"one": np.array([0.5, 0.5]), "two": np.array([0.25, -2.0])})
    assert seen["one"].tolist() == [0.25, -1.0]


def test_starts_of_ones_own():
    env = env_of(initial_obs_fn=lambda: {"firm.revenue": 2.5})
    assert {env.reset(seed=seed)["ceo"][0] for seed in range(3)} == {2.5}


def test_a_world_that_breaks_down_ends_for_all():
    def reward_fn(obs, act, info):
        return torch.where(act[0] > 0.5, torch.nan, act[0])

    env = env_of({"one": AgentSpec(["firm.revenue"], ["person.focus"], reward_fn), "two": AGENTS["ceo"]})
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="broke down"):
        _, rewards, terminated, _, infos = env.step({"one": np.ones(1), "two": np.zeros(2)})
    assert rewards == {"one": 0.0, "two": 0.0}
    assert terminated == {"one": True, "two": True}
    assert infos["two"]["diverged"] is True


def test_actions_that_do_not_fit_say_whose_they_are():
    env = env_of()
    env.reset(seed=0)
    good = {name: env.action_space(name).sample() for name in env.agents}
    for bad in ([0.0], [np.nan, 0.0]):
        with pytest.raises(ValueError, match="agent 'ceo': the action must be"):
            env.step({**good, "ceo": bad})


@pytest.mark.parametrize("call", ["step", "state", "render"])
def test_before_the_first_reset_it_says_so(call):
    env = env_of(render_mode="human")
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        getattr(env, call)(*([{}] if call == "step" else []))


def test_without_pettingzoo_it_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "pettingzoo":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "wm_vec.envs.parallel")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'wm_vec\[pettingzoo\]'"):
        importlib.import_module("wm_vec.envs.parallel")


def test_another_render_mode_is_refused():
    with pytest.raises(ValueError, match="render_mode must be None, 'rgb_array' or 'human'"):
        env_of(render_mode="ansi")
