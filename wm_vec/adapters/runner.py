"""Running a model for all envs in one call, on batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.adapters.calls import ModelCalls, UserCall
from wm_vec.adapters.errors import ENV_BY_ENV, AdapterError, describe
from wm_vec.adapters.forms import ResetParts, tuple_read
from wm_vec.adapters.randomness import DrawWatch, GlobalGenerator, warn_of_draws
from wm_vec.adapters.reading import TransitionReader, numbers, refuse_odd_numbers
from wm_vec.adapters.spaces import ActionCodec, ObservationCodec
from wm_vec.adapters.states import StateCodec
from wm_vec.compat import new_tensordict, writes
from wm_vec.core import CounterRNG, Transition
from wm_vec.core.trees import Tree


class Outcome(NamedTuple):
    """What a call of a model returned, as tensors."""

    state: dict[str, Tensor]
    observation: dict[str, Tensor]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor | None
    info: dict[str, Any]


class BatchRunner:
    """All envs in one call: states, actions and results have a leading axis ``(B, ...)``.

    Args:
        adapter: Name of the adapter's class, for errors.
        calls: The model's callables.
        observations: The observation space.
        actions: The action space.
        device: Where tensors live.
        generator: The global generators, where the model draws from them.

    Attributes:
        reader: Reads transitions, and knows how episodes have started.
    """

    batching = "batched"

    def __init__(
        self,
        adapter: str,
        calls: ModelCalls,
        observations: ObservationCodec,
        actions: ActionCodec,
        device: torch.device,
        generator: GlobalGenerator | None,
    ) -> None:
        self._adapter, self.calls, self.observations, self.actions = adapter, calls, observations, actions
        self.device, self.generator = device, generator
        self.reader = TransitionReader(calls, observations, self.where(calls.transition))
        self.states: StateCodec  # from the first start on
        self._examples: dict[str, Tensor] = {}
        self.watch = DrawWatch()

    def where(self, call: UserCall | str) -> str:
        """How messages name a callable."""
        name = call if isinstance(call, str) else call.name
        return f"{self._adapter}(batching={self.batching!r}), {name}"

    def pack(self, starts: Sequence[ResetParts], lead: tuple[int, ...]) -> TensorDict:
        """The states ``(M,)`` of started episodes: one env's each without `lead`, else batches with it in front."""
        where = self.where(self.calls.reset or "initial_state")
        join = torch.cat if lead else torch.stack
        seen = [self.observations.tensors(start.observation, lead, self.device, where) for start in starts]
        if not self.reader.begun:
            self.states = StateCodec(starts[0].state, where, self.batching)
        self.reader.begin(starts)
        states = [self.states.flatten(start.state, where) for start in starts]
        for state in states:
            for name, leaf in state.items():
                if lead and leaf.shape[:1] != lead:
                    raise AdapterError(
                        f"{where}: the observation starts {lead[0]} envs, but {name} has shape {tuple(leaf.shape)}. "
                        "Both must have the same leading axis, or none."
                    )
        if len({tuple((n, s.shape, s.dtype) for n, s in state.items()) for state in states}) > 1:
            raise AdapterError(f"{where}: states of different shapes or dtypes came back; all must be alike.")
        packed = {name: join([s[name].detach().to(self.device) for s in states]) for name in self.states.names}
        self._examples = self._examples or {name: leaf.new_empty(0, *leaf.shape[1:]) for name, leaf in packed.items()}
        observation = {name: join([one[name] for one in seen]) for name in seen[0]}
        return _as_state(packed, observation, len(starts) * (lead[0] if lead else 1))

    def encode(self, observation: dict[str, Tensor], rng: CounterRNG) -> TensorDict:
        """States ``(M,)`` of real observations, leaves ``(M, ...)`` by name, by ``calls.encode``.

        Without it an observation is taken for the state, where episodes start with that.
        """
        call, where = self.calls.encode, self.where(self.calls.encode or "encode")
        num_states = next(iter(observation.values())).shape[0]
        tree = self.observations.tree(observation)
        if call is None:
            flat = self.states.flatten(tree, where)
            flat = {name: leaf.to(self._examples[name].dtype) for name, leaf in flat.items()}
        else:
            generator = self.generator
            with warn_of_draws(call.name, "its argument rng") if generator is None else generator.stream():
                flat = self._encoded(call, tree, rng, where)
        for name, example in self._examples.items():
            leaf, expected = flat[name], (num_states, *example.shape[1:])
            if tuple(leaf.shape) != expected or leaf.dtype is not example.dtype:
                raise AdapterError(
                    f"{where}: {name} must be {expected} {str(example.dtype).removeprefix('torch.')}, as it is where "
                    f"episodes start, got {describe(leaf)}."
                )
        state = {name: flat[name].detach().to(self.device) for name in self.states.names}
        return _as_state(state, observation, num_states)

    def _encoded(self, call: UserCall, tree: Tree, rng: CounterRNG, where: str) -> dict[str, Tensor]:
        """What the user's encoder makes of observations ``(M, ...)``."""
        return self.states.flatten(self._call(call, (self.calls.model, tree, rng), rng), where)

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """One step of all envs; `action` is ``(B, A)``."""
        lead = (action.shape[0],)
        before = {name: state.get(name) for name in self.states.names}
        versions = {name: _writes(leaf) for name, leaf in before.items()}
        with self.generator.stream() if self.generator is not None else self.watch(self.calls.transition.name):
            out = self._run(before, self.actions.unpack(action), rng, lead)
        for name, leaf in out.state.items():
            self._check_leaf(name, before[name], leaf)
            if _writes(before[name]) != versions[name]:
                raise AdapterError(
                    f"{self.reader.where} writes into the {name} that it is given. Return a new one, as in "
                    f"state = state + change, or take {ENV_BY_ENV}."
                )
        after = _as_state(out.state, out.observation, lead[0])
        tree = self.observations.tree(out.observation)
        return Transition(after, tree, out.reward, out.terminated, out.truncated, out.info)

    def model_state(self, state: TensorDictBase, env: int | None) -> Any:
        """A copy in the model's own structure, of one env or of all."""
        leaves = {name: state.get(name) for name in self.states.names}
        if env is None:
            return self.states.rebuild({n: leaf.clone() for n, leaf in leaves.items()}, tuple(state.batch_size))
        return self.states.rebuild({n: leaf[env].clone() for n, leaf in leaves.items()}, ())

    def _run(self, before: dict[str, Tensor], action: Tensor, rng: CounterRNG, lead: tuple[int, ...]) -> Outcome:
        return self._outcome(before, action, rng, lead)

    def _outcome(
        self,
        before: Mapping[str, Tensor],
        action: Any,
        rng: CounterRNG,
        lead: tuple[int, ...],
        own: CounterRNG | None = None,
    ) -> Outcome:
        """Call the model once and read what came back; `own` is the generator that it gets, None for `rng`."""
        calls, states, reader = self.calls, self.states, self.reader
        if calls.action_transform is not None:
            action = self._call(calls.action_transform, (calls.model, action), rng)
        values = (calls.model, states.rebuild(before, lead), action, own or rng)
        result = self._call(calls.transition, values, rng)
        parts = reader.read(result, lead)
        where = reader.where + tuple_read(result)
        reward, terminated = reader.reward_and_end(parts, action, lambda call, values: self._call(call, values, rng))
        truncated = parts.truncated
        return Outcome(
            states.flatten(parts.state, where),
            self.observations.tensors(parts.observation, lead, self.device, where),
            self._per_env(reward, "reward", lead, where),
            self._per_env(terminated, "terminated", lead, where),
            None if truncated is None else self._per_env(truncated, "truncated", lead, where),
            dict(parts.info),
        )

    def _call(self, call: UserCall, values: tuple[Any, ...], rng: CounterRNG) -> Any:
        """Call a user's callable; its exceptions say where in the rollout they were raised."""
        try:
            return call(*values)
        except Exception as error:
            _add_place(error, call, rng)
            raise

    def _per_env(self, value: Any, what: str, lead: tuple[int, ...], where: str) -> Tensor:
        """A number per env, ``lead``, from that, from ``(*lead, 1)``, or from one Python number for all."""
        if isinstance(value, (int, float)) and not (what == "reward" and isinstance(value, bool)):
            dtype = torch.bool if isinstance(value, bool) else self.actions.dtype
            return torch.full(lead, value, dtype=dtype, device=self.device)
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(numbers(value, what, where))
        refuse_odd_numbers(tensor, what, where)
        if tensor.shape != lead:
            if tensor.shape != (*lead, 1) and not (tensor.numel() == 1 and lead in ((), (1,))):
                raise AdapterError(
                    f"{where}: {what} must be one number per env, shape {lead} or {(*lead, 1)}, got {describe(value)}. "
                    "Reduce over the other axes only, for example with .mean(-1)."
                )
            tensor = tensor.reshape(lead)
        return tensor.to(self.device)

    def _check_leaf(self, name: str, before: Tensor, after: Tensor) -> None:
        if after.shape == before.shape and after.dtype is before.dtype:
            return
        where = self.reader.where
        if after.shape[:1] != before.shape[:1] and after.shape[1:] == before.shape[1:]:
            envs = after.shape[0] if after.dim() else 0
            raise AdapterError(
                f"{where}: {name} came back for {envs} envs, {before.shape[0]} went in. The model must keep the "
                "leading batch axis."
            )
        raise AdapterError(
            f"{where}: {name} went in as {describe(before)} and came back as {describe(after)}. A state keeps its "
            "shape and dtype from the reset on."
        )


def _as_state(state: Mapping[str, Tensor], observation: Mapping[str, Tensor], num_envs: int) -> TensorDict:
    return new_tensordict({**state, **observation}, torch.Size([num_envs]))


def _add_place(error: Exception, call: UserCall, rng: CounterRNG) -> None:
    """Note in an exception where in the rollout it was raised; its type and traceback stay as they are."""
    what = f"Raised in {call.name}, called with ({', '.join(call.takes)})"
    try:
        step, episode, seed = (int(counter[0]) for counter in (rng.step, rng.episode, rng.seed))
    except Exception:  # no values to read, as on the meta device
        error.add_note(f"{what}.")
        return
    envs = rng.seed.shape[0]
    place = f"in step {step + 1} of episode {episode} of the first (seed {seed})"
    error.add_note(f"{what} for all {envs} envs at once, {place}.")


def _writes(leaf: Tensor) -> int:
    """How often a tensor was written into; inference tensors do not count, and nothing counts while tracing."""
    return 0 if torch.compiler.is_compiling() or leaf.is_inference() else writes(leaf)
