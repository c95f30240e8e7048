"""The examples of the docs run, and say what the docs claim."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_ways_to_meet() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/examples/two_ways_to_meet.py"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("UnifiedVLM", "CrossAttentionVLM"):
        section = done.stdout.split(name + "\n")[1]
        first, last = re.search(r"loss +([\d.]+) -> ([\d.]+)", section).groups()
        assert float(last) < 0.5 * float(first)
        assert "says        a red square" in section
        assert "loaded      equal outputs" in section
