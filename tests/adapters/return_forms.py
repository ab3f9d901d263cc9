"""What resets and transitions may return, as cases: the tests run them, and the page in docs/ is made of them.

A case is the expression of what comes back, and how it is read. The world is so small that a person can follow it: a
state of two numbers starts at (1, 2), the action 0.5 is added to both at every step, and the observation is ten times
the state. Where a form has no state, the observation is the state, and the next step starts from ten times as much.

    python -m tests.adapters.return_forms    writes docs/return-forms.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import Space, spaces
from tensordict import TensorDict
from torch import Tensor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "return-forms.md"


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-1e4, 1e4, shape, np.float32)


SPACES: dict[str, Space] = {
    "Box": _box(2),
    "Dict(place, sum)": spaces.Dict(place=_box(2), sum=_box()),
    "Dict(observation, state)": spaces.Dict(observation=_box(2), state=_box(2)),
    "Dict(image)": spaces.Dict(image=_box(2)),
    "Tuple of 2": spaces.Tuple((_box(2), _box())),
    "Tuple of 3": spaces.Tuple((_box(2), _box(), _box(2))),
}
OBSERVATIONS: dict[str, Callable[[Tensor], Any]] = {
    "Box": lambda place: 10 * place,
    "Dict(place, sum)": lambda place: {"place": 10 * place, "sum": place.sum(-1)},
    "Dict(observation, state)": lambda place: {"observation": 10 * place, "state": -place},
    "Dict(image)": lambda place: {"image": 10 * place},
    "Tuple of 2": lambda place: (10 * place, place.sum(-1)),
    "Tuple of 3": lambda place: (10 * place, place.sum(-1), -place),
}
"""What one sees at a place, by space."""


@dataclass(frozen=True)
class Case:
    """One thing that a callable may return.

    Attributes:
        returns: Its expression, of the names ``state``, ``obs``, ``info``, and of a transition also ``reward``,
            ``ended``, ``cut``.
        state: What is taken for the state.
        info: Whether ``info`` is taken for the info.
        reward: Where the reward comes from.
        terminated: Where the termination comes from.
        truncated: Whether ``cut`` is taken for the truncation.
        why: What decides, where something else could be meant.
        space: The observation space, of `SPACES`.
        callables: Which of ``reward_fn`` and ``terminal_fn`` there are.
    """

    returns: str
    state: Literal["state", "obs"]
    info: bool = False
    reward: Literal["reward", "reward_fn", "0.0"] = "reward"
    terminated: Literal["ended", "terminal_fn", "False"] = "ended"
    truncated: bool = False
    why: str = ""
    space: str = "Box"
    callables: tuple[str, ...] = ()

    def __str__(self) -> str:
        with_callables = f" with {' and '.join(self.callables)}" if self.callables else ""
        return f"{self.space}: {self.returns}{with_callables}"


RESETS = [
    # The forms.
    Case("obs", "obs"),
    Case("(obs, info)", "obs", info=True),
    Case("(state, obs)", "state"),
    Case("(state, obs, info)", "state", info=True),
    Case('{"state": state, "observation": obs, "info": info}', "state", info=True),
    # Aliases, and what may be left out.
    Case('{"state": state, "obs": obs}', "state"),
    Case('{"state": state, "image": obs}', "state"),
    Case('{"state": state, "pixels": obs}', "state"),
    Case('{"next_state": state, "next_observation": obs}', "state"),
    Case('{"observation": obs}', "obs"),
    Case('{"obs": obs, "info": info}', "obs", info=True),
    Case('{"state": state, "observation": obs, "source": 3}', "state", info=True, why="further keys are info"),
    Case("(obs, None)", "obs", why="None is an empty info"),
    Case("(state, obs, None)", "state", why="None is an empty info"),
    # Two parts, or a mapping: the space decides.
    Case("obs", "obs", space="Dict(place, sum)", why="the mapping has the space's keys"),
    Case("(obs, info)", "obs", info=True, space="Dict(place, sum)", why="the second part lacks the space's keys"),
    Case("(state, obs)", "state", space="Dict(place, sum)", why="the second part has the space's keys"),
    Case("(obs, obs)", "obs", space="Dict(place, sum)", why="the second part has the space's keys"),
    Case('{"state": state, "observation": obs}', "state", space="Dict(place, sum)"),
    Case("obs", "obs", space="Dict(observation, state)", why="the mapping has the space's keys"),
    Case(
        '{"state": state, "observation": obs}',
        "state",
        space="Dict(observation, state)",
        why="the observation inside has the space's keys",
    ),
    Case("obs", "obs", space="Dict(image)", why="the mapping has the space's keys"),
    Case('{"image": obs}', "obs", space="Dict(image)", why="the observation inside has the space's keys"),
    Case("obs", "obs", space="Tuple of 2", why="a tuple with the space's shapes is an observation"),
    Case("(obs, info)", "obs", info=True, space="Tuple of 2", why="the second part is a mapping"),
    Case("(state, obs)", "state", space="Tuple of 2", why="the second part is no mapping"),
    Case("obs", "obs", space="Tuple of 3", why="a tuple with the space's shapes is an observation"),
    Case("(state, obs, info)", "state", info=True, space="Tuple of 3", why="it has not the space's shapes"),
]

_BOTH = ("reward_fn", "terminal_fn")
TRANSITIONS = [
    # The five forms.
    Case("(obs, reward, ended, cut, info)", "obs", info=True, truncated=True),
    Case("(obs, reward, ended, info)", "obs", info=True),
    Case("(state, obs, reward)", "state", terminated="False"),
    Case("(state, obs, reward, ended, cut, info)", "state", info=True, truncated=True),
    Case(
        '{"state": state, "observation": obs, "reward": reward, "terminated": ended, "truncated": cut, "info": info}',
        "state",
        info=True,
        truncated=True,
    ),
    # Aliases.
    Case('{"next_state": state, "obs": obs, "reward": reward, "done": ended}', "state"),
    Case('{"state": state, "image": obs, "reward": reward, "done": ended, "truncated": cut}', "state", truncated=True),
    Case('{"state": state, "pixels": obs, "reward": reward, "terminated": ended}', "state"),
    Case('{"state": state, "next_obs": obs, "reward": reward}', "state", terminated="False"),
    Case(
        '{"state": obs, "next_state": state, "observation": obs, "reward": reward}',
        "state",
        terminated="False",
        why="next_state is the one after the step",
    ),
    Case(
        'TensorDict({"state": state, "observation": obs, "reward": reward, "done": ended}, reward.shape)',
        "state",
        why="a TensorDict is a mapping",
    ),
    # What is left out.
    Case("(state, obs, reward)", "state", terminated="terminal_fn", callables=_BOTH),
    Case('{"state": state, "observation": obs}', "state", reward="0.0", terminated="False"),
    Case(
        '{"state": state, "observation": obs}', "state", reward="reward_fn", terminated="terminal_fn", callables=_BOTH
    ),
    Case('{"state": state, "observation": obs, "done": ended}', "state", reward="reward_fn", callables=_BOTH),
    Case('{"observation": obs, "reward": reward}', "obs", terminated="False", why="without a state it is obs"),
    Case(
        '{"observation": obs, "reward": reward, "terminated": None}',
        "obs",
        terminated="terminal_fn",
        callables=("terminal_fn",),
        why="None counts as left out",
    ),
    Case("obs", "obs", reward="0.0", terminated="False", why="an observation alone leaves out the rest"),
    Case("obs", "obs", reward="reward_fn", terminated="terminal_fn", callables=_BOTH),
    # State and info inside one another.
    Case(
        '(obs, reward, ended, cut, {"model_state": state, "source": 3})',
        "state",
        info=True,
        truncated=True,
        why='info["model_state"] is the state',
    ),
    Case(
        '{"state": state, "observation": obs, "reward": reward, "done": ended, "source": 3}',
        "state",
        info=True,
        why="further keys are info",
    ),
    Case("(obs, reward, ended, cut, None)", "obs", truncated=True, why="None is an empty info"),
    Case("(state, obs, reward, ended)", "state", why="the last is no info, and the second is an observation"),
    # Other spaces.
    Case("(obs, reward, ended, cut, info)", "obs", info=True, truncated=True, space="Dict(place, sum)"),
    Case("(obs, reward, ended, info)", "obs", info=True, space="Dict(place, sum)"),
    Case("(state, obs, reward)", "state", terminated="False", space="Dict(place, sum)"),
    Case("(state, obs, reward, ended)", "state", space="Dict(place, sum)"),
    Case("(obs, reward, ended, None)", "obs", space="Dict(place, sum)"),
    Case("(state, obs, reward, ended)", "state", space="Tuple of 2"),
    Case("obs", "obs", reward="0.0", terminated="False", space="Dict(place, sum)"),
    Case(
        "obs",
        "obs",
        reward="0.0",
        terminated="False",
        space="Dict(observation, state)",
        why="the mapping has the space's keys",
    ),
    Case(
        '{"state": state, "observation": obs, "reward": reward}',
        "state",
        terminated="False",
        space="Dict(observation, state)",
        why="its keys are not the space's",
    ),
    Case(
        '{"state": state, "observation": obs}',
        "state",
        reward="0.0",
        terminated="False",
        space="Dict(observation, state)",
        why="the observation inside has the space's keys",
    ),
    Case("(obs, reward, ended, cut, info)", "obs", info=True, truncated=True, space="Tuple of 3"),
    Case("(state, obs, reward)", "state", terminated="False", space="Tuple of 3", why="it has not the space's shapes"),
    Case(
        "obs",
        "obs",
        reward="0.0",
        terminated="False",
        space="Tuple of 3",
        why="a tuple with the space's shapes is an observation",
    ),
]

INTRODUCTION = """# What resets and transitions may return

