"""What the plugin costs a plain pytest: an empty project with the plugin, and with `-p no:avo`, interleaved.

python benchmarks/startup.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(folder: Path, *arguments: str) -> float:
    """Wall time of one pytest run in `folder`, which has a single empty test."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def main(rounds: int) -> None:
    """Print the medians and the median paired difference."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        pairs = []
        for number in range(rounds + 1):
            arms = [(), ("-p", "no:avo")]
            measured = {arm: seconds(folder, *arm) for arm in (reversed(arms) if number % 2 else arms)}
            pairs.append((measured[()], measured["-p", "no:avo"]))
    with_plugin, without = zip(*pairs[1:], strict=True)
    difference = statistics.median(x - y for x, y in pairs[1:])
    sys.stdout.write(
        f"{rounds} interleaved runs: with {statistics.median(with_plugin) * 1e3:.0f} ms, without "
        f"{statistics.median(without) * 1e3:.0f} ms, median difference {difference * 1e3:.1f} ms\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
