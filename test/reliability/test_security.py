"""Nothing in the tree can be made to run code by data; the policy is exactly what the nodes use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from figures import record
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_weights import Payload

from robot_perception.pipeline.places import _read_truth
from robot_perception.pipeline.sources import RecordingError

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("robot_perception", "launch") for path in (ROOT / folder).rglob("*.py")
)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
# Safe loaders only: these build whatever objects the text asks for.
YAML = {"load", "load_all", "unsafe_load", "full_load", "full_load_all", "unsafe_load_all"}


# Published ground truth comes as an array of objects: read by an unpickler of its own that makes
# arrays and lists only, which the last test puts a payload before.
EXCEPTIONS = {"robot_perception/pipeline/places.py": ["pickle"]}


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in MODULES:
                yield node.module
        elif isinstance(node, ast.Call):
            called = name_of(node.func)
            named = {k.arg: k.value for k in node.keywords}
            if called in CALLS or called in {f"yaml.{n}" for n in YAML}:
                yield called
            elif called.endswith("torch.load") or called == "torch.load":
                safe = named.get("weights_only")
                if not (isinstance(safe, ast.Constant) and safe.value is True):
                    yield "torch.load without weights_only=True"
            elif called.endswith(("np.load", "numpy.load")):
                allowed = named.get("allow_pickle")
                if isinstance(allowed, ast.Constant) and allowed.value:
                    yield "np.load with allow_pickle"
            elif "shell" in named and ast.unparse(named["shell"]) != "False":
                yield f"{called} with a shell"


def test_nothing_runs_what_data_says() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if (names := list(dangers(ast.parse(path.read_text()))))
    }
    assert found == EXCEPTIONS
    for path in EXCEPTIONS:
        uses = set(re.findall(r"pickle\.\w+", (ROOT / path).read_text()))
        assert uses == {"pickle.Unpickler", "pickle.UnpicklingError"}
    record(
        "security",
        "pickle, eval, exec, shell, unsafe YAML in the package",
        "none; one reader of arrays that makes nothing else",
        len(SOURCES),
        found=0,
        array_readers=len(EXCEPTIONS),
    )


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "import yaml; yaml.load(x)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "subprocess.run(c, shell=True)",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(text: str) -> None:
    assert list(dangers(ast.parse(text)))


def test_the_policy_is_what_the_nodes_use(ros_domain: int) -> None:
    """Against the graph of the active nodes: nothing is missing, and nothing more is allowed."""
    rclpy = pytest.importorskip("rclpy")
    from robot_perception.ros.policy import NODES, Rights, rights

    tree = ElementTree.parse(ROOT / "config" / "sros2_policy.xml")
    allowed = {}
    for profile in tree.iter("profile"):

        def names(kind: str, right: str, profile: ElementTree.Element = profile) -> tuple[str, ...]:
            groups = [g for g in profile.findall(f"{kind}s") if g.get(right) == "ALLOW"]
            return tuple(sorted(f"/{e.text}" for g in groups for e in g.findall(kind)))

        allowed[str(profile.get("node"))] = Rights(
            names("topic", "publish"),
            names("topic", "subscribe"),
            names("service", "reply"),
            names("service", "request"),
        )
    assert "*" not in (ROOT / "config" / "sros2_policy.xml").read_text()
    rclpy.init()
    try:
        used = {name: rights(name) for name in NODES}
    finally:
        rclpy.try_shutdown()
    assert allowed == used
    record(
        "security",
        "SROS 2 policy against the graph of the active nodes",
        "exactly the topics and services that are used",
        sum(len(r.publishes + r.subscribes + r.serves + r.calls) for r in used.values()),
        nodes=len(used),
        missing=0,
        too_many=0,
    )


def installed_closure() -> dict[str, metadata.Distribution]:
    """Every installed distribution that requirements.txt asks for, directly or not."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found: dict[str, metadata.Distribution] = {}
    missing = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        skipped = requirement.marker and not requirement.marker.evaluate({"extra": ""})
        if name in found or name in missing or skipped:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        wanted += [Requirement(text) for text in found[name].requires or []]
    assert not missing & {canonicalize_name(Requirement(x).name) for x in lines if x[:1].isalpha()}
    return found


def licence_of(distribution: metadata.Distribution) -> str:
    """What its metadata say of the licence; else the beginning of its licence files."""
    head = distribution.metadata
    classifiers = [c for c in head.get_all("Classifier") or [] if c.startswith("License")]
    stated = [head.get("License-Expression"), (head.get("License") or "")[:300], *classifiers]
    if any(stated):
        return "; ".join(text for text in stated if text)
    own = (
        f for f in distribution.files or [] if re.search(r"dist-info/.*LICEN[CS]E[^/]*$", str(f))
    )
    return "; ".join(" ".join(f.read_text()[:300].split()) for f in own)


def test_no_dependency_is_under_the_gpl() -> None:
    """Nor under the AGPL; the LGPL's libraries may be linked. Every package states its licence."""
    closure = installed_closure()
    licences = {name: licence_of(d) for name, d in closure.items()}
    copyleft = {
        name: text
        for name, text in licences.items()
        if re.search(r"\bA?GPL|GNU (Affero )?General Public", text, re.I)
    }
    assert not copyleft
    for name in (n for n, text in licences.items() if not text):
        # Packages of nothing but requirements may leave it out.
        assert not [f for f in closure[name].files or [] if f.suffix in (".py", ".so")], name
    record(
        "security",
        "Licences of everything that requirements.txt installs",
        "no GPL, no AGPL, none unstated",
        len(closure),
        gpl=0,
        unstated=0,
    )


def test_torch_is_not_one_that_runs_code_from_checkpoints() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    (torch,) = (Requirement(x) for x in lines if re.match(r"torch\b", x))
    assert "2.10" in torch.specifier and not torch.specifier.contains("2.9.1")
    assert torch.specifier.contains(metadata.version("torch"))


def test_ground_truth_that_would_run_code_does_not(tmp_path: Path) -> None:
    planted, path = tmp_path / "planted", tmp_path / "truth.npy"
    rows = np.array([[0, [1, Payload(planted)]]], object)
    np.save(path, rows, allow_pickle=True)
    with pytest.raises(RecordingError, match="ground truth"):
        _read_truth(path)
    assert not planted.exists()
    np.save(path, np.array([[0, [1, 2]], [1, []]], object), allow_pickle=True)
    assert _read_truth(path) == [{1, 2}, set()]
