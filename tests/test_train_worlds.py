"""The script that makes the bundled worlds, at small size."""

from dataclasses import replace

import pytest

from benchmarks.train_worlds import RECIPES, make_world
from wm_vec.envs.registration import BUNDLED


def test_every_bundled_world_has_a_recipe():
    assert RECIPES.keys() == BUNDLED.keys()


@pytest.mark.parametrize(("env_id", "turns"), [("FrozenLake-v1", 0), ("CartPole-v1", 2)])
def test_a_recipe_makes_a_world(env_id, turns, capsys):
    recipe = RECIPES[env_id]
    assert recipe.turns == turns
    ppo = replace(recipe.ppo, total_steps=256, minibatch_size=128)
    small = replace(recipe, random_steps=300, world_steps=3, scout_steps=3, policy_steps=60, num_envs=8, ppo=ppo)
    world = make_world(env_id, small)
    assert world.trained
    assert world.signature.env_id == env_id
    assert capsys.readouterr().out.count("mean real return") == turns
