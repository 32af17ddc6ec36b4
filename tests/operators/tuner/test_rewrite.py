"""Source edits of tunables: values change, nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_avo.core.kernel import Literal, parse_kernel
from pytest_avo.operators.tuner.rewrite import Rewriter, spelled

SOURCE = '''# avo: promoted from run 1, attempt 3
# avo: geomean 1.04
"""Größe der Kacheln: BLOCK = 64 steht auch hier."""

import torch

AVO = {"target": "cpu", "shapes": ["smoke"]}
BLOCK = 64   # queries per tile, BLOCK = 64
MODE: str = 'fused' ; OTHER = 1
ß, FLAG_OF = 1, 2
RATE = 1e-3\t# spelled by its author
FLAG = (
    False  # on a line of its own
)
TUNABLES = {"BLOCK": [64, 128], "MODE": ["fused", "online"], "RATE": [0.001, -0.5], "FLAG": [False, True]}


def attention(q, k, v, *, causal, scale):
    BLOCK = 64
    return q
'''
NAMES = ("BLOCK", "MODE", "RATE", "FLAG")


def test_only_the_literals_change() -> None:
    changed = Rewriter.of(SOURCE, NAMES).with_values({"BLOCK": 128, "MODE": "online", "RATE": -0.5, "FLAG": True})
    expected = (
        SOURCE.partition("# avo: geomean 1.04\n")[2]
        .replace("\nBLOCK = 64   #", "\nBLOCK = 128   #")
        .replace("'fused' ;", '"online" ;')
        .replace("1e-3\t", "-0.5\t")
        .replace("    False  #", "    True  #")
    )
    assert changed == expected


def test_the_present_values_keep_their_spelling() -> None:
    same = Rewriter.of(SOURCE, NAMES).with_values({"BLOCK": 64, "MODE": "fused", "RATE": 0.001, "FLAG": False})
    assert same == SOURCE.partition("# avo: geomean 1.04\n")[2]


def test_true_is_not_one() -> None:
    assert Rewriter.of("X = 1\n", ["X"]).with_values({"X": True}) == "X = True\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_form_feeds_are_counted_as_python_does(end: str) -> None:
    source = end.join(['"""doc"""', "\x0c", "# \u2028 \x85 \x1c", "é = 'ü'; X = 1", "Y = 2"])
    changed = Rewriter.of(source, ["X", "Y"]).with_values({"X": 10, "Y": 20})
    assert changed == source.replace("X = 1", "X = 10").replace("Y = 2", "Y = 20")


def test_a_name_without_assignment_is_refused() -> None:
    with pytest.raises(KeyError, match="ABSENT"):
        Rewriter.of(SOURCE, ["ABSENT"])


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["A", "B", "C"]),
        st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        min_size=1,
    )
)
def test_what_is_written_is_read_back(values: dict[str, Literal]) -> None:
    source = "A = 0  # first\nB = 'x'\nC = False\nTUNABLES = {}\n"
    changed = Rewriter.of(source, ["A", "B", "C"]).with_values(values)
    table = "{" + ", ".join(f'"{name}": [{spelled(value)}]' for name, value in values.items()) + "}"
    kernel = parse_kernel(changed.replace("{}", table), path=Path("k.py"))
    assert {tunable.name: tunable.value for tunable in kernel.tunables} == values
