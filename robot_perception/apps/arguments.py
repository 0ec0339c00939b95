"""What the commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)

Recording = Annotated[Path, typer.Argument(help="bag, MCAP, KITTI folder, or folder of files")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="ROS parameter file")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="segmentation.backend=sam, ... (repeatable)")
]
