"""Forked worker processes, in which torch hangs.

Import this where torch is imported: only forks after the import are noticed.
"""

from __future__ import annotations

import os
import warnings

import torch

_unwarned_fork = False
"""Whether this process was forked after this module was imported, and nobody was told yet."""


def _note_fork() -> None:
    global _unwarned_fork
    _unwarned_fork = True


if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(after_in_child=_note_fork)


def warn_if_forked() -> None:
    """Warn, once in a process, if it was forked after torch was loaded and would use several threads.

    A fork copies torch's record of its thread pool, but not the threads: the first operation large enough for them
    waits forever. With one thread there is nothing to wait for, and no warning.
    """
    global _unwarned_fork
    if _unwarned_fork and torch.get_num_threads() > 1:
        _unwarned_fork = False
        warnings.warn(
            "This process was forked from one that had loaded torch. If torch had already run there, it hangs here at "
            'its next large operation. Make workers with AsyncVectorEnv(..., context="spawn") instead, or, where they '
            "must be forked, call torch.set_num_threads(1) first thing in each of them.",
            RuntimeWarning,
            stacklevel=3,
        )
