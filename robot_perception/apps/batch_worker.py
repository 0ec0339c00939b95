"""A process that works through recordings: a job a line comes in, progress and outcomes go out.

Ends when its input does, at once: what it was at is left aside, and done by whoever comes next.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

_PROGRESS_PERIOD_S = 0.2


def main() -> None:
    """Work until the other end closes."""
    # What a library prints must not get between the lines.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    jobs: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        # Nobody is there to take an answer.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    # After the thread is listening: this takes seconds.
    from robot_perception.pipeline.batch.one import Job, process

    while True:
        job = Job(**json.loads(jobs.get()))
        last = 0.0

        def tell(done: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last > _PROGRESS_PERIOD_S:
                last = time.monotonic()
                answer({"progress": [done, total]})

        def answer(document: dict[str, Any]) -> None:
            answers.write(json.dumps(document) + "\n")

        answer({"outcome": asdict(process(job, tell))})


if __name__ == "__main__":
    main()
