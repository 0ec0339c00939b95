"""Parameter files and documentation, written from the dataclasses of `core/config.py`.

`python -m robot_perception.apps.parameter_files` rewrites config/*.yaml and docs/parameters.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import yaml

from robot_perception.core.config import (
    ForecastConfig,
    RevisitConfig,
    RunConfig,
    SegmentationConfig,
)

_WIDTH = 100
_STAGES: dict[str, type[Any]] = {
    "segmentation": SegmentationConfig,
    "revisit": RevisitConfig,
    "forecast": ForecastConfig,
}
_SINGLE = """\
Parameters of the {name} node, with their defaults.
Written by robot_perception.apps.parameter_files: copy it and give the copy to
`ros2 launch robot_perception {name}.launch.py config_file:=...`."""
_ALL = """\
Parameters of all stages, with their defaults.
Written by robot_perception.apps.parameter_files: copy it and give the copy to
`ros2 launch robot_perception perception.launch.py config_file:=...` (in one process or in three),
or to `robot-perception replay --config ...`."""

_HEAD = """\
# Parameters

Written from `robot_perception/core/config.py` by `python -m robot_perception.apps.parameter_files`.

A node with one stage has these names as they are. `perception_node`, and the files for it, have the
stage in front (`segmentation.backend`), except for those of every node.

They are read when a node is configured: after a change, run the lifecycle transitions `deactivate`,
`cleanup`, `configure` and `activate`.
"""
_TABLE_HEAD = """\
| parameter | default | unit | values | meaning |
|---|---|---|---|---|
"""


def render_yaml(name: str) -> str:
    """The ROS parameter file of a stage, or of all stages for `name` "perception"."""
    stages = _STAGES if name == "perception" else {name: _STAGES[name]}
    lines = [f"# {line}" for line in (_ALL if len(stages) > 1 else _SINGLE).splitlines()]
    lines = [line.format(name=name) for line in lines] + ["/**:", "  ros__parameters:"]
    for stage, config in stages.items():
        if len(stages) > 1:
            lines += [f"    {stage}:", *_entries(config, 6)]
        else:
            lines += _entries(config, 4)
    lines += _entries(RunConfig, 4)
    return "\n".join(lines) + "\n"


def render_markdown() -> str:
    """The reference of all parameters."""
    parts = [_HEAD]
    sections: dict[str, type[Any]] = {**_STAGES, "every node": RunConfig}
    for title, config in sections.items():
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n\n{_TABLE_HEAD}")
        parts += [
            f"| `{f.name}` | {_code(f.default)} | {f.metadata['unit']} | {_values(f)} "
            f"| {f.metadata['description']} |\n"
            for f in fields(config)
        ]
    return "".join(parts)


def rendered(root: Path) -> Iterator[tuple[Path, str]]:
    """Every generated file under the project `root`, with its content."""
    for name in (*_STAGES, "perception"):
        yield root / "config" / f"{name}.yaml", render_yaml(name)
    yield root / "docs" / "parameters.md", render_markdown()


def _entries(config: type[Any], indent: int) -> list[str]:
    pad = " " * indent
    lines = []
    for f in fields(config):
        values = _values(f)
        comment = f.metadata["description"]
        if f.metadata["unit"]:
            comment += f" [{f.metadata['unit']}]"
        if values:
            comment += f" ({values})"
        lines += textwrap.wrap(
            comment, _WIDTH, initial_indent=pad + "# ", subsequent_indent=pad + "# "
        )
        if isinstance(f.default, tuple):
            # A parameter file has no way to say "an empty list of numbers".
            lines.append(f"{pad}# {f.name}: [0.035, 0.03, 0.025]")
        else:
            lines.append(f"{pad}{f.name}: {_scalar(f.default)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        # Always quoted: a bare `none` or `off` would be read as something else.
        return f'"{value}"'
    return str(yaml.safe_dump(value)).splitlines()[0]


def _values(f: Field[Any]) -> str:
    meta = f.metadata
    if meta["choices"]:
        return ", ".join(meta["choices"])
    low, high = meta["low"], meta["high"]
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return "" if high is None else f"at most {high:g}"


def _code(value: Any) -> str:
    return "`[]`" if value == () else f"`{_scalar(value)}`"


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    for path, content in rendered(root):
        path.write_text(content)
        print(path.relative_to(root))


if __name__ == "__main__":
    main()
