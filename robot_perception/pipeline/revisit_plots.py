"""Precision against recall, as a picture file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from robot_perception.core.metrics import PrecisionRecall

_COLOURS = ("#0b6e4f", "#2f6fbb", "#7a9cc6", "#c2571a", "#8d6cab", "#a8324a", "#555555")


def precision_recall_png(
    path: Path,
    curves: Mapping[str, PrecisionRecall],
    title: str,
    mark: tuple[float, float] | None = None,
) -> None:
    """Draw a curve a method, the first one bold; `mark` (recall, precision) is the threshold."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, curve) in enumerate(curves.items()):
        axes.step(
            [0.0, *curve.recall],
            [curve.precision[0] if len(curve.precision) else 0.0, *curve.precision],
            where="post",
            color=_COLOURS[i % len(_COLOURS)],
            lw=2.6 if i == 0 else 1.5,
            zorder=3 if i == 0 else 2,
            label=f"{name} ({curve.area:.2f})",
        )
    if mark:
        axes.plot(*mark, "o", color="black", zorder=4, label="threshold")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=title)
    axes.grid(color="#dddddd", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, title="method (area)")
    figure.savefig(path, dpi=110)
