"""The report of a replay: one HTML file with its pictures, plots and script inside."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jinja2
from markupsafe import Markup

from robot_perception.core.files import replace_text
from robot_perception.pipeline import draw
from robot_perception.pipeline import report_plots as plots
from robot_perception.pipeline.inbox import Accounting
from robot_perception.pipeline.report_facts import machine, notes
from robot_perception.pipeline.report_views import (
    ABOVE,
    AHEAD,
    CAMERA,
    ERROR,
    ERROR_SCALE_M,
    EVIDENCE,
    ReportBuilder,
    Sample,
)

if TYPE_CHECKING:
    from robot_perception.pipeline.replay import Replayed

__all__ = ["ReportBuilder", "save_pictures", "write_report"]

_PANELS = {
    CAMERA: "Camera and segments",
    EVIDENCE: "Latest revisit",
    ABOVE: "Observed and forecast",
    ERROR: "Forecast against what came",
    AHEAD: "From behind the sensor",
}
_PICTURES = {
    CAMERA: "overlay.jpg",
    EVIDENCE: "evidence.jpg",
    ABOVE: "forecast.jpg",
    AHEAD: "scan.jpg",
    ERROR: "forecast_error.png",
}
_THUMBNAILS = 9
_UNKNOWN = "–"


def write_report(
    path: Path,
    title: str,
    replayed: Replayed,
    builder: ReportBuilder,
    parity: Mapping[str, Any] | None = None,
    live: Mapping[str, Any] | None = None,
) -> None:
    """Write the report to `path`, which is replaced only once the new one is complete.

    `parity` is `Parity.to_dict()` of the comparison with live nodes; `live` is the summary that
    `robot_perception.ros.live` prints. Raises OSError where `path` cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(num=_number, ms=_milliseconds, pct=_percent)
    template = environment.from_string(
        resources.files("robot_perception.pipeline")
        .joinpath("report_template.html")
        .read_text(encoding="utf-8")
    )
    replace_text(path, template.render(_context(title, replayed, builder, parity, live)))


