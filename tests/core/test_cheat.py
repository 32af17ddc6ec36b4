"""What a kernel of the self-test says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_avo.core.cheat import describes_cheat, read_cheat
from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.evaluation import Limits
from tests import ROOT

CORPUS = sorted((ROOT / "tests" / "cheats").glob("*.py"))


def written(folder: Path, *fields: str, name: str = "h07_late_thread.py") -> Path:
    path = folder / name
    path.write_text('"""A kernel.\n\n' + "\n".join(fields) + '\n"""\n\ndef attention(q, k, v, *, causal, scale): ...\n')
    return path


def test_fields_are_read_from_the_docstring(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "WHAT:   returns at once and",
        "        works later",
        "CLASS:  late work",
        "EXPECT: incorrect|cheating",
        "TARGET: gpu",
        "SUITE:  short",
        "LIMITS: build=5, check=3",
    )
    cheat = read_cheat(path)
    assert (cheat.kind, cheat.expect, cheat.target) == ("late work", frozenset(["incorrect", "cheating"]), "gpu")
    assert cheat.suite == "short"
    assert cheat.limits == Limits(build=5, check=3)
    assert "def attention" in cheat.source


def test_without_a_class_the_name_stands_for_it(tmp_path: Path) -> None:
    cheat = read_cheat(written(tmp_path, "EXPECT: accept (score as measured)"))
    assert (cheat.kind, cheat.expect, cheat.target, cheat.limits) == ("late thread", frozenset(["accept"]), "any", None)
    assert cheat.suite == "selftest"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["WHAT: nothing"], "key EXPECT: expected some of incorrect|cheating|.*, got none"),
        (["EXPECT: incorect"], "key EXPECT: expected some of .*, got 'incorect'"),
        (["EXPECT: accept", "TARGET: tpu"], "key TARGET: expected any, cpu or gpu, got 'tpu'"),
        (["EXPECT: accept", "LIMITS: built=3"], "key LIMITS: expected build, check and time in seconds"),
        (["EXPECT: accept", "LIMITS: build=soon"], "key LIMITS: expected build, check and time in seconds"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, fields: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=rf"h07_late_thread\.py: docstring, {message}"):
        read_cheat(written(tmp_path, *fields))


def test_a_file_that_does_not_parse_is_a_mistake_too(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def attention(:")
    with pytest.raises(InvalidInput, match=r"broken\.py: cannot be read as a kernel of the self-test"):
        read_cheat(tmp_path / "broken.py")


def test_files_that_expect_nothing_are_no_cheats(tmp_path: Path) -> None:
    assert describes_cheat(written(tmp_path, "EXPECT: crash"))
    assert not describes_cheat(written(tmp_path, "WHAT: nothing"))
    assert not describes_cheat(tmp_path / "absent.py")


def test_the_corpus_has_every_class_and_both_kinds_of_device() -> None:
    cheats = [read_cheat(path) for path in CORPUS]
    kinds = {cheat.kind.removesuffix(" (GPU)") for cheat in cheats}
    assert kinds >= {
        "wrong function", "lower precision", "memory", "replay", "late work", "false clock", "slowing others",
        "touching inputs", "attacking the harness", "reaching out", "exhaustion", "form of the result", "honest",
    }  # fmt: skip
    assert {cheat.target for cheat in cheats} == {"any", "cpu", "gpu"}
    assert all(not (cheat.expect & {"accept"}) for cheat in cheats if cheat.kind.startswith("replay"))
