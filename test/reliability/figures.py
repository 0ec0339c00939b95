"""How many cases the fault tests try, and where their figures go.

`RELIABILITY=full` runs as many cases as docs/reliability.md speaks of; without it, enough for every
commit. `RELIABILITY_OUT` names the folder for the figures, one JSON file a test.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FULL = os.environ.get("RELIABILITY") == "full"


def cases(short: int, full: int) -> int:
    return full if FULL else short


def record(area: str, fault: str, demanded: str, tried: int, **measured: Any) -> None:
    """Keep what a test measured; only tests that got to their end call this."""
    folder = os.environ.get("RELIABILITY_OUT")
    if not folder:
        return
    name = "".join(c if c.isalnum() else "_" for c in fault.lower())[:60].strip("_")
    document = {
        "area": area,
        "fault": fault,
        "demanded": demanded,
        "cases": tried,
        "full": FULL,
        "measured": measured,
    }
    path = Path(folder) / f"{area}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def segments() -> set[Path]:
    """What Fast DDS holds in shared memory, of all processes."""
    names = Path("/dev/shm").glob("fastdds_*")
    return {p for p in names if "port" not in p.name and not p.name.endswith("_el")}
