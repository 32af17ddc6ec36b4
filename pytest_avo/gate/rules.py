"""How much slower a kernel may have become: what `--avo-compare-fail` and the ini key avo_compare_fail say."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, cast

from pytest_avo.core.errors import InvalidInput

Statistic = Literal["median", "geomean"]
EXPECTED = "expected PERCENT, median:PERCENT or geomean:PERCENT, as in 3% or geomean:1%"
OF_ALL = "*"
"""What a rule without a name holds for."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Allowed slowdowns by statistic, then by what they hold for: OF_ALL, a suite, a kernel's path or a pattern of it.

    A slowdown is the growth of the time on the log scale: log(1.03) for 3%.
    """

    limits: Mapping[Statistic, Mapping[str, float]] = field(default_factory=dict)

    def limit(self, statistic: Statistic, *, kernel: str, suites: Sequence[str] = ()) -> float | None:
        """The limit for a kernel on a shape of some suites: the kernel's own, else the first suite's, else OF_ALL's.

        None: the statistic is not gated there.
        """
        named = self.limits.get(statistic, {})
        of_kernel = [limit for what, limit in named.items() if _is_path(what) and fnmatchcase(kernel, what)]
        of_suites = [named[suite] for suite in suites if suite in named]
        return next(iter([*of_kernel, *of_suites]), named.get(OF_ALL))

    @property
    def suites(self) -> set[str]:
        """Names of suites, or what the user took for one, that rules hold for."""
        return {what for named in self.limits.values() for what in named if what != OF_ALL and not _is_path(what)}

    def groups(self, kernel: str) -> dict[str, float]:
        """The geomeans of a kernel that are limited: "" over all its shapes, and suites that have a limit."""
        over_all = self.limit("geomean", kernel=kernel)
        of_suites = {what: limit for what, limit in self.limits.get("geomean", {}).items() if what in self.suites}
        return ({} if over_all is None else {"": over_all}) | of_suites

    def __bool__(self) -> bool:
        return any(self.limits.values())


def parse_rules(options: Iterable[str], lines: Iterable[str]) -> Rules:
    """The rules of the command line and of the ini key: the former replace what the latter say without a name.

    InvalidInput names what cannot be read.
    """
    found: dict[Statistic, dict[str, float]] = {}
    for line in lines:
        what, expression = _named(line)
        for statistic, limit in _expressions(expression, f"ini key avo_compare_fail: {line!r}"):
            found.setdefault(statistic, {})[what] = limit
    given = [
        each for option in options for each in _expressions(option, f"--avo-compare-fail: {option!r}") if option.strip()
    ]
    if given:
        for named in found.values():
            named.pop(OF_ALL, None)
    for statistic, limit in given:
        found.setdefault(statistic, {})[OF_ALL] = limit
    return Rules(found)


def _named(line: str) -> tuple[str, str]:
    """`decode-cpu: 5%` as what it holds for and the expression; a bare expression holds for all."""
    what, colon, rest = (part.strip() for part in line.partition(":"))
    return (what, rest) if colon and what not in ("median", "geomean") else (OF_ALL, line)


def _expressions(text: str, where: str) -> list[tuple[Statistic, float]]:
    found: list[tuple[Statistic, float]] = []
    for part in text.split(","):
        match = re.fullmatch(r"(?:(median|geomean)\s*:\s*)?(\d+(?:\.\d+)?)\s*%", part.strip())
        if match is None:
            raise InvalidInput(f"{where}: {EXPECTED}")
        found.append((cast("Statistic", match[1] or "median"), math.log1p(float(match[2]) / 100)))
    return found


def _is_path(what: str) -> bool:
    return what != OF_ALL and ("/" in what or what.endswith(".py"))
