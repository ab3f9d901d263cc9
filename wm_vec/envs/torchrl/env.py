"""A TorchRL environment over the engine: TensorDict in, TensorDict out, thousands of envs on one device."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from wm_vec.adapters.spaces import ActionForm, check_spaces
from wm_vec.core import AutoresetMode, Dynamics, Engine, EnvState, Perspective
from wm_vec.envs.torchrl.specs import action_spec, class_indices, observation_entries, observation_specs

DONE_KEYS = ("done", "terminated", "truncated")
STATE_KEY = "world_state"
"""Where `expose_state` puts the state of the world."""


class TorchRLEnv(EnvBase):
    """B imagined environments as one batched `torchrl.envs.EnvBase`.

    A step gives, under ``next``, the observation where the step ended, before any reset, ``reward`` ``(B, 1)``, and
    ``done``, ``terminated``, ``truncated`` ``(B, 1)`` bool. Envs that are done stay where they are until they are
    reset, as TorchRL expects. Collectors and rollouts reset them through `maybe_reset`, a masked select that does not
    look at the device.

    Seeds are per env: ``set_seed(s)`` gives env i the seed ``s + i`` at the next full reset, and the numbers are then
    those of the Gymnasium face.

    Args:
        engine: An engine with one perspective and without autoreset.
        observation_space: One env's observations; those of a Dict space stand under its keys, others under
            ``"observation"``.
        action_space: One env's actions.
        one_hot: Discrete actions as one-hot vectors in place of class indices.
        expose_state: Carry the state of the world in the TensorDict, under ``"world_state"``; ``reset(td,
            set_state=True)`` then goes on from there. Without it replay buffers do not fill with states.

    Raises:
        ValueError: An engine of another kind, or spaces that TorchRL has no specs for.
    """

    def __init__(
        self,
        engine: Engine,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        one_hot: bool = False,
        expose_state: bool = False,
    ) -> None:
        if engine.autoreset_mode is not AutoresetMode.DISABLED or len(engine.perspectives) != 1:
            raise ValueError(
                "TorchRLEnv needs an engine with one perspective and autoreset_mode='disabled': TorchRL itself resets "
                f"what is done. Got {len(engine.perspectives)} perspectives, {engine.autoreset_mode}."
            )
        super().__init__(device=engine.device, batch_size=[engine.num_envs])
        self.engine = engine
        self.one_hot, self.expose_state = one_hot, expose_state
        self._supports_set_state = expose_state
        self._action_space = action_space
        self._next_seed: int | None = None
        self._draws = 0
        num_envs, device = engine.num_envs, engine.device
        self.observation_spec = observation_specs(observation_space, num_envs, device)
        self.action_spec = action_spec(action_space, num_envs, device, one_hot)
        self.reward_spec = Unbounded((num_envs, 1), device=device, dtype=engine.reward_dtype)
        flags = {key: Categorical(2, shape=(num_envs, 1), device=device, dtype=torch.bool) for key in DONE_KEYS}
        self.done_spec = Composite(flags, shape=(num_envs,), device=device)
        if expose_state:
            self.state_spec = Composite({STATE_KEY: self._world_state_spec()}, shape=(num_envs,), device=device)
            self.observation_spec[STATE_KEY] = self._world_state_spec()

    @classmethod
    def from_dynamics(
        cls,
        dynamics: Dynamics,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        num_envs: int,
        max_episode_steps: int | None = None,
        bank: TensorDictBase | None = None,
        bank_size: int = 1024,
        seed: int | None = None,
        exact_rows: bool = False,
        one_hot: bool = False,
        expose_state: bool = False,
    ) -> TorchRLEnv:
        """Many envs of any `Dynamics`, seen by one agent that observes and does everything.

        Args:
            dynamics: The batched transition.
            observation_space: One env's observations.
            action_space: One env's actions.
            num_envs: B.
            max_episode_steps: Steps after which an episode is truncated; None for no limit.
            bank: Initial states ``(M,)``; None for the dynamics' own, or `bank_size` fresh ones.
            bank_size: M where the bank must be made.
            seed: Seed of the first reset.
            exact_rows: Bit-equal rows at any B.
            one_hot: Discrete actions as one-hot vectors.
            expose_state: Carry the state of the world in the TensorDict.
        """
        check_spaces(observation_space, action_space, cls.__name__)
        engine = Engine(
            dynamics,
            num_envs,
            [Perspective(ActionForm(action_space).spec)],
            max_episode_steps=max_episode_steps,
            autoreset_mode=AutoresetMode.DISABLED,
            bank=bank,
            bank_size=bank_size,
            seed=seed,
            exact_rows=exact_rows,
        )
        return cls(engine, observation_space, action_space, one_hot=one_hot, expose_state=expose_state)

    # -- EnvBase --------------------------------------------------------------------------------------------------

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed env i with ``seed + i`` at the next full reset.

        Args:
            seed: The first env's seed.
            static_seed: Return the seed itself.

        Returns:
            The seed after those of these envs, so that what holds several batches of envs and seeds them one after
            another (`SerialEnv`, `ParallelEnv`, collectors) gives all envs the seeds of one batch.
        """
        self._set_seed(seed)
        return seed if seed is None or static_seed else seed + self.engine.num_envs

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed = seed

    def _reset(self, tensordict: TensorDictBase | None = None, *, set_state: bool = False, **kwargs: Any) -> TensorDict:
        if set_state and tensordict is not None:
            return self._resumed(tensordict)
        mask = None if tensordict is None else tensordict.get("_reset", None)
        return self._restarted(None if mask is None else self._mask(mask))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        stepped = tensordict.get("_step", None)
        before = None if stepped is None else self.engine.state()
        action = tensordict.get("action")
        result = self.engine.step(class_indices(action, self._action_space) if self.one_hot else action)
        self._draws = 0
        if before is not None and stepped is not None:
            # Rows that are not to step are put back; what is returned of them counts for nothing.
            self.engine.set_state(self.engine.state().where(self._mask(stepped), before))
        entries = observation_entries(result.final_observation)
        entries["reward"] = result.reward.unsqueeze(1)
        entries["done"] = result.finished.unsqueeze(1)
        entries["terminated"] = result.terminated.unsqueeze(1)
        entries["truncated"] = result.truncated.unsqueeze(1)
        return self._pack(entries)

    def any_done(self, tensordict: TensorDictBase) -> Any:
        """Whether any env is done, ``()`` bool; nobody has looked at it yet. Writes ``_reset``."""
        done = tensordict.get("done")
        tensordict.set("_reset", done.clone())
        return done.any()

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset what is done, by a masked select; in host memory only if something is."""
        done = tensordict.get("done")
        if done.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(done.any()):
            return tensordict
        return tensordict.update(self._restarted(self._mask(done)))

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Random actions from the envs' own counters, made on the device; before the first reset from the spec."""
        if not self.engine.started:
            return super().rand_action(tensordict)
        action = self.engine.sample_actions(self._draws)
        self._draws += 1
        if self.one_hot:
            action = self._one_hot(action)
        tensordict = self._pack({}) if tensordict is None else tensordict
        return tensordict.set("action", action)

    # -- parts ----------------------------------------------------------------------------------------------------

    def _restarted(self, mask: Tensor | None) -> TensorDict:
        """Fresh episodes in the rows of `mask`, or in all; the first time in all."""
        seed = None
        if mask is None or not self.engine.started:
            seed, self._next_seed, mask = self._next_seed, None, None
            self._draws = 0
        return self._seen(self.engine.reset(seed, mask))

    def _resumed(self, tensordict: TensorDictBase) -> TensorDict:
        """Go on from the state in `tensordict`."""
        if STATE_KEY not in tensordict.keys():  # noqa: SIM118 - a TensorDict's membership is of its keys alone
            raise KeyError(f"TorchRLEnv: reset(td, set_state=True) needs {STATE_KEY!r} in td.")
        state = EnvState.from_tensordict(tensordict.get(STATE_KEY))
        return self._seen(self.engine.set_state(state))

    def _seen(self, observation: Any) -> TensorDict:
        """What a reset gives."""
        shape = (self.engine.num_envs, 1)
        flags = {key: torch.zeros(shape, dtype=torch.bool, device=self.device) for key in DONE_KEYS}
        return self._pack({**observation_entries(observation), **flags})

    def _pack(self, entries: dict[str, Any]) -> TensorDict:
        if self.expose_state and entries:
            entries[STATE_KEY] = self.engine.state().to_tensordict()
        return TensorDict(entries, batch_size=self.batch_size, device=self.device)

    def _mask(self, flags: Tensor) -> Tensor:
        """``(B, 1)`` or ``(B,)`` bool as ``(B,)``.

        Raises:
            ValueError: Another shape.
        """
        if flags.numel() != self.engine.num_envs:
            raise ValueError(
                f"TorchRLEnv: a mask must have shape ({self.engine.num_envs}, 1), got {tuple(flags.shape)}."
            )
        return flags.reshape(self.engine.num_envs)

    def _one_hot(self, action: Tensor) -> Tensor:
        spaces = self._action_space
        sizes = [int(n) for n in spaces.nvec] if isinstance(spaces, gym.spaces.MultiDiscrete) else [int(spaces.n)]  # type: ignore[attr-defined]
        columns = action.reshape(self.engine.num_envs, len(sizes)).unbind(1)
        hot = [torch.nn.functional.one_hot(column, n) for column, n in zip(columns, sizes, strict=True)]
        return torch.cat(hot, -1).bool()

    def _world_state_spec(self) -> Composite:
        state = self.engine.example_state().to_tensordict()
        num_envs = self.engine.num_envs

        def spec(part: TensorDictBase) -> Composite:
            entries = {
                key: spec(value)
                if isinstance(value, TensorDictBase)
                else Unbounded((num_envs, *value.shape[1:]), device=self.engine.device, dtype=value.dtype)
                for key, value in part.items()
            }
            return Composite(entries, shape=(num_envs,), device=self.engine.device)

        return spec(state)
