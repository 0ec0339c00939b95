"""Who works through the jobs: processes of this machine, or a Ray cluster.

On one machine a thread for each worker feeds a process of its own through a pipe. A pool of the
standard library would be shorter, but breaks as a whole when one of its processes dies, and Ray
would be a dependency of 200 MB for what two pipes do; so Ray is for clusters, and optional.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from robot_perception.pipeline.batch.one import FAILED, Job, Outcome, process

Tell = Callable[[str, int, int | None], None]
"""Called with a recording, the messages of it that are done, and how many there are, if known."""
WORKER = (sys.executable, "-m", "robot_perception.apps.batch_worker")


def local(
    jobs: Sequence[Job],
    workers: int,
    retries: int,
    tell: Tell,
    command: Sequence[str] = WORKER,
) -> Generator[Outcome, None, None]:
    """Outcomes as they come, from `workers` processes; a job is tried `1 + retries` times.

    When the generator is closed, so are the processes.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    crew = [_Process(command, workers, stop) for _ in range(min(workers, len(jobs)))]
    threads = [
        threading.Thread(target=_work, args=(one, waiting, outcomes, retries, tell), daemon=True)
        for one in crew
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            outcome = outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        stop.set()
        for one in crew:
            one.kill()
        for thread in threads:
            thread.join()


class _Process:
    """A worker process, started when there is a job for it, and again after it has died."""

    def __init__(self, command: Sequence[str], workers: int, stop: threading.Event) -> None:
        self._command = command
        # Threads of several workers that wait for one another take many times as long.
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        self._environment = {"OMP_NUM_THREADS": threads, **os.environ}
        self._stop = stop
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._running: subprocess.Popen[str] | None = None

    def run(self, job: Job, tell: Tell) -> Outcome | None:
        """None if it was stopped."""
        if self._running is None:
            self._running = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=self._environment,
                text=True,
            )
        process = self._running
        assert process.stdin and process.stdout
        if self._stop.is_set():
            process.kill()
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                # It died in the middle of a word.
                break
            if "outcome" in answer:
                return Outcome(**answer["outcome"])
            tell(job.recording, *answer["progress"])
        code = process.wait()
        self._running = None
        if self._stop.is_set():
            return None
        return Outcome(job.recording, FAILED, error=self._why(code), again=True)

    def kill(self) -> None:
        if self._running:
            self._running.kill()

    def _why(self, code: int) -> str:
        self._errors.seek(0)
        last = self._errors.read()[-2000:].strip().rpartition("\n")[2]
        how = f"signal {-code}" if code < 0 else f"status {code}"
        return f"the worker ended with {how}" + (f": {last}" if last else "")

    def close(self) -> None:
        if self._running:
            self._running.communicate()
        self._errors.close()


def _work(
    worker: _Process,
    waiting: queue.SimpleQueue[Job],
    outcomes: queue.SimpleQueue[Outcome | BaseException],
    retries: int,
    tell: Tell,
) -> None:
    try:
        while True:
            job = waiting.get_nowait()
            for attempt in range(1, retries + 2):
                outcome = worker.run(job, tell)
                if outcome is None:
                    return
                if not outcome.again or attempt == retries + 1:
                    outcomes.put(replace(outcome, attempts=attempt))
                    break
    except queue.Empty:
        pass
    except BaseException as error:
        outcomes.put(error)
    finally:
        worker.close()


def cluster(
    jobs: Sequence[Job], address: str, retries: int, cpus: float, gpus: float
) -> Generator[Outcome, None, None]:
    """Outcomes as they come, from the Ray cluster at `address`, each job with `cpus`, `gpus`.

    The package must be installed on its machines, and recordings and results have the same path on
    all of them. Raises ValueError without the package `ray`, and ConnectionError without a cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "a cluster needs the package ray: pip install 'robot_perception[cluster]'"
        ) from error
    ray.init(address=address, log_to_driver=False, logging_level="warning")
    # A lost machine or a crash is an attempt like any other: counted here, not by Ray.
    remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_remotely).options(
        scheduling_strategy="SPREAD"
    )
    try:
        running = {remote.remote(asdict(job)): (job, 1) for job in jobs}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            job, attempt = running.pop(done)
            try:
                outcome = Outcome(**ray.get(done))
            except ray.exceptions.RayError as error:
                reason = str(error).strip().partition("\n")[0]
                text = f"the worker was lost: {type(error).__name__}: {reason}"
                outcome = Outcome(job.recording, FAILED, error=text, again=True)
            if outcome.again and attempt <= retries:
                running[remote.remote(asdict(job))] = (job, attempt + 1)
            else:
                yield replace(outcome, attempts=attempt)
    finally:
        ray.shutdown()


def _remotely(job: dict[str, Any]) -> dict[str, Any]:
    return asdict(process(Job(**job)))
