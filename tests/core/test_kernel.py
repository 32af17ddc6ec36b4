"""Kernel files as text: claims and tunables, read without importing anything."""

from __future__ import annotations

import ast
import codecs
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.core.kernel import Claim, Tunable, assignment, declares_claim, parse_kernel, read_kernel
from tests.core.declared import PATH, SOURCE


def test_claim_and_tunables_are_read_without_running_the_file() -> None:
    kernel = parse_kernel(SOURCE, path=PATH)
    assert kernel.claim == Claim(target="cpu", shapes=("smoke", "decode-cpu"))
    assert kernel.tunables == (
        Tunable("BLOCK_Q", 64, (32, 64)),
        Tunable("FAST", True, (False, True)),
        Tunable("SHIFT", -1.5, (-1.5, 0.0)),
        Tunable("MODE", "a", ("a", "b")),
    )
    assert kernel.fault == ""


def test_a_claim_says_what_a_kernel_does_beside_the_plain_call() -> None:
    source = "AVO = {'target': 'cpu', 'shapes': ['a', 'b'], 'lse': True, 'varlen': True, 'paged': PAGED}"
    for paged, words in (("16", "paged (blocks of 16)"), ("True", "paged"), ("1", "paged")):
        claim = parse_kernel(source.replace("PAGED", paged), path=PATH).claim
        assert claim is not None
        assert (claim.lse, claim.varlen, claim.paged) == (True, True, int(ast.literal_eval(paged)))
        assert str(claim) == f"target cpu, suites a, b, with lse, varlen, {words}"
    assert str(Claim("cpu", ("a",))) == "target cpu, suites a"


def test_a_file_may_claim_and_tune_nothing() -> None:
    kernel = parse_kernel("x = 1\n", path=PATH)
    assert (kernel.claim, kernel.tunables, kernel.fault) == (None, (), "")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def attention(:\n    pass\n", ["line 1"]),
        ("x = 1\ny = (\n", ["was never closed", "line 2"]),
        ("x = '\0'\n", ["null bytes"]),
        ("x = " + "-" * 100_000 + "1\n", ["nested too deeply"]),
        ("x = " + ".a" * 50_000, ["syntax error"]),
        ("x = a" + ".a" * 50_000, ["recursion"]),
    ],
)
def test_a_file_that_does_not_parse_is_a_fault_of_the_kernel(source: str, words: list[str]) -> None:
    kernel = parse_kernel(source, path=PATH)
    assert kernel.claim is None
    assert kernel.fault.startswith("syntax error: ")
    assert all(word in kernel.fault for word in words)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("AVO = 1", "line 1: AVO: expected dict, got int; expected AVO = {"),
        ("AVO = {'target': 'cpu'}", "line 1: AVO: missing required key shapes; expected AVO = {"),
        (
            "AVO = {'target': 'cpu', 'shapes': 'smoke'}",
            "line 1: AVO, key shapes: expected list, got str; expected AVO =",
        ),
        ("AVO = {'target': 'cpu', 'shapes': [1]}", "line 1: AVO, key shapes[0]: expected str, got int"),
        ("AVO = {'target': 'cpu', 'shapes': ['a'], 'lse': 1}", "line 1: AVO, key lse: expected bool, got int"),
        ("AVO = {'target': 'cpu', 'shapes': ['a'], 'paged': 0}", "line 1: AVO, key paged: expected int >= 1"),
        ("AVO = {'target': 'cpu', 'shapes': ['a'], 'paged': '16'}", "line 1: AVO, key paged: expected bool | int"),
        ("AVO = {'target': 'cpu', 'shapes': []}", "line 1: AVO, key shapes: expected at least one suite name"),
        ("AVO = {'target': 'cpu', 'shapes': ['a'], 'x': 1}", "line 1: AVO: unknown key x"),
        ("\nAVO = {'target': 'tpu', 'shapes': ['a']}", "line 2: AVO, key target: expected one of cpu, sm80, sm90"),
        ("AVO = dict(target='cpu')", "line 1: AVO must be a literal"),
        ("N = 3\nAVO = {'target': 'cpu', 'shapes': [N]}", "line 2: AVO must be a literal"),
        ("AVO = {'target': 'cpu', 'shapes': ['a'], 'object': 1}", "line 1: AVO: unknown key object;"),
        ("TUNABLES = {'B': 3}", "line 1: TUNABLES: expected list, got int; expected TUNABLES = {"),
        ("TUNABLES = [1]", "line 1: TUNABLES: expected dict, got list; expected TUNABLES = {"),
        ("A = 1\nTUNABLES = {'A': [1, [2]]}", "line 2: TUNABLES: expected bool | int | float | str, got list"),
        ("TUNABLES = {'A': [1]}", "line 1: TUNABLES, key A: expected a module-level assignment A = ..."),
        ("def f():\n    A = 1\nTUNABLES = {'A': [1]}", "line 3: TUNABLES, key A: expected a module-level assignment"),
        ("A = 2\nTUNABLES = {'A': [1]}", "line 2: TUNABLES, key A: expected its present value 2 among [1]"),
        ("A = 1\nTUNABLES = {'A': []}", "line 2: TUNABLES, key A: expected its present value 1 among []"),
        ("A = 1\nTUNABLES = {'A': [True]}", "line 2: TUNABLES, key A: expected its present value 1 among [True]"),
        ("A = 1\nTUNABLES = {'A': [1.0]}", "line 2: TUNABLES, key A: expected its present value 1 among [1.0]"),
        ("A = [1]\nTUNABLES = {'A': [1]}", "line 1: A: expected a bool, number or string, got [1]"),
        ("A = f()\nTUNABLES = {'A': [1]}", "line 1: A must be a literal"),
    ],
)
def test_a_wrong_literal_is_named_with_file_line_and_expectation(source: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_kernel(source, path=PATH)
    assert str(error.value).startswith(f"{PATH}, {expected}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"A = 0x{'f' * 5000}\nTUNABLES = {{'A': [1]}}", "A: expected what can be written down, got a number of 20000"),
        (f"A = 1\nTUNABLES = {{'A': [0x{'f' * 5000}]}}", "TUNABLES: expected what can be written down, got a number"),
        ("A = 1\nTUNABLES = {'A': [1, 1e999]}", "TUNABLES: expected what can be written down, got inf"),
        (r"AVO = {'target': 'cpu', 'shapes': ['\ud800']}", r"got half of a character in '\ud800'"),
        (r"AVO = {'target': 'cpu', 'shapes': ['s'], '\ud800': 1}", r"got half of a character in '\ud800'"),
        (r"AVO = {'target': 'cpu', 'shapes': ['\n::error::x']}", r"expected names of suites, got '\n::error::x'"),
        (r"AVO = {'target': 'cpu', 'shapes': ['s'], '\n::x': 1}", r"'unknown key \n::x'"),
        (r"TUNABLES = {'\n::x': [1]}", r"TUNABLES, key '\n::x': expected a module-level assignment '\n::x' ="),
    ],
    ids=range(8),
)
def test_what_nobody_can_store_or_show_is_named_in_one_printable_line(source: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_kernel(source, path=PATH)
    assert expected in str(error.value)
    assert str(error.value).isprintable()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.py", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be read as a kernel") as error:
            read_kernel(path)
        assert str(error.value).startswith(str(path))