Made by `python -m tests.adapters.return_forms` from the cases that `tests/adapters/test_return_forms.py` runs, each in
the scalar env, which calls the model directly, and in both envs under `batching="batched"` and `"vmap"`. `state` is the
model's own, under a `batching` made of tensors; `obs` is an element of the observation space as tensors, arrays or
numbers; `info` is a mapping. Under `"batched"` all of them have a leading axis `(B, ...)`; a reset returns one env's,
unless it is marked `@wm_vec.batched`.

What decides:

- Tuples are read by their number of parts, mappings by their keys. A TensorDict is a mapping.
- Keys have aliases: `observation`, `obs`, `image`, `pixels`; `state`; `terminated`, `done`. `next_state`,
  `next_observation` and `next_obs` come before the names without `next_`. Keys that no form knows go into the info.
- What has the structure and shapes of an observation is one: a mapping with the keys of the Dict space, a tuple with
  the shapes of the Tuple space.
- A pair from a reset is `(obs, info)` if its second part is None, or a mapping without the keys of the Dict space. It
  is `(state, obs)` otherwise.
- Where no state is given, it is `info["model_state"]` of a transition, or else the observation.
- None counts as left out. Rewards left out come from `reward_fn`, else they are 0.0; terminations from `terminal_fn`,
  else they are False. A reward or flag that is returned comes before these functions.