def save_pictures(builder: ReportBuilder, folder: Path) -> list[Path]:
    """Save the most telling picture of each kind that was seen into `folder`; their paths.

    overlay.jpg has the most segments, evidence.jpg the most inliers, forecast.jpg, scan.jpg and
    forecast_error.png the most predicted motion. Raises OSError where one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for panel, name in _PICTURES.items():
        if panel in builder.best:
            path = folder / name
            quality = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
            _, data = cv2.imencode(path.suffix, builder.best[panel].rgb[..., ::-1], quality)
            path.write_bytes(data.tobytes())
            saved.append(path)
    return saved


def _context(
    title: str,
    replayed: Replayed,
    builder: ReportBuilder,
    parity: Mapping[str, Any] | None,
    live: Mapping[str, Any] | None,
) -> dict[str, Any]:
    start_ns = builder.first_ns or 0
    timeline = _timeline(builder, start_ns)
    found = [d for d in builder.decisions if d.match_id is not None]
    return {
        "title": title,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "recorded": _date(builder.first_ns),
        "span_s": ((builder.last_ns or start_ns) - start_ns) * 1e-9,
        "machine": machine(),
        "replayed": replayed,
        "exact": all(a.exact for a in replayed.accounting.values()),
        "total": _total(replayed),
        "builder": builder,
        "mean_segments": builder.segments[1] / builder.segments[0] if builder.segments[0] else None,
        "found": found,
        "timeline": timeline,
        "panels": [p for p in _PANELS if p in timeline["panels"]],
        "panel_titles": _PANELS,
        "spans": _spans(set(timeline["panels"]), _is_wide(builder)),
        "thumbnails": _thumbnails(builder),
        "horizon_colours": [f"#{bytes(c).hex()}" for c in draw.horizon_colours(5)],
        "error_scale_m": ERROR_SCALE_M,
        "errors": _errors(replayed),
        "unscored": sum(not math.isfinite(s.forecast_m2) for s in replayed.scores),
        "scored": len({s.stamp_ns for s in replayed.scores}),
        "notes": notes(replayed.backends),
        "plots": _plots(replayed, builder, start_ns),
        "parity": parity,
        "live": live,
        "live_ms_max": _live_max(live),
    }


def _plots(replayed: Replayed, builder: ReportBuilder, start_ns: int) -> dict[str, Markup | None]:
    """Each plot as markup, None where there is nothing to draw."""
    scored = any(math.isfinite(s.forecast_m2 + s.repeat_m2) for s in replayed.scores)
    several = len({s.stamp_ns for s in replayed.scores}) > 1
    decisions = builder.decisions
    chosen: dict[str, tuple[bool, Callable[[], str | None]]] = {
        "latency": (
            any(replayed.latency_series_ms.values()),
            lambda: plots.latency({k: v for k, v in replayed.latency_series_ms.items() if v}),
        ),
        "forecast": (scored, lambda: plots.forecast_error(replayed.scores)),
        "over_time": (
            scored and several,
            lambda: plots.forecast_over_time(replayed.scores, start_ns),
        ),
        "probability": (bool(decisions), lambda: plots.probability(decisions, start_ns)),
        "map": (
            bool(decisions),
            lambda: plots.keyframe_map(builder.keyframe_positions, builder.edges),
        ),
    }
    drawn = {name: draw() if wanted else None for name, (wanted, draw) in chosen.items()}
    # matplotlib escapes the text in its SVG.
    return {name: Markup(svg) if svg else None for name, svg in drawn.items()}


def _timeline(builder: ReportBuilder, start_ns: int) -> dict[str, Any]:
    """Pictures (base64), and by moment which picture each panel shows: the latest until then."""
    pictures: list[str] = []
    shown: dict[str, tuple[int, str]] = {}
    moments: list[dict[str, Any]] = []
    samples = sorted(
        (*builder.camera.samples, *builder.evidence.samples, *builder.lidar.samples),
        key=lambda sample: sample.order,
    )
    for sample in samples:
        for panel, jpeg in sample.pictures.items():
            seconds = (sample.stamp_ns - start_ns) * 1e-9
            shown[panel] = (len(pictures), f"{sample.captions[panel]} · at {seconds:.2f} s")
            pictures.append(base64.b64encode(jpeg).decode())
        moment = {
            "stamp": f"{sample.stamp_ns // 10**9}.{sample.stamp_ns % 10**9:09d}",
            "t": (sample.stamp_ns - start_ns) * 1e-9,
            "shown": dict(shown),
            "revisit": EVIDENCE in sample.pictures,
        }
        # An image and a scan of the same stamp make one moment.
        if moments and moments[-1]["stamp"] == moment["stamp"]:
            moment["revisit"] |= moments.pop()["revisit"]
        moments.append(moment)
    return {"pictures": pictures, "moments": moments, "panels": list(shown)}


def _thumbnails(builder: ReportBuilder) -> list[tuple[str, str]]:
    """Base64 pictures of up to nine revisits, evenly chosen, with their captions."""
    samples = builder.evidence.samples
    step = max(1, -(-len(samples) // _THUMBNAILS))
    return [(_data(s), s.captions[EVIDENCE]) for s in samples[::step]]


def _data(sample: Sample) -> str:
    return base64.b64encode(sample.pictures[EVIDENCE]).decode()


def _is_wide(builder: ReportBuilder) -> bool:
    best = builder.best.get(CAMERA)
    return best is not None and best.rgb.shape[1] > 2 * best.rgb.shape[0]


def _spans(panels: set[str], wide: bool) -> dict[str, int]:
    """Columns, of twelve, of each panel: a row for the camera and one for the LiDAR."""
    camera = 12 if EVIDENCE not in panels else 8 if wide else 5
    above = 3 if ERROR in panels else 4
    return {
        CAMERA: camera,
        EVIDENCE: 12 - camera if CAMERA in panels else 12,
        ABOVE: above,
        ERROR: 3,
        AHEAD: 6 if ERROR in panels else 8,
    }


def _total(replayed: Replayed) -> Accounting:
    parts = list(replayed.accounting.values())
    names = ("received", "processed", "dropped", "rejected", "pending")
    return Accounting(*(sum(getattr(part, name) for part in parts) for name in names))


def _errors(replayed: Replayed) -> list[dict[str, float]]:
    """One row a horizon, means over what could be scored, and last the mean of all horizons."""
    rows = []
    for horizon in sorted({round(s.horizon_s, 3) for s in replayed.scores}):
        scores = [s for s in replayed.scores if round(s.horizon_s, 3) == horizon]
        finite = [s for s in scores if math.isfinite(s.forecast_m2 + s.repeat_m2)]
        forecast = plots.finite_mean([s.forecast_m2 for s in finite])
        repeat = plots.finite_mean([s.repeat_m2 for s in finite])
        rows.append(
            {"horizon": horizon, "count": len(finite), "forecast": forecast, "repeat": repeat}
        )
    if rows:
        mean = {k: plots.finite_mean([r[k] for r in rows]) for k in ("forecast", "repeat")}
        rows.append({"horizon": math.nan, "count": sum(int(r["count"]) for r in rows), **mean})
    for row in rows:
        known = math.isfinite(row["forecast"]) and row["repeat"] > 0
        row["change"] = row["forecast"] / row["repeat"] - 1 if known else math.nan
    return rows


def _live_max(live: Mapping[str, Any] | None) -> float:
    values = [float(v.get("p99", 0.0)) for v in (live or {}).get("latency_ms", {}).values()]
    return max([v for v in values if math.isfinite(v)], default=0.0) or 1.0


def _date(stamp_ns: int | None) -> str | None:
    """UTC date and time of a stamp; None for one that is no time of day (a simulation's)."""
    if stamp_ns is None or not 9.4e17 < stamp_ns < 4.1e18:
        return None
    moment = datetime.fromtimestamp(stamp_ns // 10**9, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _number(value: float | None, digits: int = 3) -> str:
    return _UNKNOWN if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def _milliseconds(value: float) -> str:
    return _number(value, 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0)


def _percent(value: float) -> str:
    return _UNKNOWN if not math.isfinite(value) else f"{value * 100:+.0f} %".replace("-", "−")
