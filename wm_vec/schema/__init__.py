"""Ready-made worlds: fields of every domain, with units, periods and meanings.

`World` is the root; `Business`, `Individual` and `Country` are entities beside it. `synthetic_economy` is a small world
with known equations under the same paths; it is imported on first use, since it is an environment, too.
"""

from importlib import import_module
from typing import Any

from wm_vec.schema.business import Business
from wm_vec.schema.calendar import TICKS
from wm_vec.schema.country import Country
from wm_vec.schema.individual import Individual
from wm_vec.schema.sector import Sector
from wm_vec.schema.world import World

__all__ = ["TICKS", "Business", "Country", "Individual", "Sector", "World", "synthetic_economy"]


def __getattr__(name: str) -> Any:
    if name == "synthetic_economy":
        return import_module("wm_vec.economy").synthetic_economy
    raise AttributeError(f"module 'wm_vec.schema' has no attribute {name!r}")
