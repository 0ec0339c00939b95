"""Launch files: everything they name exists, and with ROS 2 launch installed they are run."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from robot_perception.core.config import (
    ForecastConfig,
    RevisitConfig,
    RunConfig,
    SegmentationConfig,
)
from robot_perception.ros.launch_parameters import stage_parameters

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
HELPER = ROOT / "robot_perception" / "ros" / "launching.py"
STAGES: dict[str, type[Any]] = {
    "segmentation": SegmentationConfig,
    "revisit": RevisitConfig,
    "forecast": ForecastConfig,
}
named = pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name.partition(".")[0])


def calls(path: Path, function: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
    ]


def strings(call: ast.Call) -> list[str]:
    return [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def keyword(call: ast.Call, name: str) -> Any:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def helper_constant(name: str) -> Any:
    for node in ast.parse(HELPER.read_text()).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id == name and node.value:
                return ast.literal_eval(node.value)
    raise AssertionError(name)


def parameter_names(node: str) -> set[str]:
    """What the node declares."""
    if node == "player":
        text = (ROOT / "robot_perception" / "ros" / "player_node.py").read_text()
        return set(re.findall(r'declare_parameter\(\s*"(\w+)"', text)) | {"use_sim_time"}
    names = {f.name for f in fields(RunConfig)} | {"use_sim_time"}
    if node == "perception":
        return names | {f"{s}.{f.name}" for s, config in STAGES.items() for f in fields(config)}
    return names | {f.name for f in fields(STAGES[node])}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def test_all_launch_files_are_there() -> None:
    names = {path.name.removesuffix(".launch.py") for path in LAUNCH_FILES}
    assert names == {"segmentation", "revisit", "forecast", "perception", "replay"}


@named
def test_nodes_files_and_parameters_exist(path: Path) -> None:
    setup = (ROOT / "setup.py").read_text()
    for node in calls(path, "Node"):
        name = keyword(node, "name")
        assert keyword(node, "executable") == f"{name}_node"
        assert f'"{name}_node = robot_perception.ros.{name}_node:main"' in setup
        (parameters,) = (k.value for k in node.keywords if k.arg == "parameters")
        keys = {
            key.value
            for d in ast.walk(parameters)
            if isinstance(d, ast.Dict)
            for key in d.keys
            if isinstance(key, ast.Constant)
        }
        assert keys <= parameter_names(name), name
    for call in calls(path, "config_argument"):
        assert (ROOT / "config" / strings(call)[0]).is_file()
    for call in calls(path, "rviz_node"):
        assert (ROOT / "config" / "rviz" / strings(call)[0]).is_file()
    assert calls(path, "large_messages") or path.name.startswith("replay")


@named
def test_arguments_are_declared_before_they_are_used(path: Path) -> None:
    known = helper_constant("ARGUMENTS")
    declared = set(helper_constant("_COMMON")) | {"fastdds_profile"}
    for call in calls(path, "declare"):
        declared |= set(strings(call))
        assert {k.arg for k in call.keywords} <= set(strings(call))
    if calls(path, "config_argument"):
        declared.add("config_file")
    used = {s for call in calls(path, "LaunchConfiguration") for s in strings(call)}
    used |= {strings(call)[0] for call in calls(path, "value")}
    for call in calls(path, "options"):
        used |= {f"{name}_topic" for name in strings(call)}
    for call in calls(path, "rviz_node"):
        used |= {f"{name}_topic" for name in ast.literal_eval(call.args[1])} | {"fixed_frame"}
    assert used <= declared
    assert declared - {"fastdds_profile", "config_file"} <= known.keys()


@pytest.mark.parametrize("name", [*STAGES, "perception"])
def test_parameter_files_hold_what_the_node_declares(name: str) -> None:
    document = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    values = flat(document["/**"]["ros__parameters"])
    missing = {p for p in parameter_names(name) if p.endswith("elevations_rad")}
    assert set(values) == parameter_names(name) - missing - {"use_sim_time"}
    for parameter, value in values.items():
        stage, _, rest = parameter.rpartition(".")
        config = RunConfig if rest in {f.name for f in fields(RunConfig)} else STAGES[stage or name]
        default = next(f.default for f in fields(config) if f.name == rest)
        assert value == default, parameter
        assert type(value) is type(default), parameter


def test_one_file_serves_three_nodes(tmp_path: Path) -> None:
    for stage in STAGES:
        own = yaml.safe_load((ROOT / "config" / f"{stage}.yaml").read_text())
        assert stage_parameters(ROOT / "config" / "perception.yaml", stage) == flat(
            own["/**"]["ros__parameters"]
        )
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "/**:\n  ros__parameters:\n    segmentation: {backend: sam}\n    revisit.shortlist: 3\n"
        "    inbox_size: 7\n    qos_overrides./image.subscription.reliability: reliable\n"
        "/robot/forecast:\n  ros__parameters: {beams: 16}\n"
        "/elsewhere:\n  ros__parameters: {beams: 99}\n"
    )
    common = {"inbox_size": 7, "qos_overrides./image.subscription.reliability": "reliable"}
    assert stage_parameters(mine, "segmentation") == {"backend": "sam", **common}
    assert stage_parameters(mine, "revisit") == {"shortlist": 3, **common}
    assert stage_parameters(mine, "forecast") == {"beams": 16, **common}
    for text in ("[1, 2]", "a: {b: 1}", "a: [", ""):
        mine.write_text(text)
        with pytest.raises(ValueError, match=r"mine\.yaml"):
            stage_parameters(mine, "revisit")


# From here on with ROS 2 launch, where there is one.


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ament prefix with this package's launch and config folders as they are now."""
    pytest.importorskip("launch.actions", reason="ROS 2 launch is not installed")
    pytest.importorskip("launch_ros.actions", reason="ROS 2 launch is not installed")
    marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    marker.mkdir(parents=True)
    (marker / "robot_perception").touch()
    share = tmp_path / "share" / "robot_perception"
    share.mkdir()
    (share / "launch").symlink_to(ROOT / "launch")
    (share / "config").symlink_to(ROOT / "config")
    programs = tmp_path / "lib" / "robot_perception"
    programs.mkdir(parents=True)
    for name in (*STAGES, "perception", "player"):
        program = programs / f"{name}_node"
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m robot_perception.ros.{name}_node "$@"\n'
        )
        program.chmod(0o755)
    others = os.environ.get("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}:{others}".rstrip(":"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"))
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    return share


def launched(file: Path, arguments: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the launch file's actions, with the arguments, up to the processes; nodes by name."""
    from launch.actions import DeclareLaunchArgument
    from launch.launch_context import LaunchContext
    from launch.launch_description_entity import LaunchDescriptionEntity
    from launch_ros.actions import Node

    context = LaunchContext()
    context.launch_configurations.update(arguments)
    pending: list[LaunchDescriptionEntity] = list(
        runpy.run_path(str(file))["generate_launch_description"]().entities
    )
    nodes: dict[str, Any] = {}
    while pending:
        action = pending.pop(0)
        if isinstance(action, DeclareLaunchArgument):
            assert action.description
        if getattr(action, "condition", None) is not None and not action.condition.evaluate(
            context
        ):
            continue
        if isinstance(action, Node):
            action._perform_substitutions(context)
            nodes[action.node_name.rsplit("/", 1)[-1]] = action
            continue
        pending[:0] = action.visit(context) or []
    return nodes, dict(context.environment)


def commands(nodes: dict[str, Any]) -> dict[str, str]:
    """The parameters, remappings and arguments of each node, as its process will get them."""
    from launch.launch_context import LaunchContext
    from launch.utilities import perform_substitutions

    context = LaunchContext()
    return {
        name: " ".join(
            perform_substitutions(context, part) if isinstance(part, list) else str(part)
            for part in node.cmd
            if "LocalSubstitution" not in str(part)
        )
        for name, node in nodes.items()
    }


def parameters(node: Any) -> dict[str, Any]:
    """What the node's parameter files and settings come to, the last one counting."""
    from launch_ros.parameter_descriptions import Parameter

    merged: dict[str, Any] = {}
    for item, is_file in node._Node__expanded_parameter_arguments or []:
        if is_file:
            for section in yaml.safe_load(Path(item).read_text()).values():
                merged.update(flat(section["ros__parameters"]))
        elif isinstance(item, Parameter):
            from launch.launch_context import LaunchContext

            name, value = item.evaluate(LaunchContext())
            merged[name] = value
    return merged


def remappings(node: Any) -> dict[str, str]:
    return dict(node.expanded_remapping_rules or [])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_launches_its_node(share: Path, name: str) -> None:
    nodes, environment = launched(
        share / "launch" / f"{name}.launch.py",
        {"namespace": "robot", "use_sim_time": "true"},
    )
    assert list(nodes) == [name]
    assert nodes[name].node_name == f"/robot/{name}"
    assert Path(environment["FASTDDS_DEFAULT_PROFILES_FILE"]).samefile(ROOT / "config/fastdds.xml")
    found = parameters(nodes[name])
    assert found["use_sim_time"] is True
    assert found.keys() >= {f.name for f in fields(STAGES[name])} - {"elevations_rad"}


def test_a_profile_of_the_user_stays(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    _, environment = launched(share / "launch" / "forecast.launch.py", {})
    assert environment["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"


def test_perception_is_three_processes_wired_together(share: Path) -> None:
    nodes, _ = launched(
        share / "launch" / "perception.launch.py",
        {"image_topic": "/camera/image_raw", "labels_wait_s": "0.5"},
    )
    assert set(nodes) == set(STAGES)
    assert remappings(nodes["revisit"])["labels"] == "segmentation/labels"
    assert remappings(nodes["segmentation"])["image"] == "/camera/image_raw"
    assert parameters(nodes["revisit"])["labels_wait_s"] == 0.5
    assert parameters(nodes["forecast"])["beams"] == ForecastConfig().beams
    assert parameters(nodes["forecast"])["use_sim_time"] is False


def test_perception_composed(share: Path) -> None:
    nodes, _ = launched(share / "launch" / "perception.launch.py", {"composed": "true"})
    assert set(nodes) == {"perception"}
    assert parameters(nodes["perception"])["segmentation.backend"] == "embedded"


def test_replay_adds_the_player_and_its_time(share: Path) -> None:
    nodes, _ = launched(
        share / "launch" / "replay.launch.py", {"recording": "7", "rate": "2", "loop": "3"}
    )
    assert set(nodes) == {*STAGES, "player"}
    assert parameters(nodes["player"]) == {
        "recording": "7", "rate": 2.0, "loop": 3, "delay_s": 60.0,
    }  # fmt: skip
    assert all(parameters(nodes[stage])["use_sim_time"] is True for stage in STAGES)


def test_rviz_only_on_request(share: Path) -> None:
    pytest.importorskip("launch_ros.actions")
    for file in LAUNCH_FILES:
        arguments = {"recording": "x"} if file.name.startswith("replay") else {}
        nodes, _ = launched(share / "launch" / file.name, arguments)
        assert "rviz" not in nodes


def test_ros2_launch_starts_a_node_that_works(share: Path, ros_domain: int) -> None:
    """The whole way: the node comes up active in its namespace, and goes at SIGINT."""
    pytest.importorskip("rclpy")
    import signal
    import time

    import rclpy
    from lifecycle_msgs.srv import GetState

    program = (
        "import sys; from launch import LaunchDescription, LaunchService\n"
        "from launch.actions import IncludeLaunchDescription as Include\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource as Source\n"
        "include = Include(Source(sys.argv[1]), launch_arguments=[('namespace', 'robot')])\n"
        "service = LaunchService()\n"
        "service.include_launch_description(LaunchDescription([include]))\n"
        "sys.exit(service.run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(share / "launch" / "forecast.launch.py")], cwd=share
    )
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("observer", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        client = node.create_client(GetState, "/robot/forecast/get_state")
        assert client.wait_for_service(240.0)
        end, label = time.monotonic() + 240.0, ""
        while label != "active" and time.monotonic() < end:
            future = client.call_async(GetState.Request())
            executor.spin_until_future_complete(future, 5.0)
            label = future.result().current_state.label if future.done() else ""
        assert label == "active"
        process.send_signal(signal.SIGINT)
        assert process.wait(120.0) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        executor.remove_node(node)
        node.destroy_node()
        rclpy.shutdown(context=context)
