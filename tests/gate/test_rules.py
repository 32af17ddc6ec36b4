"""Limits by statistic, kernel and suite, from the command line and the ini key."""

from __future__ import annotations

import math

import pytest

from pytest_avo.core.errors import InvalidInput
from pytest_avo.gate.rules import parse_rules


def percent(limit: float | None) -> float | None:
    return None if limit is None else round(math.expm1(limit) * 100, 6)


@pytest.mark.parametrize(
    ("expression", "median", "geomean"),
    [
        ("3%", 3, None),
        ("median:3%", 3, None),
        (" median : 2.5 % ", 2.5, None),
        ("geomean:1%", None, 1),
        ("3%,geomean:0%", 3, 0),
    ],
)
def test_an_expression_limits_a_statistic(expression: str, median: float | None, geomean: float | None) -> None:
    rules = parse_rules([expression], [])
    assert percent(rules.limit("median", kernel="kernels/a.py")) == median
    assert percent(rules.limit("geomean", kernel="kernels/a.py")) == geomean


@pytest.mark.parametrize("wrong", ["3", "mean:3%", "-3%", "3%%", "", "3%,", "nan%", "geomean"])
def test_what_is_no_expression_is_named(wrong: str) -> None:
    with pytest.raises(InvalidInput, match=r"--avo-compare-fail: .*: expected PERCENT, median:PERCENT"):
        parse_rules([wrong], [])


def test_a_wrong_line_of_the_ini_key_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"ini key avo_compare_fail: 'decode-cpu: fast': expected PERCENT"):
        parse_rules([], ["decode-cpu: fast"])


def test_a_kernels_own_limit_goes_before_its_suites_and_that_before_the_one_for_all() -> None:
    rules = parse_rules([], ["3%", "decode-cpu: 5%", "kernels/cpu/*.py: median:7%", "mha: geomean:2%"])
    assert percent(rules.limit("median", kernel="kernels/cpu/a.py", suites=["decode-cpu"])) == 7
    assert percent(rules.limit("median", kernel="kernels/sm90/a.py", suites=["mha", "decode-cpu"])) == 5
    assert percent(rules.limit("median", kernel="kernels/sm90/a.py", suites=["mha"])) == 3
    assert rules.limit("geomean", kernel="kernels/sm90/a.py") is None
    assert rules.suites == {"decode-cpu", "mha"}


def test_the_command_line_replaces_what_holds_for_all_and_nothing_else() -> None:
    rules = parse_rules(["10%"], ["3%", "geomean:1%", "decode-cpu: 5%"])
    assert percent(rules.limit("median", kernel="a.py")) == 10
    assert percent(rules.limit("median", kernel="a.py", suites=["decode-cpu"])) == 5
    assert rules.limit("geomean", kernel="a.py") is None


def test_geomeans_are_over_all_shapes_and_over_suites_with_a_limit() -> None:
    rules = parse_rules(["geomean:1%"], ["mha: geomean:2%", "gqa: 4%", "kernels/b.py: geomean:3%"])
    assert {name: percent(limit) for name, limit in rules.groups("kernels/a.py").items()} == {"": 1, "mha": 2}
    assert {name: percent(limit) for name, limit in rules.groups("kernels/b.py").items()} == {"": 3, "mha": 2}
    assert parse_rules(["1%"], []).groups("kernels/a.py") == {}


def test_no_rule_is_false() -> None:
    assert not parse_rules([], [])
    assert parse_rules([], ["kernels/a.py: 1%"])
