"""The revisit node."""

from __future__ import annotations

import sys

from robot_perception.pipeline.perception import REVISIT
from robot_perception.ros.run import run


def main() -> int:
    return run("revisit", (REVISIT,))


if __name__ == "__main__":
    sys.exit(main())
