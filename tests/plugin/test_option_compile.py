"""--avo-compile: what kernels compile to, on a machine without their GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

import msgspec
import pytest

from pytest_avo.core.kernel import Kernel
from pytest_avo.core.shape import Shape
from pytest_avo.evaluation.diagnosis.compile import Record, ShapeError, ShapeUnknown
from pytest_avo.session.modes import compilation
from tests import ROOT
from tests.evaluation.diagnosis.test_nvcc import KERNEL as CUDA
from tests.evaluation.diagnosis.test_nvcc import needs_nvcc
from tests.plugin.conftest import GOOD, PLUGINS, SHAPES, Project, quick
from tests.report.terminal.test_compiled import LAUNCH

NAIVE = ROOT / "kernels" / "sm90" / "naive.py"
ONE = """
[[shape]]
batch = 1
heads_q = 2
heads_kv = 2
seqlen_q = 256
seqlen_kv = 256
head_dim = 128
causal = true
dtype = "bf16"
"""
ID = "b1-h2-q256-k256-d128-causal-bf16"


@pytest.fixture
def hopper(here: Project) -> Project:
    (here.path / "shapes" / "one.toml").write_text(ONE)
    shutil.copy(NAIVE, here.path / "kernels" / "naive.py")
    return here


def test_reports_every_launch_in_confinement_and_skips_other_targets(hopper: Project) -> None:
    outside = hopper.path / "escaped"
    hopper.kernel("good.py", GOOD)
    with (hopper.path / "kernels" / "naive.py").open("a") as file:
        file.write(f"\ntry:\n    open({str(outside)!r}, 'w')\nexcept OSError:\n    CONFINED = True\n")
    result = hopper.run("--avo-compile", "kernels", "--avo-shapes", "one", "-k", "naive or good")
    assert result.ret == 0
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "avo: compile report for sm90; no kernel is launched; triton *",
            "kernels/naive.py: distinct launches 1",
            "row * launched * registers * spills * shared *",
            "* 1 * attend * 0 B * KiB * no * ok",
            f"1  on {ID}",
            "   group=1, HEAD_DIM=128, BLOCK_M=128, BLOCK_N=64, CAUSAL=True, num_stages=2",
            "kernels/good.py: not compiled, is for cpu, the report is for sm90 (1 item skipped)",
        ]
    )
    assert not outside.exists(), "host code is confined too"


def compiled_at_once(kernel: Kernel, shapes: Sequence[Shape], *, target: str, confined: bool) -> list[Record]:
    """Registers as the source says; CUDA without nvcc."""
    if "nvcc" in kernel.source:
        return [ShapeUnknown(index, "needs nvcc, which is not on PATH") for index in range(len(shapes))]
    registers = int(kernel.source.rpartition("REGISTERS = ")[2])
    return [msgspec.structs.replace(LAUNCH, shape=index, registers=registers) for index in range(len(shapes))]


def test_what_is_selected_is_compiled_and_compared_with_a_git_ref(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, list[str]]] = []

    def compiled(kernel: Kernel, shapes: Sequence[Shape], *, target: str, confined: bool) -> list[Record]:
        asked.append((kernel.path.name, kernel.source.count("REGISTERS = 168"), [shape.id for shape in shapes]))
        return compiled_at_once(kernel, shapes, target=target, confined=confined)

    monkeypatch.setattr(compilation, "compiled_records", compiled)
    hopper = GOOD.replace("cpu", "sm90")
    project.kernel("one.py", f"{hopper}\nREGISTERS = 168")
    project.kernel("same.py", f"{hopper}\nREGISTERS = 120")
    project.commit()
    project.kernel("one.py", f"{hopper}\nREGISTERS = 255")
    project.kernel("cuda.py", f"{hopper}\nBUILD = 'nvcc'")
    arguments = ("--avo-compile", "kernels", "--avo-compare", "git:HEAD", "-k", "causal", "-p", "no:cacheprovider")
    result = project.pytester.runpytest_inprocess(*arguments)
    assert result.ret == 0
    only = [SHAPES[0]]
    assert sorted(asked) == [("cuda.py", 0, only), ("one.py", 0, only), ("one.py", 1, only), ("same.py", 0, only)]
    result.stdout.fnmatch_lines(
        [
            "avo: *; compared with git:HEAD (*)",
            "kernels/one.py beside git:HEAD:",
            f"  attend: registers 168 -> 255, on {only[0]}",
            "kernels/same.py beside git:HEAD:",
            f"  unchanged, on {only[0]}",
            "kernels/cuda.py: not compiled, needs nvcc, which is not on PATH (1 item skipped)",
        ]
    )


def test_a_stored_baseline_holds_nothing_that_is_compiled(project: Project) -> None:
    expected = "--avo-compare: expected git:REF with --avo-compile, got 'main'"
    project.refuses(expected, "--avo-compile", "kernels", "--avo-compare", "main")


SHIPPED = {
    "decode": ["b1-h32kv8-q1-k8192-d128-full", "b16-h32kv8-q1-k8192-d128-full"],
    "mha": ["b8-h32-q4096-k4096-d64-causal", "b8-h16-q4096-k4096-d128-full", "b8-h8-q4096-k4096-d256-full"],
    "naive": ["b8-h32kv8-q4096-k4096-d128-full", "b8-h8-q4096-k4096-d256-causal"],
}
"""Shapes with every tile that a shipped kernel has for those that it claims, and with both masks: `pytest --avo-compile
kernels/sm90` compiles all of them, which takes minutes."""


@pytest.mark.long
def test_the_shipped_kernels_fit_the_device() -> None:
    """What the guide tells users to put into their CI."""
    root = NAIVE.parents[2]
    chosen = [f"kernels/sm90/{name}.py::{shape}-bf16" for name, shapes in SHIPPED.items() for shape in shapes]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--avo-compile=sm90", *chosen]
    environment = {**quick(os.environ), "COLUMNS": "200"}  # room for every column of the tables
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
    for name in ("decode", "mha", "naive"):
        assert f"kernels/sm90/{name}.py: distinct launches" in finished.stdout
    for name in ("attend", "attend_split", "merge_splits"):
        assert re.search(rf"^ *\d+  {name} .* ok$", finished.stdout, re.MULTILINE)
    gluon = finished.stdout.partition("mha.py: distinct launches ")[2].partition("naive.py")[0]
    products = [int(row.split()[-5]) for row in re.findall(r"^ *\d+  attend .* ok$", gluon, re.MULTILINE)]
    assert len(products) == 3
    assert min(products) >= 48, "wgmma"
    assert re.search(r"^\d+ passed in", finished.stdout, re.MULTILINE)
    assert "fails" not in finished.stdout


def test_a_shape_may_be_refused_that_is_not_claimed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = ShapeError(0, "NotImplementedError: bfloat16 only", refused=True)
    monkeypatch.setattr(compilation, "compiled_records", lambda *_, **__: [refusal])
    (project.path / "shapes" / "one.toml").write_text(ONE)
    project.kernel("picky.py", GOOD.replace("cpu", "sm90"))
    compiling = ("--avo-compile=sm90", "kernels/picky.py", "-k", "causal", *PLUGINS)
    beside = project.pytester.runpytest_inprocess(*compiling, "--avo-shapes", "one")
    beside.assert_outcomes(skipped=1)
    reason = "refuses shapes that it does not claim: NotImplementedError: bfloat16 only"
    beside.stdout.fnmatch_lines([f"kernels/picky.py: not compiled, {reason} (1 item skipped)"])
    assert beside.ret == 0
    assert project.pytester.runpytest_inprocess(*compiling).ret == 1, "what is claimed is promised"


def test_what_is_wrong_fails_with_the_figures(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is found is tested in tests/evaluation/diagnosis/test_compile.py."""
    shared = "shared memory 262144 bytes, over the limit of 232448"
    spilled = ("registers spilled: 8 bytes stored, 16 bytes loaded", "wgmma serialised by ptxas")
    found: dict[str, Record] = {
        "shared.py": msgspec.structs.replace(LAUNCH, grid=None, shared_bytes=262144, failures=(shared,)),
        "spills.py": msgspec.structs.replace(
            LAUNCH, spill_stores=8, spill_loads=16, wgmma_serialized=True, failures=spilled
        ),
        "broken.py": ShapeError(0, "ModuleNotFoundError: No module named 'nosuchmodule'"),
    }
    monkeypatch.setattr(compilation, "compiled_records", lambda kernel, *_, **__: [found[kernel.path.name]])
    for name in found:
        project.kernel(name, GOOD.replace("cpu", "sm90"))
    arguments = (
        "--avo-compile=sm90",
        *(f"kernels/{name}" for name in found),
        "-k",
        "causal",
        "--junitxml",
        "junit.xml",
    )
    result = project.pytester.runpytest_inprocess(*arguments, *PLUGINS)
    assert result.ret == 1
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines_random(
        [
            f"attend: {shared}",
            f"attend: {spilled[0]}; attend: {spilled[1]}",
            "* yes * fails",
            "*No module named 'nosuchmodule'*",
        ]
    )
    assert "pytest_avo/" not in result.stdout.str()
    junit = (project.path / "junit.xml").read_text()
    assert SHAPES[0] in junit
    assert shared in junit


