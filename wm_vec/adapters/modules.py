"""One step of TensorDict modules, as the `transition_fn` of a `TorchRLDynamics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from wm_vec.adapters.errors import AdapterError, describe
from wm_vec.adapters.keys import Encoder, Path, find, path_of, paths_in, shown
from wm_vec.core import CounterRNG

TERMINATED: tuple[Path, ...] = (("terminated",), ("done",))


class ModuleStep:
    """Runs a world model's modules over TensorDicts ``(B,)``. All paths are without ``"next"`` in front.

    Args:
        module: Dynamics and heads.
        states: What is carried from step to step.
        places: Where observations stand; see `observation_places`.
        decoder: From states to observations; None where the module writes them.
        encoder: From observations to states; None for the module's own ``encoder``, if it has one.
        action: Where the action goes.
        encode: What is done to actions first.
        reward: Where rewards stand; None for none.
        terminated: Where terminations stand; None for the first of `TERMINATED` that there is.
        terminated_as: What terminations are if they are no bools.
        reads_terminated: Whether terminations are read at all.
        info: What is handed on in info.
        noise: Where noise goes, and its shape of one env.

    Raises:
        AdapterError: No TensorDict modules, or `terminated_as` is something else.
    """

    def __init__(
        self,
        module: Any,
        *,
        states: Sequence[Path],
        places: Any,
        decoder: Any,
        encoder: Any,
        action: Path,
        encode: Encoder | None,
        reward: Path | None,
        terminated: Path | None,
        terminated_as: Literal["probability", "logit"],
        reads_terminated: bool,
        info: Sequence[Path],
        noise: Mapping[Path, tuple[int, ...]],
    ) -> None:
        for name, given in (("module", module), ("decoder", decoder), ("encoder", encoder)):
            if not isinstance(given, TensorDictModuleBase) and not (name != "module" and given is None):
                raise AdapterError(
                    f"TorchRLDynamics: {name} must be a TensorDict module, got {describe(given)}. Wrap it: "
                    "TensorDictModule(net, in_keys=[...], out_keys=[...]); CallableDynamics takes any model."
                )
        if terminated_as not in ("probability", "logit"):
            raise AdapterError(f"terminated_as must be 'probability' or 'logit', got {terminated_as!r}.")
        # TorchRL's WorldModel runs its encoder in forward; this is what its own environment steps.
        self.module = getattr(module, "step_module", module)
        self.decoder = decoder
        own = getattr(module, "encoder", None)
        self.encoder = own if encoder is None and isinstance(own, TensorDictModuleBase) else encoder
        self._states, self._places, self._info = list(states), places, list(info)
        self._action, self._encode, self._noise = action, encode, dict(noise)
        self._reward, self._terminated, self._terminated_as = reward, terminated, terminated_as
        self._reads_terminated = reads_terminated
        self._written = {path_of(key) for key in self.module.out_keys}
        floats = (p.dtype for p in self.module.parameters() if p.dtype.is_floating_point)
        self._dtype = next(floats, torch.float32)

    def start(self, start: TensorDictBase, where: str) -> tuple[TensorDictBase, Any]:
        """States and observations of what episodes start from.

        Args:
            start: ``(M,)``.
            where: What gave it, for errors.

        Raises:
            AdapterError: Something is not in it.
        """
        state = TensorDict({}, batch_size=start.batch_size, device=start.device)
        for path in self._states:
            state.set(path, self._tensor(start, path, where, "state_keys"))
        if self.decoder is not None:
            return state, self._decode(state)
        hint = "observation_key, or a decoder that makes observations of states"
        return state, self._observation(start, where, hint)

    @property
    def encodes(self) -> bool:
        """Whether there is a way from observations to states: an encoder, or the states are observations."""
        observed = self.decoder is None and set(self._states) <= set(paths_in(self._places))
        return observed or self.encoder is not None

    def encode(self, observation: Any) -> TensorDictBase:
        """The states ``(M,)`` of real observations ``(M, ...)``.

        Raises:
            AdapterError: The encoder reads something else, or does not write all states.
        """
        seen = dict(_placed(self._places, observation))
        first = next(iter(seen.values()))
        given = TensorDict({}, batch_size=first.shape[:1], device=first.device)
        for path, value in seen.items():
            given.set(path, value)
        where = "the observation"
        if self.encoder is not None:
            for key in self.encoder.in_keys:
                if path_of(key) in seen:
                    given.set(key, seen[path_of(key)])
            given, where = _run(self.encoder, given, "the encoder"), "the encoder's output"
        state = TensorDict({}, batch_size=first.shape[:1], device=first.device)
        for path in self._states:
            state.set(path, self._tensor(given, path, where, "state_keys"))
        return state

    def __call__(self, state: TensorDictBase, action: Tensor, rng: CounterRNG) -> dict[str, Any]:
        """One step of B envs.

        Args:
            state: ``(B,)`` with the state's keys.
            action: ``(B, ...)``.
            rng: Where noise comes from.

        Returns:
            The form of a transition that has everything under its name.
        """
        given = TensorDict({}, batch_size=state.batch_size, device=action.device)
        for path in self._states:
            given.set(path, state.get(path))
        given.set(self._action, action if self._encode is None else self._encode(action, self._dtype))
        for path, noise in self._draw(rng):
            given.set(path, noise)
        out = _run(self.module, given, "the module")
        where = "the module's output"
        following = TensorDict({}, batch_size=state.batch_size, device=action.device)
        for path in self._states:
            leaf = self._tensor(out, path, where, "state_keys")
            if leaf is state.get(path) and path not in self._written:
                raise AdapterError(
                    f"TorchRLDynamics: the state {shown(path)} does not come back: the module writes "
                    f"{_listed(self._written)}. Have it write {shown(path)} or {('next', *path)!r}, or take "
                    f"{shown(path)} out of state_keys; what never changes goes through TensorDictModule(nn.Identity(), "
                    f"[{shown(path)}], [{shown(path)}])."
                )
            following.set(path, leaf)
        result: dict[str, Any] = {"state": following}
        if self.decoder is None:
            result["observation"] = self._observation(out, where, "observation_key, or a decoder")
        else:
            result["observation"] = self._decode(following)
        if self._reward is not None:
            result["reward"] = self._tensor(out, self._reward, where, "reward_key, or a reward_fn")
        terminated = self._ended(out) if self._reads_terminated else None
        if terminated is not None:
            result["terminated"] = terminated
        result["info"] = {".".join(path): self._tensor(out, path, where, "info_keys") for path in self._info}
        return result

    def _draw(self, rng: CounterRNG) -> list[tuple[Path, Tensor]]:
        """Standard normals ``(B, *shape)`` of every env's own, one tensor for each key that wants some."""
        if not self._noise:
            return []
        sizes = [prod(shape) for shape in self._noise.values()]
        parts = rng.normal(sum(sizes), dtype=self._dtype).split(sizes, 1)
        return [
            (path, part.reshape(-1, *shape)) for (path, shape), part in zip(self._noise.items(), parts, strict=True)
        ]

    def _ended(self, out: TensorDictBase) -> Tensor | None:
        """Terminations as flags or probabilities; None where the module says nothing of them."""
        path = self._terminated
        if path is None:
            path = next((p for p in TERMINATED if find(out, p) is not None), None)
        value = None if path is None else self._tensor(out, path, "the module's output", "terminated_key")
        if value is None or value.dtype is torch.bool or self._terminated_as == "probability":
            return value
        return (value > 0).to(value.dtype).masked_fill(value.isnan(), torch.nan)

    def _decode(self, state: TensorDictBase) -> Any:
        given = TensorDict({}, batch_size=state.batch_size, device=state.device)
        for key in self.decoder.in_keys:
            value = state.get(path_of(key), None)
            if value is None:
                raise AdapterError(
                    f"TorchRLDynamics: the decoder reads {key!r}, the state has {_listed(self._states)}. It sees the "
                    "state alone; name what it needs in state_keys."
                )
            given.set(key, value)
        out = _run(self.decoder, given, "the decoder")
        return self._observation(out, "the decoder's output", "observation_key")

    def _observation(self, tensordict: TensorDictBase, where: str, argument: str, places: Any = None) -> Any:
        places = self._places if places is None else places
        if isinstance(places, dict):
            return {name: self._observation(tensordict, where, argument, part) for name, part in places.items()}
        return self._tensor(tensordict, places, where, argument)

    def _tensor(self, tensordict: TensorDictBase, path: Path, where: str, argument: str) -> Tensor:
        """The tensor at a path.

        Raises:
            AdapterError: There is none.
        """
        value = find(tensordict, path)
        if isinstance(value, Tensor):
            return value
        there = _listed(path_of(key) for key in tensordict.keys(include_nested=True, leaves_only=True))
        found = "there is none" if value is None else f"it is {describe(value)}"
        raise AdapterError(
            f"TorchRLDynamics: {where} must have a tensor {shown(path)}, at the root or under 'next', but {found}; it "
            f"has {there}. Name the right one with {argument}."
        )


