"""One report over many recordings: a table in HTML, with links to the single reports, and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from robot_perception.core.files import replace_text
from robot_perception.pipeline.batch.one import DONE, FAILED, REPORT, RESULTS, Outcome

_PICTURES = ("overlay.jpg", "evidence.jpg", "forecast.jpg")
_COUNTS = ("received", "processed", "dropped", "rejected")


def write_batch_report(out: Path, outcomes: Sequence[Outcome]) -> None:
    """Write `out`/report.json and `out`/report.html, each replaced as a whole. Raises OSError."""
    document = merged(outcomes)
    replace_text(out / "report.json", json.dumps(document, indent=1))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(num=_number)
    template = environment.from_string(
        resources.files("robot_perception.pipeline.batch")
        .joinpath("batch_template.html")
        .read_text(encoding="utf-8")
    )
    for row in document["recordings"]:
        folder = out / row["folder"]
        there = [name for name in _PICTURES if row["folder"] and (folder / name).is_file()]
        row["pictures"] = [f"{row['folder']}/{name}" for name in there]
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    replace_text(out / "report.html", template.render(made=made, **document))


def merged(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`recordings`, a row each, and the `total` over those that were processed.

    A copy of a recording has a row of its own, but does not count again in the total.
    """
    rows = [_row(outcome) for outcome in outcomes]
    single = {o.key: r for o, r in zip(outcomes, rows, strict=True) if o.status != FAILED}
    states = Counter(o.status for o in outcomes)
    copies = len(rows) - states[FAILED] - len(single)
    total: dict[str, Any] = {"recordings": len(rows), "copies": copies, "status": dict(states)}
    total |= {n: sum(r["messages"][n] for r in single.values()) for n in _COUNTS}
    for name in ("recorded_s", "replay_s", "keyframes", "revisits", "scored"):
        total[name] = sum(row[name] for row in single.values())
    results: Counter[str] = Counter()
    for row in single.values():
        results.update(row["results"])
    total["results"] = dict(results)
    # By the number of scores, so that each counts the same wherever it comes from.
    for name in ("forecast_m2", "repeat_m2"):
        scored = [r for r in single.values() if r["scored"]]
        weight = sum(r["scored"] for r in scored)
        total[name] = sum(r[name] * r["scored"] for r in scored) / weight if weight else None
    return {"total": total, "recordings": rows}


def _row(outcome: Outcome) -> dict[str, Any]:
    row = {k: v for k, v in asdict(outcome).items() if k not in ("summary", "again", "identity")}
    row["name"] = Path(outcome.recording).name
    if outcome.status == FAILED:
        return row
    summary = outcome.summary
    row["report"] = f"{outcome.folder}/{REPORT}"
    row["mcap"] = f"{outcome.folder}/{RESULTS}"
    parts = summary["accounting"].values()
    row["messages"] = {n: sum(part[n] for part in parts) for n in _COUNTS}
    row["latency_ms"] = {name: p["p50"] for name, p in summary["latency_ms"].items()}
    wanted = ("recorded_s", "replay_s", "keyframes", "revisits", "scored", "forecast_m2")
    for name in (*wanted, "repeat_m2", "results", "reasons", "damage", "backends"):
        row[name] = summary[name]
    row["results_sha256"] = summary["results_sha256"]
    row["whole"] = outcome.status == DONE
    return row


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
