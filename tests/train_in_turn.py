"""Training commands one after the other in one process; what ``accelerate launch`` starts several of.

python tests/train_in_turn.py '[["train_rearranger.py", "PACK", "--run", "RUN"]]'
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(commands: list[list[str]]) -> None:
    """Each script's own command with its options."""
    for script, *arguments in commands:
        runpy.run_path(str(ROOT / script))["main"](arguments, standalone_mode=False)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