def _placed(places: Any, observation: Any) -> Iterator[tuple[Path, Tensor]]:
    """The parts of an observation with their paths."""
    if not isinstance(places, dict):
        yield places, observation
        return
    for name, part in places.items():
        yield from _placed(part, observation[name])


def _run(module: TensorDictModuleBase, given: TensorDict, name: str) -> TensorDictBase:
    """Call a module on a TensorDict ``(B,)``.

    Raises:
        AdapterError: It gives something else than a TensorDict ``(B,)``, or reads what it is not given.
    """
    names = list(given.keys(include_nested=True, leaves_only=True))
    try:
        out = module(given)
    except Exception as error:
        what = describe(given.select(*names))
        lacking = [key for key in module.in_keys if given.get(key, None) is None]
        if "batch dimension mismatch" in str(error):
            raise AdapterError(
                f"TorchRLDynamics: {name} gave a tensor of another batch size than it was given, {what}: {error} It "
                "must keep the leading batch axis."
            ) from error
        if lacking:
            raise AdapterError(
                f"TorchRLDynamics: {name} reads {lacking}, but is given {what}. Name what it carries from step to step "
                "in state_keys, and the noise that it takes in noise; say action_key if it reads the action elsewhere."
            ) from error
        error.add_note(f"Raised in {name} ({type(module).__name__}), given {what}.")
        raise
    if not isinstance(out, TensorDictBase):
        raise AdapterError(f"TorchRLDynamics: {name} must return a TensorDict, got {describe(out)}.")
    if out.batch_size != given.batch_size:
        raise AdapterError(
            f"TorchRLDynamics: {name} was given batch size {tuple(given.batch_size)} and returned "
            f"{tuple(out.batch_size)}. It must keep the batch; an ensemble has to be reduced over its members."
        )
    return out


def _listed(paths: Any) -> str:
    return ", ".join(sorted({shown(path) for path in paths})) or "nothing"
