"""Ready-made worlds: fields of every domain, with units, periods and meanings.

`World` is the root; `Business`, `Individual` and `Country` are entities beside it. `synthetic_economy` is a small world
with known equations, under the same paths.
"""

from wm_vec.schema.business import Business
from wm_vec.schema.calendar import TICKS
from wm_vec.schema.country import Country
from wm_vec.schema.economy import synthetic_economy
from wm_vec.schema.individual import Individual
from wm_vec.schema.sector import Sector
from wm_vec.schema.world import World

__all__ = ["TICKS", "Business", "Country", "Individual", "Sector", "World", "synthetic_economy"]
