"""Baselines on disk: what is kept, what may be compared with it, and how."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import KERNEL, Evaluation, EvaluationRequest, Subject, Timing, TimingPlan
from pytest_avo.core.fingerprint import fingerprint
from pytest_avo.core.kernel import parse_kernel
from pytest_avo.core.verdict import Verdict
from pytest_avo.gate.gains import Comparand, Gains
from pytest_avo.gate.gate import Gate
from pytest_avo.gate.rules import parse_rules
from pytest_avo.gate.store import StoredBaseline, automatic_name, baseline_path, save, stored
from pytest_avo.report.results import Results
from pytest_avo.report.rows import ResultRow
from tests.gate.conftest import Repository
from tests.report.result_rows import beside, row, shape

HERE = fingerprint(target="cpu", device="a processor", units=2)
CASE = Comparand(parse_kernel("", path=Path("/nowhere/prefill.py")), "kernels/cpu/prefill.py", shape())


def saved(folder: Path, *rows: ResultRow, name: str = "main") -> Path:
    path = baseline_path(name, folder)
    save(Results(rows, (), HERE, folder), path)
    return path


def loaded(folder: Path, name: str = "main", *, allow_mismatch: bool = False) -> StoredBaseline:
    return stored(name, folder, fingerprint=HERE, allow_mismatch=allow_mismatch)


def timed(kernel_s: float, peer_s: float | None, *, launches: int = 1, seed: int = 0) -> Timing:
    random = np.random.default_rng(seed)

    def arm(seconds: float) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple((seconds * np.exp(0.003 * random.standard_normal(20))).tolist()) for _ in range(launches))

    return Timing({KERNEL: arm(kernel_s)} | ({} if peer_s is None else {"fa3": arm(peer_s)}), calls=1, stopped="")


def test_keeps_what_was_measured_of_right_kernels(tmp_path: Path) -> None:
    folder = tmp_path / ".avo" / "baselines"
    right = row(shape(), samples_s=(0.001, 0.002, 0.004))
    saved(folder, right, row(shape(batch=2), "incorrect"), row(shape(batch=3), "slower"))
    assert (tmp_path / ".avo" / ".gitignore").read_text() == "*\n"
    record = loaded(folder).record
    assert [entry.shape for entry in record.entries] == [shape().id, shape(batch=3).id]
    assert record.entries[0].median_us == pytest.approx(2000)
    assert record.entries[0].timing.seconds[KERNEL] == ((0.001, 0.002, 0.004),)
    assert record.fingerprint == HERE
    assert record.commit["id"] == "unversioned"
    assert loaded(folder).describe().startswith("baseline main (unversio, 20")


def test_a_path_names_a_baseline_too(tmp_path: Path) -> None:
    path = saved(tmp_path, row(shape()))
    assert loaded(tmp_path / "elsewhere", str(path)).name == "baseline main"


@pytest.mark.parametrize("name", ["nosuch", "some/where.json"])
def test_what_is_not_there_is_said_with_what_is(tmp_path: Path, name: str) -> None:
    saved(tmp_path, row(shape()))
    with pytest.raises(InvalidInput, match=rf"--avo-compare {name}: there is no .*; expected git:REF, .*\(main\)"):
        loaded(tmp_path, name)


@pytest.mark.parametrize(("text", "problem"), [("{}", "missing required field"), ("nothing", "malformed")])
def test_another_file_is_no_baseline(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "main.json").write_text(text)
    with pytest.raises(InvalidInput, match=rf"main\.json: expected what --avo-save wrote: .*{problem}"):
        loaded(tmp_path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, row(shape()))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 7}))
    with pytest.raises(InvalidInput, match="key version: expected 1, got 7"):
        loaded(tmp_path)


def test_another_machine_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = saved(tmp_path, row(shape()))
    there = msgspec.structs.replace(HERE, device="another", torch="1.0")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": msgspec.to_builtins(there)}))
    with pytest.raises(
        InvalidInput, match=r"does not|do not compare .*device: another there, a processor here; torch: "
    ):
        loaded(tmp_path)
    assert loaded(tmp_path, allow_mismatch=True).record.fingerprint == there


@pytest.mark.parametrize("name", ["", "../x", "a b", ".hidden", "git:main"])
def test_a_name_is_that_of_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="--avo-save: expected a name of letters"):
        baseline_path(name, tmp_path)


def gains(old: Timing, new: Timing, tmp_path: Path) -> Gains | str:
    saved(tmp_path, msgspec.structs.replace(row(shape(), peers={"fa3": beside(1, 1, 1)}), timing=old))
    return loaded(tmp_path).gains(CASE, Evaluation(shape().id, "ok", timing=new))


def test_the_machines_drift_cancels_where_both_runs_timed_the_same_peer(tmp_path: Path) -> None:
    found = gains(timed(0.010, 0.020), timed(0.015, 0.030, launches=5, seed=1), tmp_path)
    assert isinstance(found, Gains)
    assert found.relative_to == "fa3"
    assert [len(launch) for launch in found.launches[shape().id]] == [20] * 5
    interval = found.interval()
    assert interval.low < 0 < interval.high
    assert abs(interval.estimate) < 0.005


def test_a_slower_kernel_is_slower_by_what_it_lost_to_the_peer(tmp_path: Path) -> None:
    found = gains(timed(0.010, 0.020), timed(0.0162, 0.030, seed=1), tmp_path)
    assert isinstance(found, Gains)
    assert found.interval().estimate == pytest.approx(-math.log(1.08), abs=0.005)


def test_without_a_peer_in_common_times_are_compared_as_they_are(tmp_path: Path) -> None:
    found = gains(timed(0.010, None), timed(0.012, 0.030, seed=1), tmp_path)
    assert isinstance(found, Gains)
    assert found.relative_to == ""
    assert found.interval().estimate == pytest.approx(-math.log(1.2), abs=0.005)


def test_eager_calls_are_not_compared_with_replayed_ones(tmp_path: Path) -> None:
    eager = msgspec.structs.replace(timed(0.010, 0.030), eager=True)
    assert gains(eager, timed(0.010, 0.030), tmp_path) == "baseline main was timed with --avo-calls eager"


def again(found: Evaluation, request: EvaluationRequest) -> dict[str, Evaluation]:
    return {found.shape: found}


@pytest.mark.parametrize("was_idle", [True, False])
def test_beside_what_was_stored_while_threads_waited_otherwise_a_slowdown_is_ambiguous(
    was_idle: bool, tmp_path: Path
) -> None:
    then, now = timed(0.010, 0.030), timed(0.020, 0.030, seed=1)
    request = EvaluationRequest(0, Subject("prefill.py", ""), (shape(),), plan=TimingPlan(max_rounds=20))
    for spins, kind in ((was_idle, "slower"), (not was_idle, "ambiguous")):
        kept = msgspec.structs.replace(then, spins=was_idle)
        saved(tmp_path, msgspec.structs.replace(row(shape(), peers={"fa3": beside(1, 1, 1)}), timing=kept))
        found = Evaluation(shape().id, "ok", timing=msgspec.structs.replace(now, spins=spins))
        gate = Gate(loaded(tmp_path), parse_rules(["3%"], []), lenient=False, floor=0.01)
        right = Verdict(shape().id, "correct", median_us=20000.0, peers={"fa3": beside(1, 1, 1)})
        verdict = gate.judge(right, CASE, found, request, partial(again, found))
        assert (verdict.kind, verdict.regressed) == (kind, kind == "slower")
        assert (verdict.median_us, verdict.peers) == (right.median_us, right.peers), "what was measured stands"
    idle = ("was idle", "is not") if was_idle else ("was not idle", "is")
    assert verdict.reason.startswith(f"the machine {idle[0]} when baseline main was stored and {idle[1]} today")


def test_a_second_measurement_while_threads_wait_otherwise_confirms_no_slowdown(tmp_path: Path) -> None:
    """Of another worker, or of one that was lost and came back beside other work."""
    request = EvaluationRequest(0, Subject("prefill.py", ""), (shape(),), plan=TimingPlan(max_rounds=20))
    spun = msgspec.structs.replace(timed(0.010, 0.030), spins=True)
    saved(tmp_path, msgspec.structs.replace(row(shape(), peers={"fa3": beside(1, 1, 1)}), timing=spun))
    gate = Gate(loaded(tmp_path), parse_rules(["3%"], []), lenient=False, floor=0.01)
    first, second = (timed(0.020, 0.030, seed=seed) for seed in (1, 2))
    found = Evaluation(shape().id, "ok", timing=msgspec.structs.replace(first, spins=True))
    asleep = Evaluation(shape().id, "ok", timing=second)
    verdict = gate.judge(Verdict(shape().id, "correct"), CASE, found, request, partial(again, asleep))
    assert (verdict.kind, verdict.regressed) == ("ambiguous", False)
    assert "not confirmed: the machine was idle when baseline main was stored" in verdict.reason


def test_a_shape_that_it_lacks_is_named(tmp_path: Path) -> None:
    saved(tmp_path, row(shape(batch=2)))
    found = loaded(tmp_path).gains(CASE, Evaluation(shape().id, "ok", timing=timed(0.01, None)))
    assert found == "baseline main has no kernels/cpu/prefill.py on this shape"


def test_automatic_names_tell_date_and_commit(repository: Repository) -> None:
    assert automatic_name(repository.path).endswith("-unversio")
    path = repository.write("a.py", "x = 1\n")
    commit = repository.commit()
    assert automatic_name(repository.path).endswith(f"-{commit[:8]}")
    path.write_text("x = 2\n")
    assert automatic_name(repository.path).endswith(f"-{commit[:8]}-dirty")


def of_kinds(seconds: dict[str, float]) -> Timing:
    kinds = tuple(list(seconds) * 6)
    return Timing({KERNEL: (tuple(seconds[kind] for kind in kinds),)}, calls=1, stopped="", kinds=(kinds,))


def test_rounds_on_the_same_kind_of_inputs_are_compared(tmp_path: Path) -> None:
    old, new = of_kinds({"normal": 1.0, "sink": 2.0}), of_kinds({"sink": 3.0, "normal": 1.0, "rising": 9.0})
    found = gains(old, new, tmp_path)
    assert isinstance(found, Gains)
    assert found.interval().exp().estimate == pytest.approx(1.5**-0.5)
    assert {kind: gain.exp().estimate for kind, gain in found.kinds().items()} == pytest.approx(
        {"sink": 1 / 1.5, "normal": 1.0}
    )


def test_a_baseline_from_before_there_were_kinds_is_one_on_normal_inputs(tmp_path: Path) -> None:
    old = Timing({KERNEL: ((2.0,) * 6,)}, calls=1, stopped="")
    found = gains(old, of_kinds({"normal": 1.0, "sink": 5.0}), tmp_path)
    assert isinstance(found, Gains)
    assert found.interval().exp().estimate == pytest.approx(2.0)
    assert found.by_kind == {}
    assert gains(old, of_kinds({"sink": 5.0}), tmp_path) == "baseline main was timed on normal inputs alone"
