"""The package as a whole: who imports whom, what is declared, what gets installed."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from robot_perception.apps.parameter_files import rendered

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "robot_perception"
LAYERS = {
    "core": {"core"},
    "wire": {"core", "wire"},
    "pipeline": {"core", "wire", "pipeline"},
    "ros": {"core", "wire", "pipeline", "ros"},
    "apps": {"core", "wire", "pipeline", "apps"},
}
WITHOUT_ROS = ("core", "wire", "pipeline")


def imports(path: Path) -> Iterator[str]:
    """Every module that `path` imports anywhere, in full."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def sources(layer: str) -> list[Path]:
    found = sorted((PACKAGE / layer).rglob("*.py"))
    assert found
    return found


def is_ros(module: str) -> bool:
    top = module.partition(".")[0]
    return top in {"rclpy", "launch", "launch_ros", "tf2_ros"} or top.endswith(
        ("_msgs", "_srvs", "_interfaces")
    )


def is_vendored(module: str) -> bool:
    """Not of the standard library and not our own."""
    top = module.partition(".")[0]
    return top not in sys.stdlib_module_names and top != "robot_perception"


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    for path in sources(layer):
        for module in imports(path):
            top, _, rest = module.partition(".")
            if top == "robot_perception":
                assert rest.partition(".")[0] in LAYERS[layer], f"{path} imports {module}"
            assert layer == "ros" or not is_ros(module), f"{path} imports {module}"


def test_what_needs_no_ros_imports_without_it() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for layer in WITHOUT_ROS
        for path in sources(layer)
    ]
    program = f"""
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "rclpy" or top.endswith(("_msgs", "_srvs", "_interfaces")):
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
for name in ("rclpy", "sensor_msgs.msg"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} was not blocked")
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def setup_text() -> str:
    return (ROOT / "setup.py").read_text()


def executables() -> dict[str, str]:
    """Name -> module:function, as setup.py declares them."""
    return dict(re.findall(r'"([\w-]+) = ([\w.]+:\w+)"', setup_text()))


def test_the_manifest_declares_what_the_nodes_import() -> None:
    root = manifest()
    assert root.get("format") == "3"
    declared = {element.text for element in root if element.tag.endswith("depend")}
    used = {
        module.partition(".")[0]
        for path in [*sources("ros"), *(ROOT / "launch").glob("*.py")]
        for module in imports(path)
        if is_ros(module) or module.startswith("ament_")
    }
    # Types that are only named, and made by name.
    named = re.compile(r'"(\w+_msgs|std_srvs)/(?:msg|srv)/\w+"')
    used |= {name for path in PACKAGE.rglob("*.py") for name in named.findall(path.read_text())}
    assert used <= declared, f"not in package.xml: {sorted(used - declared)}"


def test_the_manifest_and_the_setup_agree() -> None:
    root = manifest()
    assert root.findtext("export/build_type") == "ament_python"
    for element in ("name", "version", "license"):
        text = root.findtext(element)
        assert text
        if element == "name":
            assert f'NAME = "{text}"' in setup_text()
        else:
            assert f'{element}="{text}"' in setup_text()
    assert f"{root.findtext('version')} (" in (ROOT / "CHANGELOG.rst").read_text()


def test_requirements_are_what_is_imported() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = (re.match(r"[\w.-]+", line) for line in lines if not line.startswith("#"))
    required = {normal(match.group()) for match in names if match}
    owners = importlib.metadata.packages_distributions()
    used: dict[str, set[str]] = {}
    for layer in LAYERS:
        for path in sources(layer):
            for module in imports(path):
                if is_vendored(module) and not is_ros(module):
                    used.setdefault(module.partition(".")[0], set()).add(path.name)
    for top, where in used.items():
        # A wheel of one extension module does not list it.
        distributions = {normal(name) for name in owners.get(top, [top])}
        optional = any(f'["{name}>=' in setup_text() for name in {top, *distributions})
        if optional or top.startswith(("ament_", "vision_")):
            continue
        assert distributions & required, f"{top} ({sorted(where)}) is in no requirement"
    for name in required:
        importlib.metadata.distribution(name)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_executables_exist() -> None:
    declared = executables()
    assert {"robot-perception", "player_node"} <= declared.keys()
    for target in declared.values():
        module, _, function = target.partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        functions = {
            n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)
        }
        assert function in functions, target


def test_generated_files_are_up_to_date() -> None:
    for path, content in rendered(ROOT):
        assert path.read_text() == content, (
            f"{path.name} is out of date: python -m robot_perception.apps.parameter_files"
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package built by colcon as in a workspace; its install prefix."""
    if importlib.util.find_spec("colcon_ros") is None:
        pytest.skip("colcon is not installed")
    workspace = tmp_path_factory.mktemp("workspace")
    unwanted = shutil.ignore_patterns(
        ".*", "out", "build", "install", "log", "test", "*.egg-info", "__pycache__"
    )
    shutil.copytree(ROOT, workspace / "src" / "robot_perception", ignore=unwanted)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    program = "import sys; from colcon_core.command import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "build", "--packages-select", "robot_perception"],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace / "install" / "robot_perception"


