"""Many envs of several agents each, tensors in and out: as a Gymnasium vector environment, and as TensorDicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Dict
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torch import Tensor

from wm_vec.compat import new_tensordict, tree_map
from wm_vec.core import Engine, EnvState, StepOutput
from wm_vec.core.actions import check_names
from wm_vec.envs.agent_spaces import spaces_by_agent
from wm_vec.envs.info import LazyInfo, lazy_entries
from wm_vec.envs.numpy_io import element_of, read_actions
from wm_vec.envs.reset_options import MASK_OPTIONS, reset_mask
from wm_vec.plain import check_type
from wm_vec.render.frames import FramePainter


class _ManyAgents:
    """An engine of any number of perspectives with their spaces, and what can be done with it.

    Attributes:
        engine: The engine.
        agents: The agents' names, in the order of the columns of rewards and flags.
        observation_spaces: One env's observations by agent.
        action_spaces: One env's actions by agent.
    """

    def __init__(
        self, engine: Engine, observation_spaces: Mapping[str, gym.Space], action_spaces: Mapping[str, gym.Space]
    ) -> None:
        spaces = spaces_by_agent(engine, observation_spaces, action_spaces, type(self).__name__)
        self.observation_spaces, self.action_spaces = spaces
        self.engine, self.num_envs, self.agents = engine, engine.num_envs, [*self.action_spaces]
        self._draws = 0

    @property
    def device(self) -> torch.device:
        """Where all tensors live."""
        return self.engine.device

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """When envs reset whose agents have all ended."""
        return self.engine.autoreset_mode

    @property
    def max_episode_steps(self) -> int | None:
        """Steps after which an episode is truncated."""
        return self.engine.config.max_episode_steps

    def sample_actions(self) -> dict[str, Tensor]:
        """Random actions ``(B, ...)`` by agent, made on the device; other ones at each call."""
        self._draws += 1
        return self.engine.sample_actions(self._draws - 1)

    def state(self) -> EnvState:
        """The state of all envs; see `Engine.state`."""
        return self.engine.state()

    def _step(self, actions: Any) -> StepOutput:
        """One step of the engine; arrays are checked, values too, and go to the device."""
        check_names(actions, self.agents, "step")
        taken = {}
        for p in self.engine.perspectives:
            taken[p.name] = action = actions[p.name]
            if isinstance(action, np.ndarray):
                read = read_actions(action, p.action, self.num_envs, f"step: agent {p.name!r}")
                taken[p.name] = read.to(self.device)
        output = self.engine.step(taken)
        self._draws = 0
        return output


class MultiAgentVectorEnv(_ManyAgents, VectorEnv):
    """Several agents in each of thousands of imagined envs, as one Gymnasium vector environment.

    Observations and actions are dicts by agent; rewards and flags are ``(B, P)`` tensors, a column per agent in the
    order of `agents`. All share one prediction of their world. An agent that has ended stays ``terminated``, is paid 0
    and acts no more; an env resets when all of its agents have ended, or where it is truncated: ``truncated`` is true
    of those that had not ended then.

    ``info`` is as `WorldModelVectorEnv` has it, but for ``episode["r"]`` ``(B, P)``, ``active`` ``(B, P)`` bool, who
    acts in the next step, and the entries that are made when read, which go by agent: ``info["ceo"]["obs_dict"]``.

    Args:
        engine: The engine.
        observation_spaces: One env's observations by agent.
        action_spaces: One env's actions by agent.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(
        self,
        engine: Engine,
        observation_spaces: Mapping[str, gym.Space],
        action_spaces: Mapping[str, gym.Space],
        render_mode: str | None = None,
    ) -> None:
        super().__init__(engine, observation_spaces, action_spaces)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        # A list of pairs keeps their order.
        self.single_observation_space = Dict([*self.observation_spaces.items()])
        self.single_action_space = Dict([*self.action_spaces.items()])
        self.observation_space = batch_space(self.single_observation_space, engine.num_envs)
        self.action_space = batch_space(self.single_action_space, engine.num_envs)
        self.render_mode = render_mode
        self.metadata = {"autoreset_mode": engine.autoreset_mode, "render_modes": ["rgb_array"], "render_fps": 32}
        self._painter: FramePainter | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Start episodes; arguments as in `WorldModelVectorEnv.reset`.

        Returns:
            Observations ``(B, ...)`` by agent, and info.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        check_type(options := {} if options is None else options, dict, "reset: options")
        if unknown := sorted(map(str, {*options} - {*MASK_OPTIONS})):
            raise ValueError(f"reset: unknown options {unknown}; it takes {' or '.join(map(repr, MASK_OPTIONS))}.")
        observation = self.engine.reset(seed, reset_mask(options, self.num_envs))
        self._draws = 0
        return observation, LazyInfo({"active": self.engine.active(), **self._by_agent(self.engine.model_state())})

    def step(
        self, actions: Mapping[str, Tensor | np.ndarray]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all envs; no host sync.

        Args:
            actions: By agent, as `WorldModelVectorEnv.step` takes them; of agents that have ended they count for
                nothing.

        Returns:
            Observations ``(B, ...)`` by agent, rewards ``(B, P)`` float, terminated and truncated ``(B, P)`` bool, and
            info.

        Raises:
            RuntimeError: Before the first reset.
            ValueError: Actions that lack an agent or name an unknown one, or of another shape or device.
            TypeError: Actions of another dtype.
        """
        output = self._step(actions)
        return output.observation, output.reward, output.terminated, _truncated(output), self._info(output)

    def set_state(self, state: EnvState) -> dict[str, Tensor]:
        """Go on from `state`; returns the observations. See `Engine.set_state`."""
        return self.engine.set_state(state)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per env of what all agents see, ``(H, W, 3)`` uint8; reads the host."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without render_mode='rgb_array'.")
            return None
        whole, space = self.engine.world.see(self.engine.predictions()), self.single_observation_space
        seen = [element_of(tree_map(lambda leaf, i=i: leaf[i : i + 1], whole), space) for i in range(self.num_envs)]
        if self._painter is None:
            self._painter = FramePainter(space)
        return tuple(map(self._painter, seen))

    def _info(self, output: StepOutput) -> dict[str, Any]:
        episode = {"r": output.episode_return, "l": output.episode_length}
        info: dict[str, Any] = {
            "episode": episode,
            "_episode": output.finished,
            "diverged": output.diverged,
            "active": self.engine.active(),
            **self._by_agent(output.state),
        }
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            info["final_obs"] = output.final_observation
            final = {"episode": dict(episode), "_episode": output.finished.clone()}
            info["final_info"] = {**final, **self._by_agent(output.final_state)}
            info["_final_obs"], info["_final_info"] = output.finished.clone(), output.finished.clone()
        return LazyInfo(info)

    def _by_agent(self, state: TensorDictBase) -> dict[str, LazyInfo]:
        return {p.name: LazyInfo({}, lazy_entries(self.engine, p, state)) for p in self.engine.perspectives}


class MultiAgentTensorDictEnv(_ManyAgents):
    """Several agents in each of thousands of imagined envs, as TensorDicts: a batch to learn from, agent by agent.

    `reset` and `step` return a TensorDict ``(B,)`` with one TensorDict ``(B,)`` per agent:

    - ``observation`` ``(B, ...)``, from which the next action is taken, and ``active`` ``(B,)`` bool, whether that
      action counts: False of an agent that has ended while the episode goes on for others. It masks losses.
    - After a step also ``reward`` and ``episode_return`` ``(B,)``, ``terminated`` and ``truncated`` ``(B,)`` bool, and
      ``final_observation`` ``(B, ...)``, where the step ended before any reset: the one to bootstrap from.

    At the root, after a step: ``finished`` ``(B,)`` bool, envs whose episode ended; ``episode_length`` ``(B,)`` int64;
    ``diverged`` ``(B,)`` bool.

    Args:
        engine: The engine.
        observation_spaces: One env's observations by agent.
        action_spaces: One env's actions by agent.
    """

    def reset(self, seed: int | Sequence[int | None] | None = None, mask: Tensor | None = None) -> TensorDict:
        """Start episodes.

        Args:
            seed: An int s seeds env i with ``s + i``; a sequence gives one each. None goes on to the next episodes.
            mask: ``(B,)`` bool, the envs to reset; None for all.
        """
        observation = self.engine.reset(seed, mask)
        self._draws = 0
        return self._packed({}, self._seen(observation))

    def step(self, actions: Mapping[str, Any] | TensorDictBase) -> TensorDict:
        """Step all envs; no host sync.

        Args:
            actions: Agent -> ``(B, ...)`` actions, or a TensorDict in which each agent has an ``"action"``, such as
                what `reset` and `step` return and a policy has written into.

        Raises:
            RuntimeError: Before the first reset.
            ValueError: Actions that lack an agent or name an unknown one, or of another shape or device.
            TypeError: Actions of another dtype.
        """
        if isinstance(actions, TensorDictBase):
            parts = actions.items()
            actions = {name: part["action"] for name, part in parts if is_tensor_collection(part) and "action" in part}
        output = self._step(actions)
        agents, truncated = self._seen(output.observation), _truncated(output)
        resets = self.autoreset_mode is not AutoresetMode.DISABLED
        for place, name in enumerate(self.agents):
            last = output.final_observation[name]
            agents[name] |= {
                "final_observation": last if resets else last.clone(),  # which is the observation itself
                "reward": output.reward[:, place],
                "terminated": output.terminated[:, place],
                "truncated": truncated[:, place],
                "episode_return": output.episode_return[:, place],
            }
        root = {
            "finished": output.finished,
            "episode_length": output.episode_length,
            "diverged": output.diverged,
        }
        return self._packed(root, agents)

    def set_state(self, state: EnvState) -> TensorDict:
        """Go on from `state`; returns what `reset` does. See `Engine.set_state`."""
        return self._packed({}, self._seen(self.engine.set_state(state)))

    def _seen(self, observation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        active = self.engine.active()
        return {
            name: {"observation": observation[name], "active": active[:, place]}
            for place, name in enumerate(self.agents)
        }

    def _packed(self, root: dict[str, Any], agents: dict[str, dict[str, Any]]) -> TensorDict:
        return new_tensordict({**agents, **root}, torch.Size([self.num_envs]), self.device)


def _truncated(output: StepOutput) -> Tensor:
    """``(B, P)`` bool: agents whose episode ended by the horizon."""
    return output.truncated[:, None] & ~output.terminated
