"""The page of one run, or of several laid over each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import drawsvg
from markupsafe import Markup

from pytest_avo.core.stats import Interval
from pytest_avo.report.page.calibration import calibration
from pytest_avo.report.page.diffs import diff
from pytest_avo.report.page.drawing import mark
from pytest_avo.report.page.facts import UNDER_WAY, AttemptFacts, RunFacts
from pytest_avo.report.page.heat_map import heat_map
from pytest_avo.report.page.page import page
from pytest_avo.report.page.trajectory import trajectories
from pytest_avo.report.page.tree import tree

DIFF_LINES = 4500
EXCERPTS = 250_000
WORDS = 300_000
"""Lines of diffs, and characters of transcripts and of what is said of attempts, over all: a page stays below 3 MB."""
FEWEST_LINES, MOST_LINES = 8, 400
REASONS = 3
LEGEND = ("promoted", "kept", "same", "slower", "incorrect", "duplicate")
LEGEND_NAMES = {"same": "same or ambiguous", "incorrect": "not right, or failed", "duplicate": "duplicate"}
SHADES = (
    ("d4", "over 20% slower than its parent"),
    ("d2", "slower"),
    ("even", "within 1%"),
    ("f2", "faster"),
    ("f4", "over 20% faster"),
    ("bad", "not right"),
    ("untimed", "not timed"),
)


@dataclass(frozen=True, slots=True)
class Cause:
    """How many attempts ended in one way, and why."""

    status: str
    number: int
    reasons: list[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSection:
    """What the template needs of a run."""

    key: int
    title: str
    """Which run it is, with its project where another run has its number."""
    facts: RunFacts
    most_looked: int
    """Characters of a profile that are shown."""
    most_words: int
    """Words of a hypothesis that are shown; of a reason and of a lesson two thirds of it."""
    tree: Markup
    heat_map: Markup
    calibration: Markup
    causes: list[Cause]
    diffs: dict[int, Markup]
    names: dict[int, str]
    ended: int
    under_way: int
    islands: int
    best: Interval | None
    predicts_shapes: bool
    most_characters: int

    def excerpt(self, attempt: AttemptFacts) -> str:
        """The end of what the model said last."""
        return attempt.transcript[-self.most_characters :]


def runs_page(runs: Sequence[RunFacts], *, live: str = "") -> str:
    """The page. `live` is the state that it shows, where its server has newer ones."""
    attempts = sum(len(run.attempts) for run in runs) or 1
    most_lines = max(FEWEST_LINES, min(MOST_LINES, DIFF_LINES // attempts))
    titles = run_titles(runs)
    sections = [
        _section(
            run,
            key=index,
            title=titles[index],
            most_lines=most_lines,
            most_characters=max(120, EXCERPTS // attempts),
            most_words=max(300, WORDS // attempts // 2),
        )
        for index, run in enumerate(runs)
    ]
    kernels = ", ".join(dict.fromkeys(run.kernel for run in runs))
    return page(
        "runs.html",
        title=f"Evolution of {kernels}",
        live=live,
        runs=sections,
        trajectories=[(over, Markup(chart)) for over, chart in trajectories(runs, titles)],
        legend=[(LEGEND_NAMES.get(status, status), _symbol(status)) for status in LEGEND],
        shades=SHADES,
    )


def run_titles(runs: Sequence[RunFacts]) -> list[str]:
    """`Run 3`, or `Run 3 of PROJECT` where several runs have that number; told apart by a letter where that is none."""
    numbers = Counter(run.number for run in runs)
    named = [f"Run {run.number}" + (f" of {run.project}" if numbers[run.number] > 1 else "") for run in runs]
    alike = Counter(named)
    seen: Counter[str] = Counter()
    found = []
    for name in named:
        seen[name] += 1
        found.append(f"{name} ({chr(ord('a') + seen[name] - 1)})" if alike[name] > 1 else name)
    return found


def _section(
    run: RunFacts, *, key: int, title: str, most_lines: int, most_characters: int, most_words: int
) -> RunSection:
    ended = [each for each in run.attempts if each.status not in (UNDER_WAY, "seed")]
    speeds = [each.speed for each in run.promoted if each.speed]
    return RunSection(
        key=key,
        title=title,
        facts=run,
        most_looked=4 * most_characters,
        most_words=most_words,
        tree=Markup(tree(run)),
        heat_map=Markup(heat_map(run)),
        calibration=Markup(calibration(run)),
        causes=causes(run),
        diffs={
            each.id: diff(each.parent_source, each.source, most_lines=most_lines) if each.parent else Markup("")
            for each in run.attempts
        },
        names={each.id: each.name for each in run.attempts},
        ended=len(ended),
        under_way=sum(each.status == UNDER_WAY for each in run.attempts),
        islands=max((each.island for each in run.attempts), default=0) + 1,
        best=run.over_seed or max(speeds, key=lambda each: each.estimate, default=None),
        predicts_shapes=any(found.predicted for each in run.attempts for found in each.shapes),
        most_characters=most_characters,
    )


def causes(run: RunFacts) -> list[Cause]:
    """How attempts ended, most frequent first; reasons that differ only in figures count as one."""
    reasons: dict[str, list[str]] = {}
    for each in run.attempts:
        if each.parent is None:
            continue
        reasons.setdefault(each.status, []).append(" ".join(each.reason.split()))
    found = []
    for status, texts in sorted(reasons.items(), key=lambda item: -len(item[1])):
        kinds = Counter(re.sub(r"\d[\d.,e+-]*", "#", text)[:120] for text in texts if text)
        shown = {re.sub(r"\d[\d.,e+-]*", "#", text)[:120]: text for text in reversed(texts) if text}
        found.append(Cause(status, len(texts), [(shown[kind][:200], n) for kind, n in kinds.most_common(REASONS)]))
    return found


def _symbol(status: str) -> Markup:
    """The mark of a status, for the legend."""
    chart = drawsvg.Drawing(16, 16, **{"aria-hidden": "true"})
    chart.append(mark(status, 8, 8))
    return Markup(str(chart.as_svg(header="")))