def test_everything_is_installed(installed: Path) -> None:
    share = installed / "share" / "robot_perception"
    assert (share / "package.xml").is_file()
    assert (installed / "share/ament_index/resource_index/packages/robot_perception").is_file()
    wanted = [
        path.relative_to(ROOT)
        for pattern in ("launch/*.launch.py", "config/*.*", "config/rviz/*", "config/foxglove/*")
        for path in ROOT.glob(pattern)
    ]
    assert len(wanted) >= 5 + 4 + 1 + 4 + 1
    for path in wanted:
        assert (share / path).read_bytes() == (ROOT / path).read_bytes()
    (library,) = installed.glob("lib/python3*/site-packages/robot_perception")
    data = {"*.py", "*.yaml", "*.safetensors"}
    for path in (p for pattern in data for p in PACKAGE.rglob(pattern)):
        assert (library / path.relative_to(PACKAGE)).is_file(), path


def test_installed_executables_run(installed: Path) -> None:
    folder = installed / "lib" / "robot_perception"
    assert {path.name for path in folder.iterdir()} == set(executables())
    (library,) = installed.glob("lib/python3*/site-packages")
    environment = {**os.environ, "PYTHONPATH": str(library)}
    done = subprocess.run(
        [folder / "robot-perception", "--help"],
        env=environment,
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "replay" in done.stdout
    modules = [target.partition(":")[0] for target in executables().values()]
    if importlib.util.find_spec("rclpy") is None:
        modules = [m for m in modules if ".ros." not in m]
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    assert importlib.import_module(name).__file__.startswith(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(library)],
        env=environment,
        cwd=installed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def displays(tree: object) -> Iterator[dict[str, object]]:
    if isinstance(tree, dict):
        if "Class" in tree and "Topic" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from displays(branch)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config/rviz").glob("*.rviz")), ids=lambda p: p.stem
)
def test_rviz_shows_topics_that_exist(path: Path) -> None:
    from robot_perception.core.config import ForecastConfig, RevisitConfig, SegmentationConfig
    from robot_perception.pipeline.outputs import topics
    from robot_perception.pipeline.perception import Tasks

    kinds = {
        "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
        "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
        "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
        "rviz_default_plugins/Odometry": "nav_msgs/msg/Odometry",
    }
    known = {
        f"/{task}/{topic.name}": topic
        for task, of_task in topics(
            Tasks(SegmentationConfig(), RevisitConfig(), ForecastConfig())
        ).items()
        for topic in of_task
    }
    inputs = {"/image": "rviz_default_plugins/Image", "/points": "rviz_default_plugins/PointCloud2"}
    inputs["/odom"] = "rviz_default_plugins/Odometry"
    shown = [d for d in displays(yaml.safe_load(path.read_text())) if d["Class"] in kinds]
    assert shown
    for display in shown:
        subscription = display["Topic"]
        assert isinstance(subscription, dict)
        name = subscription["Value"]
        if name in inputs:
            assert display["Class"] == inputs[name]
            continue
        assert kinds[str(display["Class"])] == known[name].type, name
        latched = subscription["Durability Policy"] == "Transient Local"
        assert latched == known[name].latched, name
