"""The table of docs/reference/figures.md, what was measured on GPUs, made from the files of results/.

    python benchmarks/figures.py            # rewrite the table
    python benchmarks/figures.py --check    # exit with 1 if it is not what the files say

A file results/DEVICE/DATE/NAME.json is what `--avo-json` wrote. Every one gives a row per kernel and suite of which it
has two shapes or more: weighted geometric means of the peers' time over the kernel's, with 95% intervals.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pytest_avo.core.shape import read_suite
from pytest_avo.core.verdict import Comparison
from pytest_avo.report.rows import geomean

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- table made by benchmarks/figures.py -->", "<!-- end of table -->"
SUITES = (
    "mha",
    "gqa",
    "hdim",
    "short",
    "chunked",
    "wide-odd",
    "held-out",
    "prefill-odd",
    "decode",
    "decode-small",
    "single-user",
)
PEERS = {"cudnn": "over cuDNN", "fa2": "over FA2", "fa3": "over FA3", "fa4": "over FA4"}


def table() -> str:
    """The table in Markdown, newest results first."""
    folders = sorted((ROOT / "results").glob("*/*/"), key=lambda folder: folder.name, reverse=True)
    found = [row for folder in folders for path in sorted(folder.glob("*.json")) for row in rows(path)]
    headers = ["device, date, run", "kernel", "suite", "shapes", *PEERS.values()]
    return tabulate(found, headers=headers, tablefmt="github", disable_numparse=True)


def rows(path: Path) -> list[list[str]]:
    """A row per kernel and suite of one file."""
    avo = json.loads(path.read_text())["avo"]
    weights = {
        suite: {shape.id: shape.weight for shape in read_suite(ROOT / f"shapes/{suite}.toml")} for suite in SUITES
    }
    kernels = dict.fromkeys(result["kernel"] for result in avo["results"])
    made = []
    for kernel in kernels:
        for suite, shapes in weights.items():
            results = [x for x in avo["results"] if x["kernel"] == kernel and x["shape"] in shapes]
            if len(results) > 1:  # a single shape may lie in several suites
                device = results[0]["device"].removeprefix("NVIDIA ").removesuffix(" 80GB HBM3")
                where = f"{device}, {path.parent.name}, {path.stem}"
                cells = [against(results, peer, shapes) for peer in PEERS]
                made.append([where, f"`{kernel}`", f"`{suite}`", str(len(results)), *cells])
    return made


def against(results: list[dict[str, Any]], peer: str, weights: dict[str, float]) -> str:
    """The geomean against one peer, over the shapes that were timed beside it."""
    pairs = []
    for result in results:
        if beside := result["peers"].get(peer):
            low, high = beside["ci95"]
            pairs.append((weights[result["shape"]], Comparison(beside["median_us"], beside["ratio"], (low, high))))
    if not pairs:
        return "-"
    mean = geomean(pairs)
    return f"{mean.ratio:.3f} [{mean.ci95[0]:.3f}, {mean.ci95[1]:.3f}]"


def main() -> int:
    """Rewrite or check the page."""
    page = ROOT / "docs" / "reference" / "figures.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"
    if "--check" in sys.argv:
        return int(text != wanted)
    page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
