"""Training by several processes, as torch's launcher starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.dataset import samples
from robot_perception.core.forecast.ranks import beams_of, shared_batches
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans

# Each process has a folder of its own: what it writes shows there.
PROCESS = """
import hashlib, json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from robot_perception.core.forecast import ranks, training
device = ranks.join(torch.device("cpu"))
folder = Path(sys.argv[1])
files = sorted((folder / "samples").glob("*.npz"))
out = folder / f"rank{ranks.rank()}"
out.mkdir()
models = []
keep = ranks.parallel
ranks.parallel = lambda model: models.append(model) or keep(model)
steps = []
shared = ranks.shared_batches
def counted(*arguments):
    for batch in shared(*arguments):
        steps.append(batch.image.shape[2])
        yield batch
ranks.shared_batches = counted
config = training.TrainingConfig(epochs=2, batch=2, crop=128)
epochs = []
training.train(files, files, out / "w.safetensors", config, device, epochs.append)
state = b"".join(v.numpy().tobytes() for v in models[0].state_dict().values())
result = {"parameters": hashlib.sha256(state).hexdigest(), "steps": steps, "world": ranks.world(),
          "epochs": [[e.train, e.validation, e.gain] for e in epochs]}
(folder / f"{ranks.rank()}.json").write_text(json.dumps(result))
"""


def test_two_processes_train_one_network_and_one_writes(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for beams in (8, 16):
        config = ForecastConfig(beams=beams, columns=256)
        drive = SimulatorConfig(seed=beams, beams=beams, columns=256, cars=2)
        for i, sample in enumerate(samples(scans(drive, 11), config, 2, np.random.default_rng(0))):
            sample.save(folder / f"{beams}_{i}.npz")
    made = sorted(folder.glob("*.npz"))
    heights = [beams_of(path) for path in made]
    # An odd number of batches: one is seen twice.
    assert set(heights) == {8, 16} and all(heights.count(h) <= 4 for h in (8, 16))

    program = tmp_path / "process.py"
    program.write_text(PROCESS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(program), str(tmp_path)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == second["world"] == 2
    assert first["parameters"] == second["parameters"]
    assert first["epochs"] == second["epochs"] and len(first["epochs"]) == 2
    assert len(first["steps"]) == len(second["steps"]) > 0
    written = {path.name for path in (tmp_path / "rank0").iterdir()}
    assert written == {"w.safetensors", "w.safetensors.state"}
    assert not list((tmp_path / "rank1").iterdir())
    # Alone, a process takes all of them.
    alone = sum(len(batch.points) for batch in shared_batches(made, 2, 128, 0, 0))
    assert alone == len(made)
