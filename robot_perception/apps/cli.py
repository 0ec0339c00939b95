"""The `robot-perception` command line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from robot_perception.apps import commands_forecast, commands_revisit, weights
from robot_perception.apps.arguments import AsJson, ConfigFile, Recording, Settings, console
from robot_perception.core.errors import WeightsRejected
from robot_perception.pipeline.leaving import leave
from robot_perception.pipeline.perception import TASKS

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Segment anything, know a place again, see the next half second.",
)
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
    viewer: Annotated[
        str | None, typer.Option(help="watch it: rerun opens a window, NAME.rrd writes a file")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recording through the pipeline: outputs as topics in an MCAP, and an HTML report."""
    from robot_perception.apps.demo import replay_with_report
    from robot_perception.pipeline.settings import load_tasks

    chosen = load_tasks(config, settings or (), tasks.split(","))
    replayed, report = replay_with_report(recording, chosen, out, inputs, viewer, console)
    summary = {"mcap": str(out), "report": str(report), **replayed.summary()}
    if as_json:
        print(json.dumps(summary))
    else:
        console.print(f"results: {out}\nreport:  {report}")
    # 3: the recording is damaged; what was whole of it has been processed.
    raise typer.Exit(3 if replayed.damage else 0)


@app.command()
def batch(
    recordings: Annotated[
        list[Path], typer.Argument(help="bags, MCAPs, KITTI folders, folders of files")
    ],
    out: Annotated[Path, typer.Option(help="folder for results, manifest and report")],
    workers: Annotated[int, typer.Option(help="processes on this machine", min=1)] = 1,
    address: Annotated[
        str | None, typer.Option(help="a Ray cluster to work on instead: HOST:PORT, auto, local")
    ] = None,
    cpus: Annotated[float, typer.Option(help="of a recording on the cluster", min=0)] = 1.0,
    gpus: Annotated[float, typer.Option(help="of a recording on the cluster", min=0)] = 0.0,
    retries: Annotated[int, typer.Option(help="after a crash or a full disk", min=0)] = 2,
    config: ConfigFile = None,
    settings: Settings = None,
    tasks: Only = _ALL,
    inputs: Annotated[bool, typer.Option(help="write the input frames too")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay many recordings, each once, however often it is interrupted and begun again."""
    from robot_perception.apps import batch_engines
    from robot_perception.apps.batch import exit_code, run_batch
    from robot_perception.pipeline.settings import load_tasks

    chosen = load_tasks(config, settings or (), tasks.split(","))
    outcomes = run_batch(
        recordings, chosen, out, inputs, console,
        (lambda jobs, tell: batch_engines.cluster(jobs, address, retries, cpus, gpus))
        if address
        else (lambda jobs, tell: batch_engines.local(jobs, workers, retries, tell)),
    )  # fmt: skip
    if as_json:
        print((out / "report.json").read_text())
    else:
        console.print(f"report: {out / 'report.html'}", highlight=False)
    raise typer.Exit(exit_code(outcomes))


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
    raise typer.Exit(3 if summary["damage"] else 0)


evaluations = typer.Typer(no_args_is_help=True, help="Scores against what then happened.")
app.add_typer(evaluations, name="evaluate")
app.add_typer(weights.app, name="weights")


@evaluations.command()
def forecast(
    recording: Recording,
    config: ConfigFile = None,
    settings: Settings = None,
    stride: Annotated[int, typer.Option(help="score every so many-th scan", min=1)] = 1,
    method: Annotated[
        list[str] | None, typer.Option(help="NAME, or NAME=WEIGHTS; all without weights by default")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the scores here")] = None,
) -> None:
    """Forecasts against the scans that came: geometry, networks and baselines side by side."""
    from robot_perception.apps.evaluate import evaluate_forecast
    from robot_perception.pipeline.settings import load_tasks

    tasks = load_tasks(config, settings or (), ["forecast"])
    raise typer.Exit(evaluate_forecast(recording, tasks, stride, method, json_file, console))


@evaluations.command("segmentation")
def evaluate_segmentation(
    recording: Recording,
    config: ConfigFile = None,
    settings: Settings = None,
    truth: Annotated[
        str, typer.Option(help="topic of true instances, 16UC1")
    ] = "/ground_truth/instances",
    json_file: Annotated[Path | None, typer.Option("--json", help="write the scores here")] = None,
) -> None:
    """Segments and their ids against true instances, as the simulator records them."""
    from robot_perception.apps.evaluate import evaluate_segments
    from robot_perception.pipeline.settings import load_tasks

    tasks = load_tasks(config, settings or (), ["segmentation"])
    raise typer.Exit(evaluate_segments(recording, tasks, truth, json_file, console))


evaluations.command("revisit")(commands_revisit.evaluate_revisit)
app.add_typer(commands_revisit.revisits, name="revisit")
app.add_typer(commands_forecast.forecasts, name="forecast")


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
def doctor(
    recording: Annotated[
        Path | None, typer.Argument(help="of a robot that is new; none: this machine")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="parameter file to write")] = None,
    as_json: AsJson = False,
) -> None:
    """What works on this machine, or on the robot of a recording, and how to configure it."""
    from robot_perception.apps.doctor import print_doctor

    if recording is not None:
        from robot_perception.apps.survey import print_survey

        raise typer.Exit(print_survey(recording, out, as_json))
    raise typer.Exit(print_doctor(as_json))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 for a usage or input error, 3 for damaged input,
    130 when interrupted."""
    from robot_perception.pipeline.sinks import SinkError
    from robot_perception.pipeline.sources import RecordingError

    # Ended from outside as from the keyboard: what is being written is closed in order.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status: Any = app(args=arguments, standalone_mode=False)
        return int(status or 0)
    except (RecordingError, SinkError, WeightsRejected, ValueError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    except (RuntimeError, MemoryError) as error:
        from robot_perception.pipeline.devices import fault_of

        if (fault := fault_of(error)) is None:
            raise
        console.print(f"[red]error:[/red] {fault}: {error}", highlight=False)
        return 2
    except typer.TyperException as error:
        console.print(f"[red]error:[/red] {error.format_message()}", highlight=False)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.print("[red]interrupted[/red]")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)


def command() -> NoReturn:
    """The command line as a process of its own."""
    leave(main())


if __name__ == "__main__":
    command()
