"""Plots of the report as inline SVG whose colours follow the page's light or dark theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robot_perception.core.types import F32, I32
from robot_perception.pipeline import draw
from robot_perception.pipeline.report_views import Decision
from robot_perception.pipeline.scoring import Score

# Stand-ins that become CSS colours in the SVG.
_INK, _LINE = "#010203", "#010204"
SERIES = tuple(f"#0102{i:02x}" for i in range(16, 22))
_CSS = {_INK: "currentColor", _LINE: "var(--line)"} | {
    colour: f"var(--c{i + 1})" for i, colour in enumerate(SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}


def latency(series_ms: dict[str, list[float]]) -> str:
    """Milliseconds of each call by step, the running median over the calls drawn as a line."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(12.4, 3.7)
        for i, (name, values) in enumerate(series_ms.items()):
            data = np.asarray(values, float)
            colour = SERIES[i % len(SERIES)]
            calls = np.arange(1, len(data) + 1)
            axes.plot(calls, data, ".", color=colour, alpha=0.35, markersize=3.5)
            style = "-" if i < len(SERIES) else "--"
            axes.plot(calls, _running_median(data), style, color=colour, lw=1.8, label=name)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("call")
        axes.set_ylabel("ms (log scale)")
        _legend(figure, axes, len(series_ms))
        return _svg(figure, "latency")


def forecast_error(scores: Sequence[Score]) -> str:
    """Mean Chamfer distance by horizon, of the forecast and of repeating the last scan."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(5.8, 3.5)
        horizons = sorted({round(s.horizon_s, 3) for s in scores})
        for attribute, name, colour in (
            ("repeat_m2", "repeat the last scan", SERIES[1]),
            ("forecast_m2", "forecast", SERIES[0]),
        ):
            means = [
                finite_mean([getattr(s, attribute) for s in scores if round(s.horizon_s, 3) == h])
                for h in horizons
            ]
            axes.plot(horizons, means, "o-", color=colour, lw=2, markersize=5, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xticks(horizons[:: max(1, len(horizons) // 8)])
        axes.set_xlabel("horizon (s)")
        axes.set_ylabel("mean Chamfer distance (m²)")
        _legend(figure, axes, 2)
        return _svg(figure, "horizons")


def forecast_over_time(scores: Sequence[Score], start_ns: int) -> str:
    """Chamfer distance of each scored forecast, the mean over its horizons."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(5.8, 3.5)
        stamps = sorted({s.stamp_ns for s in scores})
        seconds = [(stamp - start_ns) * 1e-9 for stamp in stamps]
        for attribute, name, colour in (
            ("repeat_m2", "repeat the last scan", SERIES[1]),
            ("forecast_m2", "forecast", SERIES[0]),
        ):
            means = [
                finite_mean([getattr(s, attribute) for s in scores if s.stamp_ns == stamp])
                for stamp in stamps
            ]
            axes.plot(seconds, means, "o-", color=colour, lw=1.6, markersize=3.5, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time of the forecast (s)")
        axes.set_ylabel("Chamfer distance (m²)")
        _legend(figure, axes, 2)
        return _svg(figure, "over-time")


def probability(decisions: Sequence[Decision], start_ns: int) -> str:
    """The probability of each keyframe's best candidate, revisits marked."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(5.8, 3.5)
        for found, name, colour in (
            (False, "no revisit", SERIES[5]),
            (True, "revisit", SERIES[2]),
        ):
            chosen = [d for d in decisions if (d.match_id is not None) == found]
            seconds = [(d.stamp_ns - start_ns) * 1e-9 for d in chosen]
            heights = [d.probability for d in chosen]
            axes.vlines(seconds, 0, heights, color=colour, lw=1, alpha=0.4)
            axes.plot(seconds, heights, "o", color=colour, markersize=4.5, label=name)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("time (s)")
        axes.set_ylabel("probability")
        _legend(figure, axes, 2)
        return _svg(figure, "probability")


def keyframe_map(positions: F32, edges: I32) -> str | None:
    """Keyframes (K, 3) from above and revisits between them; None where no position is known."""
    known, edges = draw.placed(positions, edges)
    if not known.any():
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(5.8, 3.5)
        path = np.where(known[:, None], positions, np.nan)
        axes.plot(path[:, 0], path[:, 1], "-", color=SERIES[5], lw=1, alpha=0.6)
        axes.plot(path[:, 0], path[:, 1], "o", color=SERIES[0], markersize=3.5, label="keyframe")
        for i, edge in enumerate(edges):
            name = None if i else "revisit"
            axes.plot(path[edge, 0], path[edge, 1], color=SERIES[2], lw=1.6, label=name)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("x (m)")
        axes.set_ylabel("y (m)")
        _legend(figure, axes, 2)
        return _svg(figure, "map")


def finite_mean(values: Sequence[float]) -> float:
    """The mean of the finite ones among `values`; NaN if there is none."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    return figure, axes


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=min(4, entries), fontsize=10)


def _running_median(values: np.ndarray) -> np.ndarray:
    reach = max(1, len(values) // 60)
    padded = np.pad(values, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return np.asarray(np.median(windows, axis=1))


def _svg(figure: Figure, name: str) -> str:
    """`figure` as an <svg> element that fills the width it is given."""
    buffer = io.StringIO()
    # One salt a plot: the identifiers in it must not clash with those of another on the page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Group names are fixed in matplotlib and would be the same in every plot.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    for stand_in, css in _CSS.items():
        text = text.replace(stand_in, css)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    return re.sub(r"font-family: [^;\"]*;? ?", "", text)