- `max_episode_steps` truncates besides what `truncated` says.
"""


def table(cases: list[Case], transitions: bool) -> str:
    """The cases as a table in Markdown."""
    heads = ["observation space", "returned", "state"]
    heads += ["reward", "terminated", "truncated"] if transitions else []
    heads += ["info", "decided by"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for case in cases:
        returned = f"`{case.returns}`" + (
            f", with {' and '.join(f'`{c}`' for c in case.callables)}" * bool(case.callables)
        )
        cells = [case.space, returned, f"`{case.state}`"]
        if transitions:
            cells += [f"`{case.reward}`", f"`{case.terminated}`", "`cut`" if case.truncated else "`False`"]
        cells += ["given" if case.info else "empty", case.why or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page() -> str:
    """docs/return-forms.md."""
    return "\n".join(
        [
            INTRODUCTION,
            "## Resets\n",
            "`reset_fn`, or the model's `reset_env`, `reset_state` or `reset`. The observation is always `obs`.\n",
            table(RESETS, transitions=False),
            "\n## Transitions\n",
            "`transition_fn`, or the model's own method. `ended`, `cut` are flags; the observation is always `obs`.\n",
            table(TRANSITIONS, transitions=True),
            "",
        ]
    )


def place_of(state: Any) -> Tensor:
    """The two numbers of a state, which may be an observation."""
    if isinstance(state, Tensor):
        return state
    if isinstance(state, tuple):
        return state[0]
    return next(state[key] for key in ("place", "observation", "image") if key in state)


def start() -> Tensor:
    """Where episodes start."""
    return torch.tensor([1.0, 2.0])


def reset_returning(case: Case) -> Callable[..., Any]:
    """A reset that returns the case; of as many envs as it gets seeds, if these are a tensor."""
    code = compile(case.returns, str(case), "eval")

    def reset(seed: Any) -> Any:
        place = start().expand(*seed.shape, 2) if isinstance(seed, Tensor) else start()
        return eval(code, {"state": place, "obs": OBSERVATIONS[case.space](place), "info": {"source": 3}})

    return reset


def transition_returning(case: Case) -> Callable[..., Any]:
    """A transition that returns the case."""
    code = compile(case.returns, str(case), "eval")

    def transition(state: Any, action: Tensor) -> Any:
        place = place_of(state) + action
        first, second = place[..., 0], place[..., 1]
        names = {
            "TensorDict": TensorDict,
            "state": place,
            "obs": OBSERVATIONS[case.space](place),
            "reward": place.sum(-1),
            "ended": (first == 2.0) | (first == 15.5),
            "cut": (second == 3.5) | (second == 255.5),
            "info": {"source": 3},
        }
        return eval(code, names)

    return transition


if __name__ == "__main__":
    PAGE.write_text(page())
