"""All three abilities in one process: messages are decoded once, a DINOv2 forward serves two."""

from __future__ import annotations

import sys

from robot_perception.pipeline.perception import TASKS
from robot_perception.ros.run import run


def main() -> int:
    return run("perception", TASKS)


if __name__ == "__main__":
    sys.exit(main())
