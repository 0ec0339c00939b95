"""The commands about forecasting networks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from robot_perception.apps.arguments import ConfigFile, Settings, console

forecasts = typer.Typer(no_args_is_help=True, help="Networks for the LiDAR at hand.")


@forecasts.command("train")
def train_forecast(
    out: Annotated[Path, typer.Option(help="weights to write (.safetensors)")],
    recordings: Annotated[
        list[Path] | None, typer.Option("--from", help="recording to learn from")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="recording to validate on; else the end of each")
    ] = None,
    drives: Annotated[int, typer.Option(help="simulated drives to learn from", min=0)] = 0,
    network: Annotated[str, typer.Option(help="ours, atppnet or atppnet_warped")] = "ours",
    start: Annotated[
        Path | None, typer.Option(help="weights to adapt (ours); sim.safetensors: the package's")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    chamfer_epochs: Annotated[
        int, typer.Option(help="then with the Chamfer distance in the loss (atppnet)", min=0)
    ] = 10,
    batch: Annotated[int, typer.Option(help="samples a step", min=1)] = 4,
    crop: Annotated[
        int, typer.Option(help="columns seen at a time; a revolution has half the sensor's", min=64)
    ] = 512,
    patience: Annotated[
        int, typer.Option(help="end after so many epochs without a gain", min=1)
    ] = 6,
    minutes: Annotated[
        float | None, typer.Option(help="begin no epoch that would end after so many", min=0)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="processes that make samples of drives; by default, as many as cores", min=1
        ),
    ] = None,
    pretrain_epochs: Annotated[
        int, typer.Option(help="masked pre-training first (ours)", min=0)
    ] = 0,
    search: Annotated[
        int, typer.Option(help="short trainings that look for the settings first (ours)", min=0)
    ] = 0,
    learning_rate: Annotated[float, typer.Option(help="of ours")] = 2e-3,
    least_gate: Annotated[
        float, typer.Option(help="least lead by which to depart from geometry (ours)", min=1, max=6)
    ] = 1.0,
    stride: Annotated[int, typer.Option(help="a sample at every so many-th scan", min=1)] = 3,
    speedup: Annotated[
        list[int] | None,
        typer.Option(help="also as if the robot were so many times as fast", min=1),
    ] = None,
    thin: Annotated[
        list[int] | None, typer.Option(help="also with every so many-th beam alone", min=1)
    ] = None,
    scan_dropout: Annotated[
        float, typer.Option(help="chance that a past scan is missing", min=0, max=0.9)
    ] = 0.0,
    pose_noise: Annotated[
        float, typer.Option(help="error of the ego-motion, m/s (and a tenth of it in rad/s)", min=0)
    ] = 0.0,
    seed: int = 0,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Train a forecaster, self-supervised, on recordings of any spinning LiDAR; can be resumed."""
    from robot_perception.apps.train import train_forecast as run
    from robot_perception.core.forecast.augment import Augmentation
    from robot_perception.core.forecast.sensor import GPU_COLUMNS
    from robot_perception.core.forecast.training import TrainingConfig
    from robot_perception.pipeline.settings import load_tasks

    if network not in ("ours", "atppnet", "atppnet_warped"):
        raise ValueError(f"no network is called {network}")
    if network != "ours" and (pretrain_epochs or search):
        raise ValueError("pre-training and search are for the network ours")
    chosen = load_tasks(config, settings or (), ["forecast"]).forecast
    assert chosen is not None
    # Whatever trains it, the same samples: their size may be that of a GPU.
    chosen = replace(chosen, columns=chosen.columns or GPU_COLUMNS)
    augmentation = Augmentation((1, *(speedup or ())), (1, *(thin or ())), scan_dropout, pose_noise)
    training = TrainingConfig(
        epochs=epochs,
        batch=batch,
        crop=crop,
        patience=patience,
        chamfer_epochs=chamfer_epochs,
        minutes=minutes,
        learning_rate=learning_rate,
        least_gate=least_gate,
        pretraining=pretrain_epochs,
        seed=seed,
    )
    best = run(
        recordings or [], validation or [], drives, out, network, chosen, training, stride, start,
        augmentation, search, workers or len(os.sched_getaffinity(0)), console,
    )  # fmt: skip
    console.print(f"written: {out} (epoch {best.epoch})")
