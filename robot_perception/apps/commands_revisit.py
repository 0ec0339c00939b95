"""`revisit fit`, `calibrate`, `merge`, and `evaluate revisit`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from robot_perception.apps.arguments import AsJson, ConfigFile, Recording, Settings, console
from robot_perception.core.config import RevisitConfig

Radius = Annotated[float, typer.Option(help="a revisit is right within this, m", min=0.0)]
Angle = Annotated[float, typer.Option(help="and within this turn, degrees", min=0.0, max=180.0)]
Vocabulary = Annotated[Path | None, typer.Option(help="vocabulary file, as `revisit fit` makes it")]


def evaluate_revisit(
    recording: Recording,
    config: ConfigFile = None,
    settings: Settings = None,
    vocabulary: Vocabulary = None,
    radius: Radius = 0.5,
    angle: Angle = 30.0,
    published: Annotated[bool, typer.Option(help="SegVLAD as published too (slow)")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the scores here")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for plot and scores")] = None,
) -> None:
    """Revisits against true poses, or against the truth of two walks, beside simple baselines."""
    from robot_perception.apps.revisit import evaluate_and_show

    chosen = _revisit_config(config, settings, vocabulary)
    status = evaluate_and_show(recording, chosen, radius, angle, published, json_file, out, console)
    raise typer.Exit(status)


revisits = typer.Typer(no_args_is_help=True, help="Vocabulary, calibration and maps of places.")


@revisits.command()
def fit(
    recordings: Annotated[list[Path], typer.Argument(help="recordings with images")],
    out: Annotated[Path, typer.Option(help="vocabulary file to write")],
    images: Annotated[
        int, typer.Option(help="most images to fit on, of all recordings", min=1)
    ] = 200,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Fit vocabulary and PCA on recordings, for the parameter `vocabulary`."""
    from robot_perception.apps.revisit import fit as run

    _print(run(recordings, _revisit_config(config, settings, None), images, out, console), as_json)


@revisits.command()
def calibrate(
    recording: Recording,
    precision: Annotated[float, typer.Option(help="wanted of revisits", min=0.5, max=1.0)] = 0.99,
    vocabulary: Vocabulary = None,
    out: Annotated[Path | None, typer.Option(help="file to write; default: the vocabulary")] = None,
    radius: Radius = 0.5,
    angle: Angle = 30.0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Find the probability that gives a precision, on a recording with true poses or two walks."""
    from robot_perception.apps.revisit import calibrate_vocabulary

    target = out or vocabulary
    if target is None:
        raise ValueError("name a file to write: --out, or --vocabulary for its calibration")
    chosen = _revisit_config(config, settings, vocabulary)
    result = calibrate_vocabulary(recording, chosen, precision, radius, angle, target, console)
    _print(result, as_json)


@revisits.command()
def merge(
    maps: Annotated[list[Path], typer.Argument(help="maps, made with one vocabulary")],
    out: Annotated[Path, typer.Option(help="map file to write")],
    vocabulary: Annotated[
        Path | None, typer.Option(help="decide by its calibration, not by that of the maps")
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Join maps, and find the places that are in several of them."""
    from robot_perception.apps.revisit import merge as run

    _print(run(maps, out, _revisit_config(config, settings, vocabulary), console), as_json)


def _revisit_config(
    config: Path | None, settings: list[str] | None, vocabulary: Path | None
) -> RevisitConfig:
    from robot_perception.pipeline.settings import load_tasks

    chosen = load_tasks(config, settings or (), ["revisit"]).revisit
    assert chosen is not None
    return replace(chosen, vocabulary=str(vocabulary)) if vocabulary else chosen


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        console.print(f"{name}: {value}", highlight=False)
