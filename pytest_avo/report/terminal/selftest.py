"""The table of a self-test: what each kernel of the corpus tried, what was made of it, and by which mechanism."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from pytest_avo.core.cheat import Expectation
from pytest_avo.report import text
from pytest_avo.report.terminal.terminal import Line, draw

HEADERS = ("class", "file", "expected", "got", "mechanism")
ALIGNS = ("left",) * 5
MECHANISMS = (
    (r"a timed call", "timed outputs are checked"),
    (r"one element changed", "a call repeated with one element changed"),
    (r"NaN or infinite", "results poisoned beforehand, none but finite ones pass"),
    (r"(max|rms) error", "error against float64"),
    (r"output (shape|dtype|device) is", "form of the result"),
    (r"expected a plain", "exact type of the result"),
    (r"shares memory", "result apart from the inputs"),
    (r"modified its inputs", "inputs compared bit for bit"),
    (r"accounts for", "the judge's clock"),
    (r"CPU time while", "idle process watched"),
    (r"malformed reply|more than one reply|did not answer|not asked", "replies of a fixed schema"),
    (r"took longer than", "time limit, whole process group killed"),
    (r"allocate memory|MemoryError|out of memory", "memory limit"),
    (r"process (exited|killed|ended)", "a process of its own"),
    (r"raised", "the kernel's own error"),
)
"""What the words of a reason say about the mechanism that found it; the first that fits."""


class SelftestRow(msgspec.Struct, frozen=True):
    """The result of one kernel. got: a word of EXPECT, or ok (right, no gain), gained, escaped, skipped."""

    kind: str
    file: str
    expect: frozenset[Expectation]
    got: str
    reason: str

    @property
    def expected(self) -> str:
        return "|".join(sorted(self.expect))

    @property
    def is_as_expected(self) -> bool:
        if self.got in ("escaped", "gained"):
            return self.got == "gained" and "accept" in self.expect  # an honest kernel may be fast
        return self.got in self.expect or "contained" in self.expect or (
            self.got == "ok" and bool(self.expect & {"accept", "score_true"})
        )  # fmt: skip

    @property
    def shown(self) -> str:
        """What was made of it, in the words of EXPECT."""
        if self.got not in ("ok", "gained") or not self.is_as_expected:
            return self.got
        return next((word for word in ("accept", "score_true", "contained") if word in self.expect), self.got)

    @property
    def mechanism(self) -> str:
        """What decided."""
        if self.got == "skipped":
            return self.reason
        if self.got in ("ok", "gained"):
            if self.expect == {"contained"}:
                return "confinement: nothing was taken or left"
            return f"timed from outside, {self.reason}"
        return next((name for pattern, name in MECHANISMS if re.search(pattern, self.reason)), self.reason)


def table(rows: Sequence[SelftestRow]) -> Iterator[Line]:
    """A row per kernel, by class, then how many came out as expected."""
    if not rows:
        return
    ordered = sorted(rows, key=lambda row: (row.kind == "honest", row.kind, row.file))
    body = [
        [row.kind, row.file, row.expected, row.shown, text.plain(row.mechanism)]
        for row in ordered
    ]  # fmt: skip
    header, rule, *lines = draw(HEADERS, body, ALIGNS)
    yield Line(header)
    yield Line(rule)
    for line, row in zip(lines, ordered, strict=True):
        colour = "yellow" if row.got == "skipped" else "green" if row.is_as_expected else "red"
        yield Line(line, {colour: True})
    ran = [row for row in rows if row.got != "skipped"]
    good = sum(row.is_as_expected for row in ran)
    skipped = f", {len(rows) - len(ran)} skipped" if len(ran) < len(rows) else ""
    yield Line(f"{good} of {text.counted(len(ran), 'kernel')} as expected{skipped}", {"bold": True})
    for row in ran:
        if not row.is_as_expected:
            yield Line(text.plain(f"{row.file}: {row.got}: {row.reason}"), {"red": True})
