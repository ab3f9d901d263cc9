"""Running a model for all envs in one call: on batches, or as a function of one env under vmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from wm_vec.adapters.calls import UserCall
from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.adapters.forms import ResetParts, read_transition, tuple_read
from wm_vec.adapters.randomness import warn_of_draws
from wm_vec.adapters.running import Runner, Setting, as_flags, numbers, refuse_flag_as_reward
from wm_vec.adapters.states import StateCodec
from wm_vec.core import CounterRNG, Transition
from wm_vec.core.trees import Tree


class _Outcome(NamedTuple):
    """What a call of a model gave, as tensors."""

    state: dict[str, Tensor]
    observation: dict[str, Tensor]
    reward: Tensor
    terminated: Tensor
    truncated: Tensor | None
    info: dict[str, Any]


class BatchRunner(Runner):
    """All envs in one call: states, actions and results have a leading axis ``(B, ...)``."""

    batching = "batched"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.states: StateCodec | None = None
        self._examples: dict[str, Tensor] = {}

    def pack(self, starts: Sequence[ResetParts], lead: tuple[int, ...]) -> TensorDict:
        """The states' tensors stacked, or joined along the axis that they have in front."""
        where = self.where(self.calls.reset or "initial_state")
        join = torch.cat if lead else torch.stack
        rows = [self.observations.tensors(start.observation, lead, self.device, where) for start in starts]
        self._begin(starts)
        if self.states is None:
            self.states = StateCodec(starts[0].state, where, self.batching)
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
        column = {name: join([s[name].detach().to(self.device) for s in states]) for name in self.states.names}
        self._examples = self._examples or {name: leaf.new_empty(0, *leaf.shape[1:]) for name, leaf in column.items()}
        observation = {name: join([row[name] for row in rows]) for name in rows[0]}
        return self._finish(column, observation, len(starts) * (lead[0] if lead else 1))

    def encode(self, observation: dict[str, Tensor], rng: CounterRNG) -> TensorDict:
        """One call for all observations."""
        call, where = self.calls.encode, self.where(self.calls.encode or "encode")
        num_states = next(iter(observation.values())).shape[0]
        tree = self.observations.tree(observation)
        assert self.states is not None
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
        return self._finish(state, observation, num_states)

    def _encoded(self, call: UserCall, tree: Tree, rng: CounterRNG, where: str) -> dict[str, Tensor]:
        """What the user's encoder makes of observations ``(M, ...)``."""
        assert self.states is not None
        return self.states.flatten(self._call(call, (self.calls.model, tree, rng), rng, None), where)

    def step(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> Transition:
        """One call for all envs."""
        lead = (action.shape[0],)
        assert self.states is not None
        before = {name: state.get(name) for name in self.states.names}
        versions = {name: _writes(leaf) for name, leaf in before.items()}
        with self.generator.stream() if self.generator is not None else self._watch(self.calls.transition):
            out = self._run(before, self.actions.unpack(action), rng, lead)
        for name, leaf in out.state.items():
            self._check_leaf(name, before[name], leaf)
            if _writes(before[name]) != versions[name]:
                raise AdapterError(
                    f"{self._transition_name} writes into the {name} that it is given. Return a new one, as in "
                    "state = state + change, or take batching='loop', where states are copied."
                )
        after = self._finish(out.state, out.observation, lead[0])
        tree = self.observations.tree(out.observation)
        return Transition(after, tree, out.reward, out.terminated, out.truncated, out.info)

    def model_state(self, state: TensorDictBase, row: int | None) -> Any:
        """A copy in the model's own structure."""
        assert self.states is not None
        leaves = {name: state.get(name) for name in self.states.names}
        if row is None:
            return self.states.rebuild({n: leaf.clone() for n, leaf in leaves.items()}, tuple(state.batch_size))
        return self.states.rebuild({n: leaf[row].clone() for n, leaf in leaves.items()}, ())

    def _run(self, before: dict[str, Tensor], action: Tensor, rng: CounterRNG, lead: tuple[int, ...]) -> _Outcome:
        return self._outcome(before, action, rng, lead)

    def _outcome(
        self,
        before: Mapping[str, Tensor],
        action: Any,
        rng: CounterRNG,
        lead: tuple[int, ...],
        own: CounterRNG | None = None,
    ) -> _Outcome:
        """Call the model once and read what came back; `own` is the generator that it gets, None for `rng`."""
        calls, states = self.calls, self.states
        assert states is not None
        if calls.action_transform is not None:
            action = self._call(calls.action_transform, (calls.model, action), rng, None)
        values = (calls.model, states.rebuild(before, lead), action, own or rng)
        result = self._call(calls.transition, values, rng, None)
        where = self._transition_name
        parts = read_transition(result, self.observations, lead, where)
        if not self._looked or not parts.has_state:
            self._look(parts)
        where += tuple_read(result)
        reward, terminated = self._judge(parts, action, rng, None)
        truncated = parts.truncated
        return _Outcome(
            states.flatten(parts.state, where),
            self.observations.tensors(parts.observation, lead, self.device, where),
            self._per_env(reward, "reward", lead, where),
            as_flags(self._per_env(terminated, "terminated", lead, where)),
            None if truncated is None else as_flags(self._per_env(truncated, "truncated", lead, where)),
            dict(parts.info),
        )

    def _per_env(self, value: Any, what: str, lead: tuple[int, ...], where: str) -> Tensor:
        """A number per env, ``lead``, from that, from ``(*lead, 1)``, or from one Python number for all."""
        if isinstance(value, (int, float)) and not (what == "reward" and isinstance(value, bool)):
            dtype = torch.bool if isinstance(value, bool) else self.actions.dtype
            return torch.full(lead, value, dtype=dtype, device=self.device)
        tensor = value if isinstance(value, Tensor) else numbers(value, what, where)
        refuse_flag_as_reward(tensor, what, where)
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
        where = self._transition_name
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


class VmapRunner(BatchRunner):
    """A function of one env, mapped over all by `torch.func.vmap`."""

    batching = "vmap"

    def _encoded(self, call: UserCall, tree: Tree, rng: CounterRNG, where: str) -> dict[str, Tensor]:
        counters = (rng.seed, rng.episode, rng.step) if "rng" in call.takes else ()

        def one(observation: Tree, *counter: Tensor) -> dict[str, Tensor]:
            assert self.states is not None
            own = CounterRNG(*(number.unsqueeze(0) for number in counter)) if counter else None
            return self.states.flatten(self._call(call, (self.calls.model, observation, own), rng, None), where)

        return torch.func.vmap(one, randomness="different")(tree, *counters)

    def _run(self, before: dict[str, Tensor], action: Tensor, rng: CounterRNG, lead: tuple[int, ...]) -> _Outcome:
        constants: dict[str, Any] = {}
        draws = "rng" in self.calls.transition.takes
        counters = (rng.seed, rng.episode, rng.step) if draws else ()

        def one(state: dict[str, Tensor], taken: Tensor, *counter: Tensor) -> tuple[Any, ...]:
            # As under "loop": the generator of one env, whose draws have a leading axis of size 1.
            own = CounterRNG(*(number.unsqueeze(0) for number in counter)) if draws else None
            out = self._outcome(state, taken, rng, (), own)
            info = {key: value for key, value in out.info.items() if _all_tensors(value)}
            mixed = [key for key, value in out.info.items() if key not in info and _any_tensor(value)]
            if mixed:
                raise AdapterError(
                    f"{self._transition_name}: info[{mixed[0]!r}] has tensors and other things in one. Under "
                    "batching='vmap' give them entries of their own."
                )
            constants.update((key, value) for key, value in out.info.items() if key not in info)
            judged = {"reward": out.reward, "terminated": out.terminated}
            if out.truncated is not None:
                judged["truncated"] = out.truncated
            return out.state, out.observation, judged, info

        try:
            state, observation, judged, info = torch.func.vmap(one, randomness="different")(before, action, *counters)
        except AdapterError:
            raise
        except RuntimeError as error:
            error.add_note(
                f"{self._transition_name}: torch.func.vmap takes pure functions of one env's tensors: no "
                ".item(), float(), NumPy or `if` on values (torch.where instead), no writing in place. What it cannot "
                "take runs with batching='loop', and models with a leading batch axis with 'batched'."
            )
            raise
        info.update(constants)
        return _Outcome(state, observation, judged["reward"], judged["terminated"], judged.get("truncated"), info)


def _all_tensors(value: Any) -> bool:
    """Whether it is a tensor, or dicts, lists and tuples of nothing else: what vmap hands out."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_all_tensors, value.values()))
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_all_tensors, value))
    return isinstance(value, Tensor)


def _any_tensor(value: Any) -> bool:
    """Whether there is a tensor in it."""
    if isinstance(value, Mapping):
        return any(map(_any_tensor, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(_any_tensor, value))
    return isinstance(value, Tensor)


def _writes(leaf: Tensor) -> int:
    """How often a tensor was written into; inference tensors do not count, and no tracing can tell."""
    return 0 if torch.compiler.is_compiling() or leaf.is_inference() else leaf._version
