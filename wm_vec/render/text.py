"""Observed values as text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def value_table(named: Mapping[str, np.ndarray]) -> str:
    """One line per field: its path and its values."""
    width = max(len(path) for path in named)
    lines = []
    for path, values in named.items():
        numbers = "  ".join(f"{x:+.4g}" for x in np.ravel(values)[:8])
        lines.append(f"{path:<{width}}  {numbers}{'  ...' if np.size(values) > 8 else ''}")
    return "\n".join(lines)
