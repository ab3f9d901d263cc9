"""Run the code of pictures.md in this folder, which writes the pictures that it shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    os.chdir(FOLDER)
    blocks = re.findall(r"^```python\n(.*?)^```", (FOLDER / "pictures.md").read_text(), re.MULTILINE | re.DOTALL)
    exec("\n".join(blocks), {"__name__": "__main__"})
