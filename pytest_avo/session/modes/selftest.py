"""--avo-selftest: kernels that cheat, break or only look odd, run on the user's own machine; none may escape."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_avo import PACKAGE
from pytest_avo.core.cheat import WORDS, Cheat, describes_cheat, read_cheat
from pytest_avo.core.errors import EvaluatorError
from pytest_avo.core.evaluation import EvaluationRequest, Evaluations, Subject, TimingPlan
from pytest_avo.core.shape import Shape
from pytest_avo.core.verdict import judge
from pytest_avo.evaluation.linux.traps import Traps
from pytest_avo.report.terminal import selftest as report_selftest
from pytest_avo.report.terminal.selftest import SelftestRow
from pytest_avo.report.terminal.terminal import Line
from pytest_avo.run.assessor import Assessor
from pytest_avo.run.console import Console
from pytest_avo.session.header import header
from pytest_avo.session.items.kernel_file import FileItem, file_of
from pytest_avo.session.items.report_values import ReportValue
from pytest_avo.session.items.tally import Tally
from pytest_avo.session.items.unmeasured import attach_unmeasured, fail
from pytest_avo.session.kernel_run import MeasuredRun
from pytest_avo.session.selection import Selection

ROW = ReportValue("avo_selftest_row", SelftestRow)
"""What became of a kernel of the corpus."""
TWIN = "honest_plain.py"
"""The kernel of the corpus that others are timed beside: what most of them compute, without a trick."""
PEER = "torch-sdpa"
PLAN = TimingPlan(min_rounds=5, max_rounds=9, budget_s=10.0, precision=0.03)
GAIN = 1.25
"""A kernel gained by its trick if it is, beyond its 95% interval, so much faster than every honest one beside it."""


class CheatFile(pytest.File):
    """A kernel of the corpus, read and never imported."""

    selftest: SelfTest

    def collect(self) -> Iterator[pytest.Item]:
        cheat = read_cheat(self.path)
        item: CheatItem = CheatItem.from_parent(self, name=cheat.kind.replace(" ", "-"))
        item.cheat = cheat
        yield item


class CheatItem(FileItem):
    """One kernel of the corpus: it passes if the harness makes of it what its docstring expects."""

    parent: CheatFile
    cheat: Cheat
    evaluations: Evaluations
    row: SelftestRow | None = None

    def setup(self) -> None:
        """Wait for the evaluation. What fails here is the machine, so it is an error, not the kernel's doing."""
        if reason := self.parent.selftest.why_skipped(self.cheat):
            self.row = self._row("skipped", reason)
            pytest.skip(reason)
        try:
            self.evaluations = self.parent.selftest.evaluations(self.cheat)
        except EvaluatorError as error:
            fail(self, error)

    def runtest(self) -> None:
        """Fail if the kernel escaped or, being honest, was not found right."""
        selftest = self.parent.selftest
        evidence = selftest.traps.spring(list(self.evaluations.values()))
        bad = next((x for x in self.evaluations.values() if x.outcome != "ok"), None)
        if evidence:
            self.row = self._row("escaped", "; ".join(evidence))
        elif bad is not None:
            self.row = self._row(WORDS[bad.outcome], bad.reason)
        elif too_few := next((x.timing.too_few for x in self.evaluations.values() if x.timing), ""):
            if not self.cheat.expect & {"accept", "contained"}:
                fail(self, EvaluatorError(too_few))
            self.row = self._row("ok", f"right; not compared: {too_few}")
        else:
            gained = selftest.gain(self.cheat, self.evaluations)
            self.row = self._row("gained" if gained > GAIN else "ok", f"{gained:.2f}x of an honest one")
        if not self.row.is_as_expected:
            pytest.fail(f"{self.row.got}: {self.row.reason}; expected {self.row.expected}", pytrace=False)

    def _row(self, got: str, reason: str) -> SelftestRow:
        return SelftestRow(
            kind=self.cheat.kind, file=self.path.stem, expect=self.cheat.expect, got=got, reason=reason
        )  # fmt: skip


