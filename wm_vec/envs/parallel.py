"""The PettingZoo face: one imagined env of several agents, NumPy in and out."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, KeysView, Mapping, ValuesView
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from tensordict import TensorDictBase
from torch import Tensor

from wm_vec.core import Engine
from wm_vec.core.actions import check_names
from wm_vec.core.state import warn_of_divergence
from wm_vec.envs.agent_spaces import spaces_by_agent
from wm_vec.envs.fork_warning import warn_if_forked
from wm_vec.envs.numpy_io import ActionTensor, element_of
from wm_vec.envs.transfer import Packed
from wm_vec.envs.view import check_one_env, named_arrays, packable, scalar_info
from wm_vec.render.frames import FramePainter
from wm_vec.render.table import ValueTable

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise ImportError(
        "WorldModelParallelEnv needs PettingZoo, which cannot be imported: pip install 'wm_vec[pettingzoo]'"
    ) from error


class ResetResult(tuple):
    """``(observations, infos)``, which also answers by name as the observations do: ``[name]``, ``in``, ``get``, ..."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(0)[key] if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self[0]

    def keys(self) -> KeysView[str]:
        """The agents' names."""
        return self[0].keys()

    def values(self) -> ValuesView[np.ndarray]:
        """Their observations."""
        return self[0].values()

    def items(self) -> ItemsView[str, np.ndarray]:
        """Names and observations."""
        return self[0].items()

    def get(self, name: str, default: Any = None) -> Any:
        """An agent's observation."""
        return self[0].get(name, default)


class AgentList(list):
    """Names of agents, which also answers as a mapping from them to their specs.

    Args:
        names: The names.
        specs: What each agent was made from.
    """

    def __init__(self, names: Iterable[str], specs: Mapping[str, Any]) -> None:
        super().__init__(names)
        self._specs = {name: specs[name] for name in self}

    def __getitem__(self, key: Any) -> Any:
        return self._specs[key] if isinstance(key, str) else super().__getitem__(key)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._specs.keys()

    def values(self) -> ValuesView[Any]:
        """The specs."""
        return self._specs.values()

    def items(self) -> ItemsView[str, Any]:
        """Names and specs."""
        return self._specs.items()

    def get(self, name: str, default: Any = None) -> Any:
        """An agent's spec."""
        return self._specs.get(name, default)