def test_a_kernel_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    assert read_kernel(path) == parse_kernel(SOURCE, path=path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SOURCE, True),
        ("AVO: dict = {}\n", True),
        ("AVO = 1\n", True),
        ("# AVO = 1\n", False),
        ("text = 'AVO'\n", False),
        ("def f():\n    AVO = 1\n", False),
        ("AVO = (\n", True),
        ("AVO: dict = {}\ndef attention(:\n", True),
        ("if x:\n    AVO = (\n", False),
        ("AVO == (\n", False),
        ("AVO = " + "-" * 100_000 + "1", True),
    ],
)
def test_only_a_file_that_assigns_the_claim_is_a_kernel_if_it_is_broken_too(
    tmp_path: Path, source: str, expected: bool
) -> None:
    path = tmp_path / "found.py"
    path.write_text(source)
    assert declares_claim(path) is expected


def test_a_kernel_that_python_cannot_decode_fails_and_does_not_drop_out(tmp_path: Path) -> None:
    path = tmp_path / "found.py"
    path.write_bytes(b"AVO = {}\nx = '\xff'\n")
    assert declares_claim(path)
    assert read_kernel(path).fault.startswith("syntax error: ")
    for written in (SOURCE.encode("utf-16"), codecs.BOM_UTF16_BE + SOURCE.encode("utf-16-be")):
        path.write_bytes(written)
        assert declares_claim(path)
        assert read_kernel(path).fault.startswith("syntax error: ")
    path.write_bytes(b"\xff\x00")
    assert not declares_claim(path)
    assert not declares_claim(tmp_path / "absent.py")


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: f"# coding: latin-1\n# na\xefve\n{text}".encode("latin-1"),
    ],
)
def test_a_kernel_is_read_as_python_reads_it(tmp_path: Path, form: Callable[[str], bytes]) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(form(SOURCE))
    assert declares_claim(path)
    kernel = read_kernel(path)
    assert kernel.fault == ""
    assert kernel.source.endswith(SOURCE)
    assert kernel.claim is not None


def test_the_name_of_a_file_that_is_no_text_can_be_sent(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ev\xff\xc3\xa9.py"))
    path.write_text(SOURCE)
    label = read_kernel(path).label
    assert label == "ev\\xff\xe9.py"
    assert label.encode()


def test_the_last_assignment_counts_as_in_python() -> None:
    tree = ast.parse("A = 1\nA = 2\nB.c = 3\nD = E = 4\n")
    found = assignment(tree, "A")
    assert isinstance(found, ast.Constant)
    assert found.value == 2
    assert assignment(tree, "c") is None
    assert assignment(tree, "D") is None
