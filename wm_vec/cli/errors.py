"""What commands raise."""

from __future__ import annotations


class CommandError(Exception):
    """Something that the user can put right; shown as one line, with exit code 2."""
