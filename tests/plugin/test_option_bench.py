"""--avo-bench: collection, verdicts, exit status."""

from __future__ import annotations

import shutil
from xml.etree import ElementTree

import pytest

from tests.kernels.test_cpu_kernels import kernel_of_the_guide
from tests.plugin.conftest import GOOD, SHAPES, SLOW, WRONG, Project


@pytest.mark.usefixtures("scripted")
def test_collects_an_item_per_kernel_and_claimed_shape(project: Project) -> None:
    project.kernel("good.py", GOOD)
    project.kernel("conftest.py", "")
    project.kernel("notes.py", "raise SystemExit('never imported')\n")
    result = project.run("--avo-bench", "--co", "-q")
    expected = [f"kernels/{kernel}.py::{shape}" for kernel in ("good", "slow") for shape in SHAPES]
    assert result.outlines[:4] == expected
    assert result.ret == 0


@pytest.mark.usefixtures("scripted")
def test_ids_are_selected_by_node_id_and_keyword(project: Project) -> None:
    project.kernel("good.py", GOOD)
    by_id = project.run("--avo-bench", "--co", "-q", f"kernels/good.py::{SHAPES[1]}")
    assert by_id.outlines[0] == f"kernels/good.py::{SHAPES[1]}"
    assert "1 test collected" in by_id.outlines[2]
    by_keyword = project.run("--avo-bench", "--co", "-q", "-k", "causal and good")
    assert by_keyword.outlines[0] == f"kernels/good.py::{SHAPES[0]}"


@pytest.mark.usefixtures("scripted")
def test_a_right_kernel_passes_and_a_wrong_one_fails_with_its_reason(project: Project) -> None:
    project.kernel("good.py", GOOD)
    project.kernel("wrong.py", WRONG)
    result = project.run(
        "--avo-bench", "kernels/good.py", "kernels/wrong.py", "--avo-max-rounds", "3", "-v", "--junitxml=junit.xml"
    )
    result.assert_outcomes(passed=2, failed=2)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "avo: * (bench; * peers torch-sdpa; calls eager; sandbox *)",
            f"kernels/good.py::{SHAPES[0]} CORRECT*",
            "*geomean vs torch-sdpa*2 correct*",
            f"FAILED kernels/wrong.py::{SHAPES[0]} - Failed: inc*",
        ]
    )
    text = result.stdout.str()
    assert "Traceback" not in text
    assert "pytest_avo/" not in text, "no frame of the plugin is shown to a user"
    verdicts = {}
    for case in ElementTree.parse(project.path / "junit.xml").iter("testcase"):
        properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        assert {"avo.seed", "avo.worker"} <= set(properties)
        verdicts[case.get("classname"), case.get("name")] = properties["avo.verdict"]
    assert verdicts == {
        (f"kernels.{name}", shape): verdict
        for name, verdict in (("good", "correct"), ("wrong", "incorrect"))
        for shape in SHAPES
    }


@pytest.mark.usefixtures("warm")
def test_every_way_to_fail_has_its_own_verdict_and_harms_nothing_else(project: Project) -> None:
    body = {
        "crash": "import ctypes\n    ctypes.string_at(0)",
        "exits": "import os\n    os._exit(0)",
        "hang": "import ctypes\n    ctypes.PyDLL(None).sleep(600)",
        "dtype": "return q.double()",
        "refuses": "raise NotImplementedError('not this shape')",
        "raises": "raise ValueError('no idea')",
    }
    head = '"""Bad."""\nAVO = {"target": "cpu", "shapes": ["tiny"]}\n'
    for name, text in body.items():
        project.kernel(f"{name}.py", f"{head}def attention(q, k, v, *, causal, scale):\n    {text}\n")
    project.kernel("syntax.py", "AVO = {'target': 'cpu', 'shapes': ['tiny']}\ndef attention(:\n")
    project.kernel("wrong.py", WRONG)
    project.kernel("zz_good.py", GOOD)
    asked = ["-k", SHAPES[0], "--avo-max-rounds", "3", "--avo-json", "out.json", "--avo-shapes", "tiny"]
    hung = project.run("--avo-bench", "kernels/hang.py", *asked, "--avo-limits", "build=1,check=1,time=1")
    assert hung.ret == 1
    assert [row["verdict"] for row in project.json()["avo"]["results"]] == ["timeout"]
    files = [f"kernels/{name}.py" for name in (*body, "syntax", "wrong", "zz_good") if name != "hang"]
    result = project.run("--avo-bench", *files, *asked)
    assert result.ret == 1
    reasons = {
        row["kernel"].split("/")[-1]: (row["verdict"], row["reason"]) for row in project.json()["avo"]["results"]
    }
    assert reasons["crash.py"][0] == "crashed"
    assert "SIGSEGV" in reasons["crash.py"][1]
    assert reasons["exits.py"][0] == "crashed"
    assert "exited with status 0" in reasons["exits.py"][1]
    assert reasons["dtype.py"] == ("incorrect", "output dtype is float64, expected float32")
    assert reasons["refuses.py"][0] == "unsupported"
    assert reasons["raises.py"][0] == "crashed"
    assert "ValueError: no idea" in reasons["raises.py"][1]
    assert reasons["syntax.py"][0] == "crashed"
    assert "syntax error" in reasons["syntax.py"][1]
    assert reasons["wrong.py"][0] == "incorrect"
    assert " > limit " in reasons["wrong.py"][1]
    assert reasons["zz_good.py"][0] == "correct"
    good = project.json()["avo"]["results"][-1]
    assert good["median_us"] > 0
    assert good["peers"]["torch-sdpa"]["ratio"] > 0