@needs_nvcc
def test_cuda_is_built_in_confinement_and_reported(hopper: Project) -> None:
    hopper.kernel("cuda.py", CUDA.replace("BODY", "").replace("if causal:", "if False:"))
    result = hopper.run("--avo-compile", "kernels/cuda.py")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["kernels/cuda.py: distinct launches 1", "* attend * 0 B * 0 KiB * - * no * ok"])


def test_a_word_that_is_neither_target_nor_path_is_a_usage_error(project: Project) -> None:
    project.refuses("--avo-compile: expected one of sm90, or a path, got 'sm75'", "--avo-compile", "sm75")
    project.refuses("--avo-compile: expected one of sm90, or a path, got 'xx*'", "--avo-compile", "x" * 300)


def test_items_are_skipped_by_a_marker_and_reported_as_xml_whatever_the_file_is_called(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """conftest.py and other plugins (pytest-benchmark's --benchmark-only) skip so; it says where the item is."""
    monkeypatch.setattr(compilation, "compiled_records", compiled_at_once)
    path = project.kernel(os.fsdecode(b"na\xefve.py"), GOOD.replace("cpu", "sm90") + "\nREGISTERS = 168")
    project.pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.skip(reason='not today'))\n"
    )
    result = project.pytester.runpytest_inprocess(
        "--avo-compile", str(path), "-rs", "-p", "no:cacheprovider", "--junitxml", "j.xml"
    )
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["kernels/na\\xefve.py: distinct launches 1", "SKIPPED [[]1] kernels/na*ve.py*: not today"]
    )
    assert "na\\xefve" in (project.path / "j.xml").read_text(encoding="utf-8")


def test_xdist_is_not_given_names_that_it_cannot_send(project: Project) -> None:
    name = os.fsdecode(b"na\xefve.py")
    project.kernel(name, GOOD.replace("cpu", "sm90"))
    refused = "-n: pytest-xdist sends names as UTF-8, which *kernels/na\\xefve.py is not: run without -n"
    project.refuses(refused, "--avo-compile", "kernels", "--dist", "load")
