"""Everything that a user can set, in one table; docs/reference/options.md is made from it."""

from __future__ import annotations

import pytest

from pytest_avo.session.options.evolving import BUDGET, EVOLUTION, MODEL, OUTSIDE
from pytest_avo.session.options.measuring import GATE, LIVE, MEASURING, MODE_OPTIONS, RESULTS, SPOOL
from pytest_avo.session.options.option import IniKey, Option

GROUP = "avo"
OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        *MODE_OPTIONS.values(),
        *MEASURING,
        *GATE,
        *RESULTS,
        LIVE,
        *SPOOL,
        *EVOLUTION,
        *OUTSIDE,
        *BUDGET,
        *MODEL,
    )
}
"""Options by name."""
INI_KEYS = (
    IniKey(
        name="avo_kernels",
        type="args",
        default=("kernels",),
        help="Folders that --avo-bench collects without a path",
    ),
    IniKey(
        name="avo_evolve",
        help="Kernel that a bare --avo-evolve takes, a line per target: 'cpu: kernels/cpu/quickstart.py'",
    ),
    IniKey(
        name="avo_compare_fail",
        help="Default of --avo-compare-fail, and limits of their own for suites and kernels, a line each: '3%', "
        "'decode-cpu: 5%', 'kernels/cpu/prefill.py: geomean:1%'",
    ),
    IniKey(
        name="avo_price_input",
        type="string",
        help="Price of a million input tokens, in the currency of --avo-max-cost",
    ),
    IniKey(
        name="avo_price_output",
        type="string",
        help="Price of a million output tokens, in the currency of --avo-max-cost",
    ),
    *(
        IniKey(name=option.ini_key, type="string", help=f"Default of {option.flag}")
        for option in OPTIONS.values()
        if option.has_ini
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Register everything that a user can set."""
    group = parser.getgroup(GROUP, "evaluation and evolution of attention kernels")
    for option in OPTIONS.values():
        option.add_to(group)
    for key in INI_KEYS:
        key.add_to(parser)
