"""`pytest_avo/kernels/measured.csv`, what `pytest_avo.kernels` chooses by, made from the files of results/.

    python benchmarks/measured.py            # rewrite the file
    python benchmarks/measured.py --check    # exit with 1 if it is not what the files say

A file results/DEVICE/DATE/NAME.json is what `--avo-json` wrote. Of every kernel, device and shape that was timed beside
torch's own attention, the rows of the last day count, and of several runs on that day the median.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

from pytest_avo.kernels.measured import COLUMNS, SHIPPED, Measurement, of_results

ROOT = Path(__file__).parents[1]


def table() -> str:
    """The rows as CSV, in order of kernel, device and shape."""
    found: dict[tuple[str, str, str], dict[str, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((ROOT / "results").glob("*/*/*.json")):
        for row in of_results(path):
            found[row.kernel, row.device, row.shape.id][path.parent.name].append(row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (kernel, device, shape), days in sorted(found.items()):
        date, rows = max(days.items())
        figures = [median(getattr(row, name) for row in rows) for name in COLUMNS[4:]]
        writer.writerow([kernel, device, date, shape, *(f"{figure:.4g}" for figure in figures)])
    return text.getvalue()


def main() -> int:
    """Rewrite or check the file."""
    if "--check" in sys.argv:
        return int(SHIPPED.read_text(encoding="utf-8") != table())
    SHIPPED.write_text(table(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