class WorldModelParallelEnv(ParallelEnv):
    """One imagined env of several agents as a `pettingzoo.ParallelEnv`.

    All agents act at once, and one prediction moves their world on. An agent that has ended leaves `agents` until the
    next reset; the world then moves its act fields by itself. The numbers are those of env 0 of
    `WorldModel.to_multi_vector_env` at the same seed. An agent's info holds ``step`` (also as ``elapsed_steps``) and,
    made when read, ``obs_dict``, ``predictions`` (path -> array) and ``model_state``.

    Args:
        engine: An engine of one env without autoreset.
        observation_spaces: Observations by agent.
        action_spaces: Actions by agent.
        specs: What each agent was made from, for `agents`.
        state_space: All field values of the world.
        render_mode: ``"human"`` prints a table of what the agents see at every step, ``"rgb_array"``, or None.

    Attributes:
        possible_agents: All names.
        agents: Those that act, also a mapping to their specs.
        state_space: What `state` returns.

    Raises:
        ValueError: Another engine, or another render mode.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - PettingZoo's
        "name": "wm_vec_world_v0",
        "render_modes": ["human", "rgb_array"],
        "is_parallelizable": True,
        "render_fps": 32,
    }

    def __init__(
        self,
        engine: Engine,
        observation_spaces: Mapping[str, gym.Space],
        action_spaces: Mapping[str, gym.Space],
        specs: Mapping[str, Any],
        state_space: Box,
        render_mode: str | None = None,
    ) -> None:
        spaces = spaces_by_agent(engine, observation_spaces, action_spaces, "WorldModelParallelEnv")
        check_one_env(engine, "WorldModelParallelEnv")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None, 'rgb_array' or 'human', got {render_mode!r}.")
        self.engine, self.render_mode = engine, render_mode
        self._perspectives = {p.name: p for p in engine.perspectives}
        self._specs = dict(specs)
        self.possible_agents = [*self._perspectives]
        self.agents = AgentList(self.possible_agents, self._specs)
        self.observation_spaces, self.action_spaces = spaces
        self._actions = {
            name: ActionTensor(space, self._perspectives[name].action, engine, f"step: agent {name!r}")
            for name, space in self.action_spaces.items()
        }
        # What stands for the actions of agents that act no more.
        self._idle = dict(zip(self.possible_agents, engine.world.actions.middle(1), strict=True))
        self.state_space = state_space
        self._painter: FramePainter | None = None
        self._table = ValueTable({path: unit for p in engine.perspectives for path, unit in p.units.items()})
        self._state: TensorDictBase | None = None
        self._elapsed = 0

    def observation_space(self, agent: str) -> gym.Space:
        """An agent's observations, the same object at each call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space:
        """An agent's actions, the same object at each call."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> ResetResult:
        """Start an episode with all agents.

        Args:
            seed: The first episode of this seed; None for the next one of the seed in use.
            options: PettingZoo's; they change nothing.

        Returns:
            Observations and infos by agent. What is returned also answers as the observations do.
        """
        warn_if_forked()
        observation = self.engine.reset(seed)
        self._state, self._elapsed = self.engine.model_state(), 0
        self.agents = AgentList(self.possible_agents, self._specs)
        seen = {name: element_of(value, self.observation_spaces[name]) for name, value in observation.items()}
        if self.render_mode == "human":
            self.render()
        return ResetResult((seen, self._infos(self.agents)))

    def step(self, actions: Mapping[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        """One step; one transfer to the host.

        Args:
            actions: An element of its action space for each of `agents`.

        Returns:
            Observations, rewards, terminations, truncations and infos by agent, of those that acted.

        Raises:
            RuntimeError: Before the first reset, or with no agent left.
            ValueError: Actions that lack an agent or name one that does not act, or that are none of its space.
        """
        if self._state is None or not self.agents:
            raise RuntimeError("step: no agent acts. Call reset() first.")
        check_names(actions, [*self.agents], "step")
        taken = {name: self._actions[name](actions[name]) for name in self.agents}
        out = self.engine.step({**self._idle, **taken})
        flags: dict[Hashable, Tensor] = {
            name: getattr(out, name) for name in ("reward", "terminated", "truncated", "diverged")
        }
        seen: dict[Hashable, Tensor] = {
            ("observation", name): packable(value) for name, value in out.final_observation.items()
        }
        host = Packed.of({**flags, "length": out.episode_length, **seen}).to_host()
        self._state, self._elapsed, acted = out.final_state, host["length"].item(), [*self.agents]
        paid, over = (
            dict(zip(self.possible_agents, host[key][0].tolist(), strict=True)) for key in ("reward", "terminated")
        )
        rewards, terminated = ({name: column[name] for name in acted} for column in (paid, over))
        truncated = {name: host["truncated"].item() and not terminated[name] for name in acted}
        infos = self._infos(acted)
        if host["diverged"].item():
            warn_of_divergence()
            for info in infos.values():
                info["diverged"] = True
        self.agents = AgentList((name for name in acted if not (terminated[name] or truncated[name])), self._specs)
        if self.render_mode == "human":
            self.render()
        observations = {
            name: host["observation", name][0].astype(self.observation_spaces[name].dtype, copy=False) for name in acted
        }
        return observations, rewards, terminated, truncated, infos

    def state(self) -> np.ndarray:
        """All field values of the world, ``(N,)`` float32 in canvas order and in the fields' own units.

        Raises:
            RuntimeError: Before the first reset.
        """
        return element_of(self.engine.predictions(), self.state_space).copy()

    def render(self) -> np.ndarray | None:
        """What the agents see: a frame ``(H, W, 3)`` uint8, or a table on standard output.

        Raises:
            RuntimeError: Before the first reset.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode.")
            return None
        if self._state is None:
            raise RuntimeError("render: call reset() first; there is nothing to show yet.")
        if self.render_mode == "human":
            named: dict[str, np.ndarray] = {}
            for perspective in self._perspectives.values():
                named.update(named_arrays(self.engine, perspective, self._state))
            self._table.show(self._elapsed, named)
            return None
        space = Dict([*self.observation_spaces.items()])
        if self._painter is None:
            self._painter = FramePainter(space)
        return self._painter(element_of(self.engine.world.see(self.engine.dynamics.observe(self._state)), space))

    def close(self) -> None:
        """Leave the last table as it is."""
        self._table.close()

    def _infos(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        assert self._state is not None
        return {n: scalar_info(self.engine, self._perspectives[n], self._elapsed, self._state) for n in names}