class Corpus(Selection):
    """The kernels that say what is expected of them; by default those that ship with the plugin."""

    def default_paths(self) -> list[str]:
        """A copy of the shipped corpus below the rootdir: in a checkout, conftests of another project lie beside it."""
        folder = self._settings.store / "selftest"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        shipped = {path.name: path for path in corpus().glob("*.py")}
        for left in folder.glob("*.py"):
            if left.name not in shipped:
                left.unlink(missing_ok=True)
        for name, path in shipped.items():
            if not (folder / name).is_file() or not filecmp.cmp(path, folder / name, shallow=False):
                new = folder / f"{name}.{os.getpid()}"  # another process may be at it too
                shutil.copyfile(path, new)
                new.replace(folder / name)
        return [str(folder)]

    def check_paths(self, arguments: list[str]) -> None:
        for path in self._kernel_files(arguments):
            self._settings.suites.shapes(read_cheat(path).suite)

    def is_kernel(self, path: Path, *, named: bool) -> bool:
        return path.suffix == ".py" and (named or describes_cheat(path))


class SelfTest(MeasuredRun):
    """A run over the corpus."""

    def __init__(self, config: pytest.Config, console: Console, assessor: Assessor) -> None:
        super().__init__(assessor)
        self.selection = Corpus(config, assessor.settings)
        self._settings = assessor.settings
        self._tally = Tally()
        self._found: list[SelftestRow] = []
        self._traps: Traps | None = None

    def header(self) -> str:
        return header(self.assessor, peers=(PEER,))

    @property
    def traps(self) -> Traps:
        """The bait, laid out before the first worker is started so that its secret is everywhere above kernels."""
        if self._traps is None:
            self._traps = Traps()
            self._traps.lay()
        return self._traps

    def collector(self, parent: pytest.Collector, path: Path) -> pytest.File:
        file = file_of(CheatFile, parent, path)
        file.selftest = self
        return file

    def why_skipped(self, cheat: Cheat) -> str:
        """Why a kernel means nothing on this device, or ""."""
        target = self.assessor.device.target
        here = "cpu" if target == "cpu" else "gpu"
        return "" if cheat.target in ("any", here) else f"is for a {cheat.target}, this device is {target}"

    def _shapes(self, cheat: Cheat) -> tuple[Shape, ...]:
        return self._settings.suites.shapes(cheat.suite)

    def evaluations(self, cheat: Cheat) -> Evaluations:
        """The facts about a kernel on all shapes, beside an honest twin and torch's own attention; blocks."""
        self.traps  # noqa: B018 - before the evaluator is started
        request = EvaluationRequest(
            number=0,
            subject=Subject(cheat.path.name, cheat.source),
            shapes=self._shapes(cheat),
            limits=cheat.limits or self._settings.limits,
            plan=PLAN,
            baseline=Subject(TWIN, (corpus() / TWIN).read_text(encoding="utf-8")),
            peers=(PEER,),
            target=self.assessor.device.target,
        )
        return self.assessor.answers(request)

    def gain(self, cheat: Cheat, evaluations: Evaluations) -> float:
        """How much faster than every honest kernel beside it a kernel surely is, on the shape where it is most so."""
        gains = []
        for shape in self._shapes(cheat):
            verdict = judge(evaluations[shape.id], shape, floor=self.assessor.floor)
            compared = [*verdict.peers.values(), *([verdict.baseline] if verdict.baseline else [])]
            gains.append(min(each.ci95[0] for each in compared))
        return max(gains)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        attach_unmeasured(item, report)
        wanted = report.when == "call" or (report.when == "setup" and report.skipped)
        if isinstance(item, CheatItem) and wanted and item.row is not None:
            ROW.put(report, item.row)

    def keep(self, report: pytest.TestReport) -> None:
        self._tally.keep(report)
        if row := ROW.of(report):
            self._found.append(row)

    def exit_status(self, status: int) -> int:
        return self._tally.exit_status(status)

    def table(self) -> Iterable[Line]:
        return report_selftest.table(self._found)

    def close(self) -> None:
        super().close()
        if self._traps is not None:
            self._traps.close()


def corpus() -> Path:
    """The folder of the kernels that ship with the plugin: in a wheel, else in a checkout."""
    shipped: Sequence[Path] = (PACKAGE / "cheats", PACKAGE.parent / "tests" / "cheats")
    return next(folder for folder in shipped if folder.is_dir())