def test_the_kernel_of_the_guide_passes(warm: Project) -> None:
    """On one of the shapes that it claims; it is right on all in tests/kernels/test_cpu_kernels.py."""
    (warm.path / "my_kernel.py").write_text(kernel_of_the_guide(), encoding="utf-8")
    measured = ["--avo-max-rounds", "3", "--avo-peers", "none", "-q"]
    result = warm.run("--avo-bench", "my_kernel.py", *measured, "-k", "q130-k67")
    assert result.ret == 0, result.stdout.str()
    assert "1 correct" in result.stdout.str()
    assert "8 deselected" in result.stdout.str()


@pytest.mark.usefixtures("scripted")
def test_a_file_that_does_not_parse_is_one_failing_item(project: Project) -> None:
    project.kernel("syntax.py", "def attention(:\n")
    result = project.run("--avo-bench", "kernels/syntax.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*crashed: syntax error*line 1*"])


@pytest.mark.usefixtures("scripted")
def test_a_kernel_for_another_machine_is_skipped_with_the_reason(project: Project) -> None:
    project.kernel("hopper.py", GOOD.replace('"cpu"', '"sm90"'))
    result = project.run("--avo-bench", "kernels/hopper.py", "-rs", "--avo-json", "out.json")
    result.assert_outcomes(skipped=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*needs sm90, this machine has cpu*"])
    assert [row["verdict"] for row in project.json()["avo"]["results"]] == ["unsupported", "unsupported"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('AVO = {"target": "cpu"}', "*bad.py, line 1: AVO:*missing required key shapes*expected AVO = *"),
        ('AVO = {"target": "tpu", "shapes": ["tiny"]}', "*AVO, key target: expected one of cpu,*got 'tpu'*"),
        (
            'AVO = {"target": "cpu", "shapes": ["nosuch"]}',
            "*bad.py: AVO, key shapes: unknown shape suite*tiny*",
        ),
        ("AVO = dict(target='cpu')", "*bad.py, line 1: AVO must be a literal*"),
        ("X = 1", "*bad.py: claims no shapes: expected AVO =*or --avo-shapes*"),
    ],
)
def test_a_wrong_declaration_is_a_usage_error(project: Project, source: str, message: str) -> None:
    project.kernel("bad.py", source)
    project.refuses(message, "--avo-bench", "kernels/bad.py")


@pytest.mark.usefixtures("scripted")
def test_a_folder_without_kernels_collects_nothing(project: Project) -> None:
    (project.path / "empty").mkdir()
    result = project.run("--avo-bench", "empty")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["avo: no kernels there: a kernel assigns AVO = *"])
    shutil.rmtree(project.path / "kernels")
    project.refuses("--avo-bench: there is no */kernels: expected a kernel file, or a folder of them, *", "--avo-bench")


@pytest.mark.usefixtures("scripted")
def test_exitfirst_stops_at_the_first_wrong_kernel(project: Project) -> None:
    project.kernel("a_wrong.py", WRONG)
    project.kernel("b_good.py", GOOD)
    result = project.run("--avo-bench", "kernels/a_wrong.py", "kernels/b_good.py", "-x", "--avo-max-rounds", "3")
    result.assert_outcomes(failed=1)


@pytest.mark.usefixtures("scripted")
def test_last_failed_runs_only_what_failed(project: Project) -> None:
    project.kernel("wrong.py", WRONG)
    arguments = ["--avo-bench", "kernels/wrong.py", "kernels/slow.py", "--avo-max-rounds", "3"]
    project.plugins = tuple(x if x != "no:cacheprovider" else "cacheprovider" for x in project.plugins)
    first = project.run(*arguments, "-q")
    first.assert_outcomes(failed=2, passed=2)
    again = project.run("--avo-bench", "--lf", "--co", "-q")
    assert again.outlines[:2] == [f"kernels/wrong.py::{shape}" for shape in SHAPES]


def test_bench_and_evolve_exclude_each_other(project: Project) -> None:
    project.refuses("--avo-bench and --avo-evolve: expected one of them", "--avo-bench", "--avo-evolve")


@pytest.mark.usefixtures("scripted")
def test_a_kernel_is_never_imported_by_pytest(project: Project) -> None:
    project.kernel("good.py", f"open('imported', 'w').close()\n{SLOW}")
    project.run("--avo-bench", "kernels/good.py", "--co")
    assert not (project.path / "imported").exists()


@pytest.mark.usefixtures("scripted")
def test_a_mistake_in_one_file_is_reported_there_and_hides_no_other(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.kernel("tpu.py", GOOD.replace('"cpu"', '"tpu"'))
    project.kernel("broken.py", GOOD + "\ndef (\n")
    result = project.run("--avo-bench", "kernels/tpu.py", "kernels/broken.py")
    assert result.ret == 1
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["::error file=kernels/tpu.py*usage error: *AVO, key target: expected one of*"])
    assert "usage error" in summary.read_text()
    assert project.run("--avo-bench", "kernels/tpu.py").ret == pytest.ExitCode.USAGE_ERROR
