"""Running a model that is a function of one env, for all envs in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wm_vec.adapters.calls import UserCall
from wm_vec.adapters.errors import ENV_BY_ENV, AdapterError
from wm_vec.adapters.runner import BatchRunner, Outcome
from wm_vec.core import CounterRNG
from wm_vec.core.trees import Tree


class VmapRunner(BatchRunner):
    """A function of one env, mapped over all by `torch.func.vmap`."""

    batching = "vmap"

    def _encoded(self, call: UserCall, tree: Tree, rng: CounterRNG, where: str) -> dict[str, Tensor]:
        counters = (rng.seed, rng.episode, rng.step) if "rng" in call.takes else ()

        def one(observation: Tree, *counter: Tensor) -> dict[str, Tensor]:
            own = CounterRNG(*(number.unsqueeze(0) for number in counter)) if counter else None
            return self.states.flatten(self._call(call, (self.calls.model, observation, own), rng), where)

        return torch.func.vmap(one, randomness="different")(tree, *counters)

    def _run(self, before: dict[str, Tensor], action: Tensor, rng: CounterRNG, lead: tuple[int, ...]) -> Outcome:
        constants: dict[str, Any] = {}
        draws = "rng" in self.calls.transition.takes
        counters = (rng.seed, rng.episode, rng.step) if draws else ()

        def one(state: dict[str, Tensor], taken: Tensor, *counter: Tensor) -> tuple[Any, ...]:
            # The draws of one env's generator have a leading axis of size 1.
            own = CounterRNG(*(number.unsqueeze(0) for number in counter)) if draws else None
            out = self._outcome(state, taken, rng, (), own)
            info = {key: value for key, value in out.info.items() if _all_tensors(value)}
            mixed = [key for key, value in out.info.items() if key not in info and _any_tensor(value)]
            if mixed:
                raise AdapterError(
                    f"{self.reader.where}: info[{mixed[0]!r}] has tensors and other things in one. Under "
                    "batching='vmap' give them entries of their own."
                )
            constants.update((key, value) for key, value in out.info.items() if key not in info)
            flags = {"reward": out.reward, "terminated": out.terminated}
            if out.truncated is not None:
                flags["truncated"] = out.truncated
            return out.state, out.observation, flags, info

        try:
            state, observation, flags, info = torch.func.vmap(one, randomness="different")(before, action, *counters)
        except AdapterError:
            raise
        except RuntimeError as error:
            error.add_note(
                f"{self.reader.where}: torch.func.vmap takes pure functions of one env's tensors: no "
                ".item(), float(), NumPy or `if` on values (torch.where instead), no writing in place. What it cannot "
                f"take runs in {ENV_BY_ENV}. Models with a leading batch axis take batching='batched'."
            )
            raise
        info.update(constants)
        return Outcome(state, observation, flags["reward"], flags["terminated"], flags.get("truncated"), info)


def _all_tensors(value: Any) -> bool:
    """Whether it is a tensor, or dicts, lists and tuples of nothing else, which vmap can return."""
    parts = _parts(value)
    return isinstance(value, Tensor) if parts is None else bool(parts) and all(map(_all_tensors, parts))


def _any_tensor(value: Any) -> bool:
    """Whether there is a tensor in it."""
    parts = _parts(value)
    return isinstance(value, Tensor) if parts is None else any(map(_any_tensor, parts))


def _parts(value: Any) -> list[Any] | None:
    """The parts of a mapping, tuple or list; None of anything else."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (tuple, list)) else None
