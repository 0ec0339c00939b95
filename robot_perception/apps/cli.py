"""The `robot-perception` command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from robot_perception.apps import weights
from robot_perception.core.errors import WeightsRejected
from robot_perception.pipeline.perception import TASKS

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Segment anything, know a place again, see the next half second.",
)
console = Console(stderr=True)

Recording = Annotated[Path, typer.Argument(help="bag, MCAP, KITTI folder, or folder of files")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="ROS parameter file")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="segmentation.backend=sam, ... (repeatable)")
]
_ALL = ",".join(TASKS)
Only = Annotated[str, typer.Option("--tasks", help="stages to run, by comma")]


@app.command()
def demo(
    recording: Annotated[
        Path | None, typer.Argument(help="a recording; without one, a simulated drive")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/demo"),
    live: Annotated[bool, typer.Option(help="also through live ROS 2 nodes, and compare")] = True,
) -> None:
    """The whole way on a recording or a simulated drive: results, MCAP, report."""
    from robot_perception.apps.demo import run_demo

    raise typer.Exit(run_demo(recording, out, live, console))


@app.command()
def replay(
    recording: Recording,
    out: Annotated[Path, typer.Option(help="MCAP for the results; a report goes beside it")],
    config: ConfigFile = None,
    settings: Settings = None,
    tasks: Only = _ALL,
    inputs: Annotated[bool, typer.Option(help="write the input frames too")] = True,
    as_json: AsJson = False,
) -> None:
    """Run a recording through the pipeline: outputs as topics in an MCAP, and an HTML report."""
    from robot_perception.apps.demo import replay_with_report
    from robot_perception.pipeline.settings import load_tasks

    chosen = load_tasks(config, settings or (), tasks.split(","))
    replayed, report = replay_with_report(recording, chosen, out, inputs, console)
    summary = {"mcap": str(out), "report": str(report), **replayed.summary()}
    if as_json:
        print(json.dumps(summary))
    else:
        console.print(f"results: {out}\nreport:  {report}")
    # 3: the recording is damaged; what was whole of it has been processed.
    raise typer.Exit(3 if replayed.damage else 0)


@app.command()
def segment(
    source: Annotated[Path, typer.Argument(help="an image, or a recording")],
    out: Annotated[Path, typer.Option(help="folder for overlays, label images and segments.json")],
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Segment every image: overlays, 16-bit label images and a table of segments."""
    from robot_perception.apps.segment import segment as run
    from robot_perception.pipeline.settings import load_tasks

    summary = run(source, load_tasks(config, settings or (), ["segmentation"]), out, console)
    if as_json:
        print(json.dumps(summary))
    else:
        console.print(f"{len(summary['images'])} images by {summary['backend']}: {out}")
    if not summary["images"]:
        raise ValueError(f"{source} gave no image that can be segmented")


evaluations = typer.Typer(no_args_is_help=True, help="Scores against what then happened.")
app.add_typer(evaluations, name="evaluate")
app.add_typer(weights.app, name="weights")


@evaluations.command()
def forecast(
    recording: Recording,
    config: ConfigFile = None,
    settings: Settings = None,
    stride: Annotated[int, typer.Option(help="score every so many-th scan", min=1)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the scores here")] = None,
) -> None:
    """Forecasts against the scans that came, beside repeating the last scan."""
    from robot_perception.apps.evaluate import evaluate_forecast
    from robot_perception.pipeline.settings import load_tasks

    tasks = load_tasks(config, settings or (), ["forecast"])
    raise typer.Exit(evaluate_forecast(recording, tasks, stride, json_file, console))


@app.command()
def info(recording: Recording, as_json: AsJson = False) -> None:
    """Topics, types, counts, rates and gaps of a recording."""
    from robot_perception.apps.info import print_info

    raise typer.Exit(print_info(recording, as_json))


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="MCAP to write")],
    seed: int = 0,
    duration_s: Annotated[float, typer.Option(help="length of the drive")] = 30.0,
) -> None:
    """A street with traffic, seen by a LiDAR and a camera, with ground truth, as a recording."""
    from robot_perception.apps.demo import simulate_recording

    simulate_recording(out, seed, duration_s, console)
    console.print(f"written: {out}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What works on this machine: GPU, ROS, transport, weights."""
    from robot_perception.apps.doctor import print_doctor

    raise typer.Exit(print_doctor(as_json))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 for a usage or input error, 3 for damaged input."""
    from robot_perception.pipeline.sinks import SinkError
    from robot_perception.pipeline.sources import RecordingError

    try:
        status: Any = app(args=arguments, standalone_mode=False)
        return int(status or 0)
    except (RecordingError, SinkError, WeightsRejected, ValueError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    except typer.TyperException as error:
        console.print(f"[red]error:[/red] {error.format_message()}", highlight=False)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
