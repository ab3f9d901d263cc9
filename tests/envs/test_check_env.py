"""Gymnasium's and Stable-Baselines3's checkers on every kind of environment that we make.

They warn of some spaces whatever environment has them. `UNAVOIDABLE` lists those spaces and warnings; that they are
unavoidable is shown on a plain environment, written by hand, with the same spaces.
"""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from gymnasium.utils.env_checker import check_env

from tests.envs.makers import MAKERS

sb3 = pytest.importorskip("stable_baselines3.common.env_checker")

INF = np.inf
STATE = Box(-1.0, 1.0, (3,), np.float32)
ACTION = Box(-1.0, 1.0, (2,), np.float32)


class Kind(NamedTuple):
    """Spaces that checkers warn of.

    Attributes:
        observation_space, action_space: An example.
        warnings: A pattern for each warning.
        refused: What Stable-Baselines3's checker raises, if it takes no environment with such a space.
    """

    observation_space: Space
    action_space: Space
    warnings: set[str]
    refused: str | None = None


UNAVOIDABLE = {
    # Gymnasium
    "observation without a lower bound": Kind(
        Box(-INF, 1.0, (3,), np.float32), ACTION, {"Box observation space minimum value is -infinity"}
    ),
    "observation without an upper bound": Kind(
        Box(-1.0, INF, (3,), np.float32), ACTION, {"Box observation space maximum value is infinity"}
    ),
    "actions without bounds": Kind(
        STATE,
        Box(-INF, INF, (2,), np.float32),
        {
            "Box action space minimum value is -infinity",
            "Box action space maximum value is infinity",
            r"we recommend using a symmetric and normalized space \(range=\[-1, 1\] or \[0, 1\]\)",
            "use a symmetric and normalized Box action space",
        },
        refused="Continuous action space must have a finite lower and upper bound",
    ),
    "actions beyond -1 and 1": Kind(
        STATE,
        Box(-2.0, 2.0, (1,), np.float32),
        {
            r"we recommend using a symmetric and normalized space \(range=\[-1, 1\] or \[0, 1\]\)",
            "use a symmetric and normalized Box action space",
        },
    ),
    # Stable-Baselines3 alone
    "actions between 0 and 1": Kind(
        STATE, Box(0.0, 1.0, (1,), np.float32), {"use a symmetric and normalized Box action space"}
    ),
    "float64 actions": Kind(STATE, Box(-1.0, 1.0, (1,), np.float64), {"Your action space has dtype float64"}),
    "actions of a Dict or Tuple": Kind(STATE, Dict(a=ACTION), {"The action space is not based off a numpy array"}),
    "Discrete actions that start elsewhere": Kind(
        STATE, Discrete(2, start=1), {"Discrete action space .* with a non-zero start"}
    ),
    "Discrete observations that start elsewhere": Kind(
        Discrete(2, start=1), ACTION, {"Discrete observation space .* with a non-zero start"}
    ),
    "MultiDiscrete actions of several axes": Kind(
        STATE, MultiDiscrete([[2, 3], [2, 3]]), {"MultiDiscrete action space uses a multidimensional array"}
    ),
    "MultiDiscrete observations of several axes": Kind(
        MultiDiscrete([[2, 3], [2, 3]]), ACTION, {"MultiDiscrete observation space uses a multidimensional array"}
    ),
    "observations of two axes": Kind(
        Box(-1.0, 1.0, (2, 2), np.float32), ACTION, {"Your observation .* has an unconventional shape"}
    ),
    "observations of no axis": Kind(
        Box(-1.0, 1.0, (), np.float32),
        ACTION,
        {"Your observation .* has an unconventional shape"},
        refused="0d arrays",
    ),
    "small images": Kind(Box(0, 255, (3, 8, 8), np.uint8), ACTION, {"minimal resolution for an image is 36x36"}),
    "images that are not uint8": Kind(
        Box(0.0, 1.0, (3, 64, 64), np.float32),
        ACTION,
        {r"its `dtype` is \(float32\) whereas it has to be `np.uint8`", r"bounds are not in \[0, 255\]"},
    ),
    "Dict in a Dict": Kind(Dict(a=Dict(b=STATE)), ACTION, {"Nested observation spaces are not supported"}),
    "Tuple observations": Kind(Tuple((STATE, Discrete(2))), ACTION, {"The observation space is a Tuple"}),
}
"""Kind of spaces -> what checkers say of them, whatever the environment."""

UNREGISTERED = "Not able to test alternative render modes due to the environment not having a spec"
"""Gymnasium says this of every environment that was not made by ``gym.make``."""


class Plain(gym.Env):
    """An environment that does nothing wrong, of any spaces."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def observe(self):
        self.observation_space.seed(7)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        return self.observe(), 0.0, False, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def checked(env, refused=None) -> set[str]:
    """What both checkers warn of; `refused` says what Stable-Baselines3's raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
        if refused is None:
            sb3.check_env(env)
        else:
            with pytest.raises((AssertionError, ValueError), match=refused):
                sb3.check_env(env)
    return {str(warning.message) for warning in caught}


def differences(messages, patterns) -> list[str]:
    """Warnings that no pattern explains, and patterns that explain none."""
    unexplained = [m for m in messages if not any(re.search(p, m, re.DOTALL) for p in patterns)]
    return unexplained + [p for p in patterns if not any(re.search(p, m, re.DOTALL) for m in messages)]


@pytest.mark.parametrize("kind", UNAVOIDABLE)
def test_a_plain_environment_of_such_spaces_gets_these_warnings_and_no_other(kind):
    observation_space, action_space, expected, refused = UNAVOIDABLE[kind]
    assert differences(checked(Plain(observation_space, action_space), refused), {*expected, UNREGISTERED}) == []


@pytest.mark.parametrize(
    "spaces",
    [
        (STATE, ACTION),
        (Discrete(3), Discrete(2)),
        (MultiDiscrete([2, 3]), MultiDiscrete([2, 3])),
        (Box(0, 255, (3, 64, 64), np.uint8), ACTION),
        (Dict(state=STATE, image=Box(0, 255, (3, 64, 64), np.uint8)), Discrete(2)),
    ],
)
def test_a_plain_environment_of_ordinary_spaces_gets_none(spaces):
    assert differences(checked(Plain(*spaces)), {UNREGISTERED}) == []


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.name)
def test_ours_pass_with_the_warnings_of_their_kinds_alone(maker):
    kinds = [UNAVOIDABLE[kind] for kind in maker.kinds]
    expected = {UNREGISTERED}.union(*(kind.warnings for kind in kinds))
    refused = next((kind.refused for kind in kinds if kind.refused), None)
    env = maker.scalar(render_mode="rgb_array")
    messages = checked(env, refused)
    assert differences(messages, expected) == []
    assert messages == checked(Plain(env.observation_space, env.action_space), refused)


def test_the_checkers_see_what_is_wrong(monkeypatch):
    env = MAKERS[0].scalar()
    step = env.step

    def outside(action):
        observation, *rest = step(action)
        return (observation + 100.0, *rest)

    monkeypatch.setattr(env, "step", outside)
    with pytest.raises(AssertionError, match="observation"):
        checked(env)


def test_a_warning_that_no_kind_explains_is_reported():
    messages = checked(Plain(UNAVOIDABLE["small images"].observation_space, ACTION))
    assert len(differences(messages, {UNREGISTERED})) == 1
    assert differences(messages, {UNREGISTERED, "minimal resolution", "of nothing"}) == ["of nothing"]
