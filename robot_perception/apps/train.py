"""`forecast train`: samples from recordings and simulated drives, training, curves."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from robot_perception.apps.search import searched
from robot_perception.apps.train_samples import make_samples
from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast import ranks
from robot_perception.core.forecast.atppnet_training import LEARNING_RATE, train_atppnet
from robot_perception.core.forecast.augment import Augmentation
from robot_perception.core.forecast.network import check_steps
from robot_perception.core.forecast.pretraining import pretrain
from robot_perception.core.forecast.resume import Epoch
from robot_perception.core.forecast.selection import bundled_weights
from robot_perception.core.forecast.training import TrainingConfig, gain_of, train
from robot_perception.core.weights import load_state_dict, pick_device


def train_forecast(
    recordings: list[Path],
    validation: list[Path],
    drives: int,
    out: Path,
    network: str,
    forecast: ForecastConfig,
    training: TrainingConfig,
    stride: int,
    start: Path | None,
    augmentation: Augmentation,
    trials: int,
    workers: int,
    console: Console,
) -> Epoch:
    """Train and write `out`, with its `.json` (data, settings, curve) and `.png` beside it.

    `augmentation` is of the recordings; simulated drives differ in themselves. `trials` short
    trainings look for the settings first. `workers` processes make the samples of drives. With the
    package `tensorboard` there are curves for that too, in `out`.tensorboard.
    """
    if start and not start.exists() and (bundled_weights().parent / start).is_file():
        start = bundled_weights().parent / start
    cache = out.with_name(out.name + ".samples")
    cache.mkdir(parents=True, exist_ok=True)
    if network != "ours":
        check_steps(forecast)
        training = replace(training, learning_rate=LEARNING_RATE)
    device = ranks.join(pick_device(forecast.device))
    if ranks.rank():
        console.quiet = True
    with ranks.first_alone():
        fit, check = make_samples(
            recordings, validation, drives, cache, forecast, stride, augmentation, workers, console
        )
    weights = load_state_dict(start) if start else None
    if training.pretraining:
        weights = _pretrained(fit, out, training, device, weights, console)
    found: dict[str, float] = {}
    if trials:
        folder = out.with_name(out.name + ".search")
        training, saved = searched(fit, check, folder, training, trials, device, weights, console)
        found = {"trials": trials, "chamfer_saved_by_best": saved}
    epochs: list[Epoch] = []
    writer: Any = None if ranks.rank() else _tensorboard(out.with_name(out.name + ".tensorboard"))
    with Progress(console=console) as progress:
        task = progress.add_task(f"train on {len(fit)} samples", total=training.epochs)

        def report(epoch: Epoch) -> None:
            epochs.append(epoch)
            for name in ("train", "validation", "gain") if writer else ():
                writer.add_scalar(name, getattr(epoch, name), epoch.epoch)
            progress.advance(task)
            console.print(
                f"epoch {epoch.epoch}: loss {epoch.train:.4f}, validation {epoch.validation:.4f}, "
                f"gain over geometry {epoch.gain:.2%}"
                if network == "ours"
                else f"epoch {epoch.epoch}: loss {epoch.train:.4f}, "
                f"validation {epoch.validation:.4f}"
            )

        if network == "ours":
            best = train(fit, check, out, training, device, report, weights)
        else:
            best = train_atppnet(
                fit, check, out, training, (forecast.min_range_m, forecast.max_range_m), device,
                report, warped=network == "atppnet_warped",
            )  # fmt: skip
    if ranks.rank():
        return best
    gains = _compared(out, start, check, device, console) if network == "ours" else {}
    record = {
        "network": network,
        "recordings": [str(p) for p in recordings],
        "validation": [str(p) for p in validation],
        "simulated_drives": drives,
        "augmentation": asdict(augmentation),
        "samples": len(fit),
        "validation_samples": len(check),
        "training": asdict(training),
        "processes": ranks.world(),
        "best": asdict(best),
        "search": found,
        "chamfer_saved_on_validation": gains,
        "epochs": [asdict(e) for e in epochs],
    }
    out.with_name(out.name + ".json").write_text(json.dumps(record, indent=1))
    _plot(epochs, out.with_name(out.name + ".png"), network)
    return best


def _pretrained(
    fit: list[Path],
    out: Path,
    training: TrainingConfig,
    device: torch.device,
    start: dict[str, torch.Tensor] | None,
    console: Console,
) -> dict[str, torch.Tensor]:
    with Progress(console=console) as progress:
        task = progress.add_task("fill in what is hidden", total=training.pretraining)

        def report(epoch: int, loss: float) -> None:
            progress.advance(task)
            console.print(f"pre-training epoch {epoch}: loss {loss:.4f}")

        aside = out.with_name(out.stem + ".pretrained.safetensors")
        return pretrain(fit, aside, training, device, report, start)


def _compared(
    out: Path, start: Path | None, check: list[Path], device: torch.device, console: Console
) -> dict[str, float]:
    """Print what is saved of geometry's Chamfer distance on the validation samples, before and
    after."""
    before = {"in the package": bundled_weights()}
    if start and start != bundled_weights():
        before["started from"] = start
    saved = {"geometry": 0.0}
    for name, path in (*before.items(), (out.name, out)):
        saved[name] = gain_of(path, check, device)
    table = Table("weights", "Chamfer distance saved", title=f"on {len(check)} validation samples")
    for name, share in saved.items():
        table.add_row(name, f"{share:.1%}")
    console.print(table)
    return saved


def _tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's events; None where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder))


def _plot(epochs: list[Epoch], path: Path, network: str) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    number = [e.epoch for e in epochs]
    axes[0].plot(number, [e.train for e in epochs], label="training")
    axes[0].plot(number, [e.validation for e in epochs], label="validation")
    axes[0].set(xlabel="epoch", ylabel="loss", title=network)
    axes[0].legend()
    axes[1].plot(number, [100 * e.gain for e in epochs])
    axes[1].set(xlabel="epoch", ylabel="%", title="Chamfer distance saved over geometry")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
