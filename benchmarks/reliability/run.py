"""Everything that docs/reliability.md says, measured anew: fault tests, fuzzing, soak, table.

python benchmarks/reliability/run.py [--minutes 60] [--short] [--report-only]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
AREAS = {
    "decoder": "Messages",
    "recordings": "Recordings",
    "files": "Checkpoints, maps, vocabularies",
    "time": "Time",
    "overload": "Overload",
    "devices": "Devices and disks",
    "lifecycle": "Lifecycle",
    "soak": "Soak",
    "security": "Security",
}
_HEAD = """\
# Reliability

What the package was put through, and what was measured. `make reliability` measures all of it
anew and writes this page from the files in [reliability/](reliability); a short form of each test
is part of `make test`. A test that does not hold leaves no row and makes the command fail. Rows
marked "short" are of fewer cases or less time than the command's full form.

"""


def flat(value: Any) -> str:
    """A measured value in one cell of a table."""
    if isinstance(value, dict):
        return ", ".join(f"{k.replace('_', ' ')} {flat(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " → ".join(flat(v) for v in value)
    return str(value).replace("|", "\\|")


def cell(measured: dict[str, Any]) -> str:
    return "; ".join(f"{k.replace('_', ' ')}: {flat(v)}" for k, v in measured.items())


def page(folder: Path) -> str:
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    machine = next((d for d in documents if d.get("area") == "machine"), None)
    text = _HEAD
    if machine:
        text += f"Measured on {machine['machine']}.\n"
    for area, title in AREAS.items():
        rows = [d for d in documents if d.get("area") == area]
        if not rows:
            continue
        text += f"\n## {title}\n\n| fault | demanded | cases | measured |\n|---|---|--:|---|\n"
        for d in rows:
            short = "" if d["full"] else " (short)"
            text += f"| {d['fault']}{short} | {d['demanded']} | {d['cases']:,} |"
            text += f" {cell(d['measured'])} |\n"
        if (folder / f"{area}.png").exists():
            text += f"\n![{title}: what was measured over time]({folder.name}/{area}.png)\n"
    notes = folder / "notes.md"
    return text + ("\n" + notes.read_text() if notes.exists() else "")


def machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {"area": "machine", "machine": f"{os.cpu_count()} cores of {model}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the soak; 0: none")
    parser.add_argument("--short", action="store_true", help="as many cases as in make test")
    parser.add_argument("--report-only", action="store_true", help="the page from what there is")
    options = parser.parse_args()
    status = 0
    if not options.report_only:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for old in FOLDER.glob("*.json"):
            old.unlink()
        environment = {**os.environ, "RELIABILITY_OUT": str(FOLDER), "PYTHONPATH": str(ROOT)}
        environment["RELIABILITY"] = "short" if options.short else "full"
        tests = [sys.executable, "-m", "pytest", "test/reliability", "-m", "slow or not slow"]
        done = subprocess.run([*tests, "--timeout", "3600"], cwd=ROOT, env=environment, check=False)
        status = done.returncode
        if options.minutes:
            soak = [sys.executable, str(ROOT / "benchmarks/reliability/soak.py")]
            soak += ["--minutes", str(options.minutes), "--out", str(FOLDER)]
            status = (
                subprocess.run(soak, cwd=ROOT, env=environment, check=False).returncode or status
            )
        (FOLDER / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n")
    PAGE.write_text(page(FOLDER))
    print(f"written: {PAGE}")
    return status


if __name__ == "__main__":
    sys.exit(main())
