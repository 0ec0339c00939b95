"""`forecast train --search`: short trainings find the settings of the long one (Optuna)."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from robot_perception.core.forecast import ranks
from robot_perception.core.forecast.resume import Epoch
from robot_perception.core.forecast.training import TrainingConfig, train

# Epochs of a trial: enough to tell a bad setting, not enough to tell two good ones.
_EPOCHS = 3


def searched(
    fit: list[Path],
    check: list[Path],
    folder: Path,
    config: TrainingConfig,
    trials: int,
    device: torch.device,
    start: dict[str, torch.Tensor] | None,
    console: Console,
) -> tuple[TrainingConfig, float]:
    """`config` with the settings that saved most on the samples `check` in `trials` short
    trainings, and what they saved. The study is kept in `folder`, and gone on with there.

    Raises ValueError without the package optuna, and where several processes train together.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ValueError(
            "a search needs the package optuna (pip install 'robot_perception[search]')"
        )
    if ranks.world() > 1:
        raise ValueError("a search runs in one process; train in several with what it finds")
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        study_name="forecast",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=config.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    ended = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    left = trials - len(study.get_trials(deepcopy=False, states=ended))

    with Progress(console=console) as progress:
        task = progress.add_task("search", total=trials, completed=trials - max(0, left))

        def gain(trial: Any) -> float:
            proposed = _proposed(trial, config)
            out = folder / "trial.safetensors"
            # A trial starts afresh, also after one that was cut off.
            out.with_name(out.name + ".state").unlink(missing_ok=True)

            def report(epoch: Epoch) -> None:
                trial.report(epoch.gain, epoch.epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

            try:
                return train(fit, check, out, proposed, device, report, start).gain
            finally:
                progress.advance(task)
                console.print(f"trial {trial.number}: {trial.params}")

        study.optimize(gain, n_trials=max(0, left))
    best = study.best_params
    console.print(f"best of {trials} trials: {best}, {study.best_value:.2%} saved")
    return replace(config, **best), study.best_value


def _proposed(trial: Any, config: TrainingConfig) -> TrainingConfig:
    """Settings to try, named as in TrainingConfig."""
    return replace(
        config,
        epochs=_EPOCHS,
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 6e-3, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        near_weight=trial.suggest_float("near_weight", 0.03, 0.3, log=True),
        batch=trial.suggest_categorical("batch", [2, 4, 8]),
    )
