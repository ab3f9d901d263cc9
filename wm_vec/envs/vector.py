"""The tensor-first Gymnasium vector environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.adapters import CallableDynamics
from wm_vec.adapters.callables import Batching
from wm_vec.adapters.calls import UserCall
from wm_vec.adapters.spaces import ActionCodec, check_observations, check_spaces
from wm_vec.compat import tree_map
from wm_vec.core import Dynamics, Engine, EngineConfig, EnvState, Perspective, StepOutput
from wm_vec.core.config import EngineKeywords
from wm_vec.core.trees import copies
from wm_vec.envs.info import LazyInfo, lazy_entries
from wm_vec.envs.numpy_io import element_of, painter_of, read_actions, render_call, value_names
from wm_vec.envs.replay import sampled_observations
from wm_vec.envs.reset_options import MASK_OPTIONS, reset_mask
from wm_vec.plain import check_type, env_numbers
from wm_vec.render.frames import FramePainter
from wm_vec.render.history import History

if TYPE_CHECKING:
    from wm_vec.envs.torchrl import TorchRLEnv


class WorldModelVectorEnv(VectorEnv):
    """Thousands of imagined environments as one Gymnasium vector environment, torch tensors in and out.

    Observations, rewards and flags are tensors on `device`, new ones at every step; observations of Dict and Tuple
    spaces are dicts and tuples of them. ``info`` holds at every step
    ``episode`` (``r``: return so far, ``l``: length so far) with the mask ``_episode`` of those that ended,
    ``diverged`` ``(B,)`` bool, and, made when read, ``obs_dict``, ``predictions`` and ``model_state`` of the state that
    the next step starts from. In SAME_STEP mode also ``final_obs`` and ``final_info``, of the state before the resets,
    with their masks, a full batch each; in the other two modes the observation itself is the last one.

    Args:
        engine: The engine with one perspective.
        single_observation_space: One env's observations.
        single_action_space: One env's actions.
        render_mode: ``"rgb_array"`` or None.
    """

    def __init__(
        self,
        engine: Engine,
        single_observation_space: gym.Space,
        single_action_space: gym.Space,
        render_mode: str | None = None,
    ) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(
                f"WorldModelVectorEnv is made of an engine, got {type(engine).__name__}. A model of your own takes "
                "WorldModelVectorEnv.from_callables(model, observation_space, action_space, num_envs=...)."
            )
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}.")
        check_spaces(single_observation_space, single_action_space, "WorldModelVectorEnv")
        self.engine = engine
        self.num_envs = engine.num_envs
        self.single_observation_space = single_observation_space
        self.single_action_space = single_action_space
        self.observation_space = batch_space(single_observation_space, engine.num_envs)
        self.action_space = batch_space(single_action_space, engine.num_envs)
        self.render_mode = render_mode
        self.metadata = {"autoreset_mode": engine.autoreset_mode, "render_modes": ["rgb_array"], "render_fps": 32}
        self._perspective = engine.only_perspective("WorldModelVectorEnv")
        self._draws = 0
        self._warned = False
        self.world_model: Any = None
        self._render_call: UserCall | None = None
        self._painter: FramePainter | None = None
        self._histories: dict[int, History] | None = None
        if value_names(self._perspective, single_observation_space) is not None:
            self._histories = {}

    @classmethod
    def from_dynamics(
        cls,
        dynamics: Dynamics,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        num_envs: int,
        bank: TensorDictBase | None = None,
        render_mode: str | None = None,
        **settings: Unpack[EngineKeywords],
    ) -> WorldModelVectorEnv:
        """Many envs of any `Dynamics`, seen by one agent that observes and does everything.

        Args:
            dynamics: The batched transition; its observations are those of `observation_space`, its action columns
                those of `action_space`, flattened, whole numbers as they are.
            observation_space: One env's observations.
            action_space: One env's actions.
            num_envs: B.
            bank: Initial states ``(M,)``; None for the dynamics' own, or `bank_size` fresh ones.
            render_mode: ``"rgb_array"`` or None.
            **settings: See `wm_vec.core.EngineConfig`.
        """
        check_spaces(observation_space, action_space, "WorldModelVectorEnv")
        engine = Engine(
            dynamics, num_envs, [Perspective(ActionCodec(action_space).spec)], EngineConfig(**settings), bank=bank
        )
        seen = dynamics.observe(engine.world.layout.example().dynamics)
        check_observations(seen, observation_space, dynamics.device, type(dynamics).__name__)
        return cls(engine, observation_space, action_space, render_mode)

    @classmethod
    def from_callables(
        cls,
        world_model: Any,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        num_envs: int,
        batching: Batching = "batched",
        initial_observation: Any = None,
        initial_state: Any = None,
        reset_fn: Callable[..., Any] | None = None,
        transition_fn: Callable[..., Any] | None = None,
        reward_fn: Callable[..., Any] | None = None,
        terminal_fn: Callable[..., Any] | None = None,
        render_fn: Callable[..., Any] | None = None,
        action_transform_fn: Callable[..., Any] | None = None,
        encode: Callable[..., Any] | None = None,
        render_mode: str | None = None,
        device: torch.device | str | None = None,
        torch_actions: bool = True,
        rng: Literal["counter", "global"] = "counter",
        **settings: Unpack[EngineKeywords],
    ) -> WorldModelVectorEnv:
        """Many envs of anybody's model; the arguments of `WorldModelEnv`, and these.

        Args:
            world_model, observation_space, action_space: The model, and one env's spaces.
            num_envs: B.
            batching: ``"batched"`` for models that take states and actions with a leading axis ``(B, ...)``, ``"vmap"``
                for pure functions of one env. Any other model is for the scalar `WorldModelEnv`, many of which go into
                `gymnasium.vector.SyncVectorEnv`.
            initial_observation, initial_state: Of one env, or of several, ``(M, ...)``, from which episodes then draw.
            reset_fn: Called with one seed at a time, to fill the bank that episodes draw from; marked
                `wm_vec.batched`, at every reset with a tensor of seeds ``(B,)``.
            transition_fn, reward_fn, terminal_fn, action_transform_fn, encode: See `CallableDynamics`.
            render_fn: ``(model, state, observation)`` or fewer of one env -> a frame.
            render_mode: ``"rgb_array"`` or None.
            device: Where tensors live; None for where the model is.
            torch_actions: True; the scalar `WorldModelEnv` alone gives NumPy.
            rng: ``"global"`` for a model that draws from torch's global generator; then the batch as a whole is
                reproducible, not each env by itself.
            **settings: See `wm_vec.core.EngineConfig`; `bank_size` resets fill the bank.

        Raises:
            AdapterError: Model, callables and spaces do not fit together.
        """
        dynamics = CallableDynamics(
            world_model,
            observation_space,
            action_space,
            batching=batching,
            initial_observation=initial_observation,
            initial_state=initial_state,
            reset_fn=reset_fn,
            transition_fn=transition_fn,
            reward_fn=reward_fn,
            terminal_fn=terminal_fn,
            action_transform_fn=action_transform_fn,
            encode=encode,
            device=device,
            torch_actions=torch_actions,
            rng=rng,
        )
        env = cls.from_dynamics(
            dynamics, observation_space, action_space, num_envs=num_envs, render_mode=render_mode, **settings
        )
        env.world_model = world_model
        if render_fn is not None:
            env._render_call = render_call(render_fn)
        return env

    @property
    def device(self) -> torch.device:
        """Where all tensors live."""
        return self.engine.device

    @property
    def autoreset_mode(self) -> AutoresetMode:
        """Gymnasium's autoreset mode, also in ``metadata``."""
        return self.engine.autoreset_mode

    @property
    def max_episode_steps(self) -> int | None:
        """Steps after which an episode is truncated."""
        return self.engine.config.max_episode_steps

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: An int s seeds env i with ``s + i``, as SyncVectorEnv does; a sequence gives one each. None goes on
                to the next episodes, with entropy from the operating system at the very first reset.
            options: ``reset_mask``, bool ``(B,)``, NumPy or torch: the envs to reset. ``env_idx`` names them instead,
                by their numbers or such a mask. The others go to a model that resets at every episode; a bank has no
                use for them.

        Returns:
            Observations ``(B, ...)`` and info.

        Raises:
            ValueError: Unknown options, or a mask or index that does not fit.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        check_type(options := {} if options is None else options, Mapping, "reset: options")
        own = {key: value for key, value in options.items() if key not in MASK_OPTIONS}
        if own and not self.engine.dynamics.starts_fresh:
            raise ValueError(f"reset: unknown options {sorted(own)}; it takes {' or '.join(map(repr, MASK_OPTIONS))}.")
        observation = self.engine.reset(seed, reset_mask(options, self.num_envs), own or None)
        self._draws = 0
        info = LazyInfo(copies(self.engine.start_info), self._lazy(self.engine.model_state()))
        return observation[self._perspective.name], info

    def step(self, actions: Tensor | np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all envs; no host sync.

        Args:
            actions: ``(B, ...)`` tensor on `device`; floats for a Box of floats, clipped to its bounds, integers for
                all else. Also an array, as ``action_space.sample()`` gives it, whose values are checked.

        Returns:
            Observations ``(B, ...)``, rewards ``(B,)`` float, terminated and truncated ``(B,)`` bool, info.

        Raises:
            RuntimeError: Before the first reset.
            TypeError, ValueError: Actions of another shape, dtype or device; of an array, values that are no actions.

        Warns:
            UserWarning: The first array for envs that are not in host memory.
        """
        if isinstance(actions, np.ndarray):
            actions = self._transferred(actions)
        output = self.engine.step({self._perspective.name: actions})
        self._draws = 0
        observation = output.observation[self._perspective.name]
        return observation, output.reward[:, 0], output.terminated[:, 0], output.truncated, self._info(output)

    def sample_actions(self) -> Tensor:
        """Random actions ``(B, ...)`` made on the device.

        They depend on each env's seed, episode and step, and on how often this was called since the last step.
        """
        self._draws += 1
        return self.engine.sample_actions(self._draws - 1)[self._perspective.name]

    def state(self) -> EnvState:
        """The state of all envs; see `Engine.state`."""
        return self.engine.state()

    def set_state(self, state: EnvState) -> Tensor:
        """Go on from `state`; returns the observations. See `Engine.set_state`."""
        return self.engine.set_state(state)[self._perspective.name]

    def fork(self, indices: Tensor | Sequence[int], rng: str = "fresh") -> WorldModelVectorEnv:
        """A new environment whose env j continues env ``indices[j]``; see `Engine.fork`."""
        forked = WorldModelVectorEnv(
            self.engine.fork(indices, rng), self.single_observation_space, self.single_action_space, self.render_mode
        )
        forked.spec, forked.world_model, forked._render_call = self.spec, self.world_model, self._render_call
        return forked

    def to_torchrl(self, *, one_hot: bool = False, expose_state: bool = False) -> TorchRLEnv:
        """A TorchRL environment over the same world, with as many envs and episodes of its own; see `TorchRLEnv`."""
        from wm_vec.envs.torchrl import TorchRLEnv

        engine = self.engine.sibling(autoreset_mode=AutoresetMode.DISABLED)
        spaces = self.single_observation_space, self.single_action_space
        return TorchRLEnv(engine, *spaces, one_hot=one_hot, expose_state=expose_state)

    def start_from(self, source: Any, num_states: int = 1024) -> None:
        """Let later episodes start from real observations; see `TorchRLEnv.start_from`."""
        observations = sampled_observations(source, self.single_observation_space, num_states)
        self.engine.load_bank(self.engine.encode({self._perspective.name: observations}))

    def imagine(self, policy: Callable[..., Any], horizon: int, grad: bool = False) -> TensorDict:
        """Run policy and world together; see `Engine.imagine`."""
        return self.engine.imagine(policy, horizon, grad)

    def captured(self, play: Callable[..., Any]) -> Callable[..., Any]:
        """`play`, which steps these envs, on CUDA replayed as one graph; see `Engine.captured`.

        A loop over steps with a policy in it, sampling included, then costs one launch.
        """
        replay = self.engine.captured(play)

        def call(*inputs: Any) -> Any:
            result = replay(*inputs)
            self._draws = 0
            return result

        return call

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One frame per env, ``(H, W, 3)`` uint8; reads the host."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without render_mode='rgb_array'.")
            return None
        return self.frames(range(self.num_envs))

    def frames(self, indices: Sequence[int]) -> tuple[np.ndarray, ...]:
        """`render` of some envs alone.

        Time series show the steps at which an env's frames were drawn: `step` keeps nothing for them.

        Args:
            indices: Numbers of envs.

        Raises:
            ValueError: There is no render mode, or no such env.
        """
        if self.render_mode is None:
            raise ValueError("frames needs an environment with render_mode='rgb_array'.")
        indices = env_numbers(indices, self.num_envs, "frames: indices")
        state, whole = self.engine.model_state(), self._perspective.observe(self.engine.predictions())
        space = self.single_observation_space
        seen = [element_of(tree_map(lambda leaf, i=i: leaf[i : i + 1], whole), space) for i in indices]
        if self._render_call is not None:
            model_state, call = self.engine.dynamics.model_state, self._render_call
            return tuple(
                call(self.world_model, model_state(state, i), one) for i, one in zip(indices, seen, strict=True)
            )
        if self._painter is None:
            self._painter = painter_of(self._perspective, space, series=True)
        if self._histories is None:
            return tuple(map(self._painter, seen))
        now = self.engine.state()
        episodes, steps = now.episode.tolist(), now.elapsed.tolist()
        for i, one in zip(indices, seen, strict=True):
            self._histories.setdefault(i, History()).add(episodes[i], steps[i], one.ravel())
        return tuple(self._painter(one, self._histories[i]) for i, one in zip(indices, seen, strict=True))

    def _transferred(self, actions: np.ndarray) -> Tensor:
        """Actions of host memory on the device, checked."""
        taken = read_actions(actions, self._perspective.action, self.num_envs)
        if self.device.type not in ("cpu", "meta") and not self._warned:
            self._warned = True
            text = "step: NumPy actions go to the device at every step; sample_actions() or a policy there saves that."
            warnings.warn(text, stacklevel=3)
        return taken.to(self.device)

    def _info(self, output: StepOutput) -> dict[str, Any]:
        episode = {"r": output.episode_return[:, 0], "l": output.episode_length}
        info: dict[str, Any] = {
            **output.info,
            "episode": episode,
            "_episode": output.finished,
            "diverged": output.diverged,
        }
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            info["final_obs"] = output.final_observation[self._perspective.name]
            again = output.finished.clone if self.engine.config.copy else lambda: output.finished
            info["_final_obs"] = again()
            final = {"episode": dict(episode), "_episode": again()}
            info["final_info"] = LazyInfo(final, self._lazy(output.final_state))
            info["_final_info"] = again()
        return LazyInfo(info, self._lazy(output.state))

    def _lazy(self, state: TensorDictBase) -> dict[str, Callable[[], Any]]:
        return lazy_entries(self.engine, self._perspective, state)
