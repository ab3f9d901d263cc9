"""A TorchRL environment that owns nothing: the state of the world is in the TensorDict, of any batch shape."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Composite

from wm_vec.compat import new_tensordict
from wm_vec.core import CounterRNG, Engine, EnvState, GivenStart, spawn_seeds, step
from wm_vec.core.resets import fork_state, restart, start
from wm_vec.envs.torchrl.base import EngineEnv
from wm_vec.envs.torchrl.checks import ActionCheck, check_mask, not_done_in, read_state
from wm_vec.envs.torchrl.resets import known_to_be_running
from wm_vec.envs.torchrl.specs import STATE_KEY, carried_state


class StatelessTorchRLEnv(EngineEnv):
    """A world as a function of the TensorDict that it is handed, for planners and losses.

    The state stands under ``"world_state"`` before and, under ``next``, after a step, laid out as `TorchRLEnv` does
    with ``expose_state=True``, so each takes the other's. Batches may have any shape ``(*N,)``, none included; TorchRL
    calls that not batch-locked. With torch's grad mode on, gradients flow from rewards, observations and states to
    actions and to the state's floating-point parts.

    ``reset()`` starts one env without a batch axis, ``reset(TensorDict({}, batch_size=[*N]))`` as many as that says,
    with the seeds ``s, s + 1, ...`` in row-major order after ``set_seed(s)``; the next such reset counts on. With
    observations in the TensorDict, real ones mostly, these episodes start from there, as `TorchRLEnv`'s do. Where the
    TensorDict carries a state, ``reset(td, set_state=True)`` goes on from it, ``set_state=False`` starts every env's
    next episode, and a mask ``_reset`` those of its envs alone, all by the env's own seed and counters: the numbers are
    `TorchRLEnv`'s.

    Envs of one state see one future, noise included. To try many actions from it take `fork`.

    Args:
        engine: Gives the world, its rewards, horizon and starts; its own envs are not touched.
        observation_space: One env's observations; those of a Dict space stand under its keys, others under
            ``"observation"``.
        action_space: One env's actions.
        one_hot: Discrete actions and observations as one-hot vectors in place of class indices, see `TorchRLEnv`.

    Raises:
        ValueError: An engine with several perspectives or autoreset, or spaces that TorchRL has no specs for.
    """

    batch_locked = False
    _supports_set_state = True

    def __init__(
        self, engine: Engine, observation_space: gym.Space, action_space: gym.Space, *, one_hot: bool = False
    ) -> None:
        super().__init__(engine, observation_space, action_space, batched=False, one_hot=one_hot, state=True)
        self._next_seed = engine.config.seed
        self._draws = self._forks = 0
        self._forms: dict[torch.Size, tuple[ActionCheck, Composite]] = {}

    def fork(self, tensordict: TensorDictBase, rng: str = "fresh") -> TensorDictBase:
        """A copy of `tensordict` with its states, whose futures have noise of their own.

        Args:
            tensordict: ``(*N,)``, with the state; one state any number of times, by ``expand``, gives as many futures.
            rng: ``"fresh"`` gives every env a new seed, drawn from its own counters, its place and the number of this
                fork since `set_seed`, so that a planner does not see the future's noise; ``"same"`` keeps the seeds.

        Raises:
            KeyError, ValueError: No state, another world's, or another `rng`.
        """
        if rng not in ("fresh", "same"):
            raise ValueError(f"fork: rng must be 'fresh' or 'same', got {rng!r}.")
        state = self._state(tensordict, "fork")
        forked = tensordict.exclude(STATE_KEY).clone()
        if rng == "fresh":
            self._forks += 1
            state = fork_state(state, self._forks)
        return forked.set(STATE_KEY, carried_state(state).reshape(tensordict.batch_size))

    # -- EnvBase --------------------------------------------------------------------------------------------------

    def _set_seed(self, seed: int | None) -> None:
        self._next_seed, self._forks = seed, 0

    def _reset(self, tensordict: TensorDictBase | None = None, *, set_state: bool = False, **kwargs: Any) -> TensorDict:
        batch = self.batch_size if tensordict is None else tensordict.batch_size
        if tensordict is None or (not set_state and tensordict.get(STATE_KEY, None) is None):
            self._draws = 0
            given = None if tensordict is None else self.given_starts(tensordict)
            return self._seen(self._started(batch, given), batch)
        state = self._state(tensordict, "reset")
        mask = tensordict.get("_reset", None)
        # A mask asks for fresh episodes, also where TorchRL takes any state in the TensorDict for one to go on from.
        if mask is None and set_state:
            return self._seen(state, batch)
        mask = None if mask is None else check_mask(mask, batch, "_reset")
        return self._seen(restart(self.engine.world, state, mask=mask)[0], batch)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        batch = tensordict.batch_size
        state, action = self._state(tensordict, "step"), self._form(batch)[0](tensordict)
        action = self._engine_action(action.reshape((batch.numel(), *self.action_spec.shape)))
        world = self.engine.world
        after, output = step(world, state, world.actions.check(action, batch.numel()))
        self._draws = 0
        return self._pack(self._ended(output), after, batch)

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset what is done, by a masked select; in host memory only if something is."""
        done = tensordict.get("done", None)
        if done is None or known_to_be_running(done):
            return tensordict
        mask = check_mask(done, tensordict.batch_size, "done")
        state, _ = restart(self.engine.world, self._state(tensordict, "maybe_reset"), mask=mask)
        return tensordict.update(self._seen(state, tensordict.batch_size))

    def _random_actions(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Random actions from the envs' own counters, made on the device; without a state from the spec.

        Envs of one state get one action: `fork` first.
        """
        if tensordict is None or tensordict.get(STATE_KEY, None) is None:
            return super().rand_action(tensordict)
        state = self._state(tensordict, "rand_action")
        counters = CounterRNG(state.seed, state.episode, state.elapsed)
        sampled = self.engine.world.actions.sample(counters, self._draws)[self._perspective.name]
        action = self._own_action(sampled)
        self._draws += 1
        return tensordict.set("action", action.reshape((*tensordict.batch_size, *self.action_spec.shape)))

    # -- parts ----------------------------------------------------------------------------------------------------

    def _started(self, batch: torch.Size, given: TensorDictBase | None) -> EnvState:
        """The first episodes ``(M,)`` of new envs; of `given`, a TensorDict of `batch`, from its observations."""
        num_envs, starts = batch.numel(), None
        if given is not None:
            seen = self._given(given.reshape(num_envs))
            starts = GivenStart(partial(self.engine.encode, seen), not_done_in(given, batch))
        return start(self.engine.world, self._seeds(num_envs), num_envs, starts)

    def _seeds(self, num_envs: int) -> list[int]:
        """Seeds of new envs; without a seed to count from they come from the operating system."""
        if self._next_seed is None:
            return spawn_seeds(None, num_envs)
        first, self._next_seed = self._next_seed, self._next_seed + num_envs
        return list(range(first, first + num_envs))

    def _form(self, batch: torch.Size) -> tuple[ActionCheck, Composite]:
        """What a TensorDict of this batch size must hold: actions, and the state's spec; made once for each."""
        if batch not in self._forms:
            actions = self.action_spec.expand((*batch, *self.action_spec.shape))
            check = ActionCheck(self.action_space, actions, self.one_hot, type(self).__name__)
            self._forms[batch] = check, self.state_spec[STATE_KEY].expand(batch)
        return self._forms[batch]

    def _state(self, tensordict: TensorDictBase, what: str) -> EnvState:
        """The envs' states, ``(M,)``."""
        batch, where = tensordict.batch_size, f"{type(self).__name__}.{what}"
        state = read_state(tensordict, STATE_KEY, self._form(batch)[1], where).reshape(batch.numel())
        return self.engine.world.layout.check(state)

    def _seen(self, state: EnvState, batch: torch.Size) -> TensorDict:
        """What a reset gives."""
        return self._pack(self._fresh(self.engine.world.observe(state), batch.numel()), state, batch)

    def _pack(self, entries: dict[str, Any], state: EnvState, batch: torch.Size) -> TensorDict:
        entries[STATE_KEY] = carried_state(state)  # copies, also of what the step left as it was
        flat = new_tensordict(entries, torch.Size([batch.numel()]), self.device)
        return flat if len(batch) == 1 else flat.reshape(batch)
