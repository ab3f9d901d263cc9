"""Every use of what torch, tensordict and torchrl keep private, each with its reason.

Nothing else in wm_vec reaches behind their public names, so that a new version of theirs is met in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

# A storage's identity, which is given to no other while the reference is kept; torch has no public name for it.
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: F401 - for others to import

# torch.utils.pytree is public from a later torch on than the oldest supported here.
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten  # noqa: F401 - for others to import

if TYPE_CHECKING:
    from torchrl.envs.transforms import Transform

State = TypeVar("State")


def new_tensordict(
    entries: Mapping[str, Any], batch_size: torch.Size, device: torch.device | None = None
) -> TensorDict:
    """A TensorDict of entries that are known to fit, nested dicts among them.

    The public constructor looks at every entry's shape and device: 20 us more for each TensorDict of a step.
    """
    made = {k: new_tensordict(v, batch_size, device) if type(v) is dict else v for k, v in entries.items()}
    result = TensorDict._new_unsafe(made, batch_size=batch_size, nested=False)
    result._device = device  # as an argument it is parsed again
    return result


def new_state(kind: type[State], entries: Mapping[str, Any], batch_size: torch.Size) -> State:
    """A tensorclass of entries that are known to fit: the public constructor takes 80 us."""
    return kind._from_tensordict(new_tensordict(entries, batch_size))  # type: ignore[attr-defined]


def get_entry(tensordict: TensorDictBase, key: str) -> Any:
    """An entry by its own name, or None; `TensorDict.get` parses keys first."""
    return tensordict._get_str(key, None)


def set_entry(tensordict: TensorDictBase, key: str, value: Any) -> None:
    """Put an entry that is known to fit into a TensorDict, which is not locked; the public way checks it again."""
    tensordict._set_str(key, value, validated=True, inplace=False, non_blocking=False)


def writes(tensor: Tensor) -> int:
    """How often a tensor was written into in place; torch counts it for autograd, and has no public name for it."""
    return tensor._version


NOISY_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
"""The bases of dropout and normalisation of every dimension, which torch exports no others of."""
COMPILED_STEP = "_compiled_step_and_maybe_reset"
"""Where `EnvBase.compile` keeps the compiled step; there is no public way to put it back after `eager`."""


def reset_by_transform(transform: Transform, source: TensorDictBase, reset: Callable[..., TensorDictBase]) -> Any:
    """What a transform makes of ``reset(source)``, which must give all envs.

    TorchRL has this in `TransformedEnv._reset` alone, where it also asks the device what is done.
    """
    source = transform._reset_env_preprocess(source)
    return transform._reset(source, reset(source))
