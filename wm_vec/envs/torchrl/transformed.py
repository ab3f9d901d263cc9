"""Transforms over our TorchRL environment that leave it without host reads."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs import TransformedEnv as StockTransformedEnv
from torchrl.envs.transforms import Compose, Transform

from wm_vec.compat import reset_by_transform
from wm_vec.envs.torchrl.env import TorchRLEnv
from wm_vec.envs.torchrl.resets import MaskedResets, known_to_be_running, put_envs


class TransformedEnv(MaskedResets, StockTransformedEnv):
    """`torchrl.envs.TransformedEnv` over a `TorchRLEnv`, without a host read in a step.

    TorchRL's own asks the device after every step whether anything is done, and again in the reset. This one resets by
    a masked select, as `TorchRLEnv` does; transforms see the same calls. Entries that a reset does not give (an action,
    say) stay as they were.

    Args:
        base_env: A `TorchRLEnv`, or this over one; transforms are then joined.
        transform: One of TorchRL's transforms, or a callable.

    Raises:
        TypeError: Another environment.
    """

    def __init__(self, base_env: EnvBase, transform: Transform | None = None) -> None:
        if isinstance(base_env, TransformedEnv):
            inner = base_env.transform.clone()
            parts = [*inner] if isinstance(inner, Compose) else [inner]
            for part in parts:
                part.reset_parent()
            base_env, transform = base_env.base_env, Compose(*parts, *([] if transform is None else [transform]))
        if not isinstance(base_env, TorchRLEnv):
            raise TypeError(
                f"wm_vec.envs.TransformedEnv: takes a TorchRLEnv, got {type(base_env).__name__}. "
                "For other environments use torchrl.envs.TransformedEnv."
            )
        super().__init__(base_env, transform)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """TorchRL's own, which hands on no observations that episodes are to start from; this one does."""
        if tensordict is None or tensordict.get("_reset", None) is not None or kwargs.get("set_state"):
            return super()._reset(tensordict, **kwargs)
        given = self.base_env.given_starts(tensordict)
        if given is None:
            return super()._reset(tensordict, **kwargs)
        changed = self._changed_keys() & set(given.keys(True, True))
        if changed:
            raise ValueError(
                f"TransformedEnv: reset(td) cannot start from {sorted(map(str, changed))}, which a transform writes: "
                "the world knows them as they are before. Give those to env.base_env.reset(td), or to env.start_from."
            )
        source = tensordict.select(*self._carried(), strict=False)
        return reset_by_transform(
            self.transform, source, lambda source: self.base_env._reset(source.copy().update(given), **kwargs)
        )

    def _changed_keys(self) -> set[Any]:
        """The entries that transforms write over those of the base env."""
        parts = self.transform if isinstance(self.transform, Compose) else [self.transform]
        return {key for part in parts for key in part.out_keys or ()}

    def any_done(self, tensordict: TensorDictBase) -> Any:
        """Whether any env is done, ``()`` bool; nobody has looked at it yet. Writes ``_reset``."""
        return self.base_env.any_done(tensordict)

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Random actions: from the envs' own counters, or from the spec where a transform changes the actions."""
        if self._acts_as_base():
            return self.base_env.rand_action(tensordict)
        return EnvBase.rand_action(self, tensordict)

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reset what is done, by a masked select; in host memory only if something is."""
        done = tensordict.get("done")
        if known_to_be_running(done):
            return tensordict
        source = tensordict.select(*self._carried(), strict=False).set("_reset", done)
        fresh = reset_by_transform(self.transform, source, lambda source: self.base_env.restarted(source.get("_reset")))
        return put_envs(tensordict, done.reshape(tensordict.batch_size), fresh)

    def _carried(self) -> list[Any]:
        """The entries that transforms carry from step to step."""
        if "_carried" not in self._cache:
            self._cache["_carried"] = list(self.state_spec.keys(True, True))
        return self._cache["_carried"]

    def _acts_as_base(self) -> bool:
        """Whether transforms leave the actions alone; comparing specs reads the device, so it is done once."""
        if "_same_actions" not in self._cache:
            types = [type(spec) for spec in self.full_action_spec.values(True, True)]
            base = self.base_env.full_action_spec
            same = types == [type(spec) for spec in base.values(True, True)]
            same = same and set(self.full_action_spec.keys(True, True)) == set(base.keys(True, True))
            if same and self.device is not None and self.device.type != "meta":
                same = self.full_action_spec == base
            self._cache["_same_actions"] = same
        return self._cache["_same_actions"]
