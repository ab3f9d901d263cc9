"""What stands in for a CUDA graph where there is none."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wm_vec.compat import tree_leaves


class Tape(TorchDispatchMode):
    """What stands in for a CUDA graph: the operations of one run, repeated over the very same tensors."""

    made = 0

    def __init__(self, run, device, warmups=2):
        super().__init__()
        type(self).made += 1
        self.operations = []
        with torch.random.fork_rng(devices=[]):  # CUDA's warm-ups give their draws back, and recording draws nothing
            for _ in range(warmups):
                run()
            with self:
                run()
        # CUDA records without running; what is run once too often is made up for by the first replay.
        self.recorded_only = warmups == 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # Views stay views, and memory stays where it is.
        if not (func.is_view or "empty" in func._schema.name or "set_" in func._schema.name):
            self.operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        if self.recorded_only:
            self.recorded_only = False
            return
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
