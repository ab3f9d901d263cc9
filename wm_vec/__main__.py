"""``python -m wm_vec``."""

import sys

from wm_vec.cli import main

sys.exit(main())
