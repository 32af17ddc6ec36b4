"""What changed between two compile reports of one shape, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from pytest_avo.evaluation.diagnosis.compile import LaunchReport

FIGURES = {
    "registers": "registers",
    "spill_stores": "bytes spilled",
    "spill_loads": "bytes of spills loaded",
    "shared_bytes": "bytes of shared memory",
    "num_warps": "warps",
    "wgmma_count": "wgmma",
    "wgmma_serialized": "serialised",
    "hot_local": "local in loops",
    "grid": "grid",
}
"""Fields of a launch, as they are said."""


def changes(before: Sequence[LaunchReport], now: Sequence[LaunchReport]) -> list[tuple[str, str]]:
    """What is other in the launches of a shape: name of the kernel and what changed, `registers 168 -> 255`.

    Launches of one name are paired in their order.
    """
    found = []
    names = dict.fromkeys(launch.kernel for launch in (*now, *before))
    counts = Counter(launch.kernel for launch in now)
    for name in names:
        old, new = ([launch for launch in each if launch.kernel == name] for each in (before, now))
        for place, (was, launch) in enumerate(zip_longest(old, new), start=1):
            called = name if counts[name] < 2 else f"{name} ({place})"
            if launch is None:
                found.append((called, "not launched any more"))
            elif was is None:
                found.append((called, "was not launched"))
            elif said := ", ".join(_differences(was, launch)):
                found.append((called, said))
    return found


def _differences(was: LaunchReport, now: LaunchReport) -> Iterator[str]:
    for field, words in FIGURES.items():
        old, new = _said(getattr(was, field)), _said(getattr(now, field))
        if old != new:
            yield f"{words} {old} -> {new}"
    olds, news = dict(was.constants), dict(now.constants)
    for name in dict.fromkeys([*news, *olds]):
        if olds.get(name) != news.get(name):
            yield f"{name} {olds.get(name, 'absent')} -> {news.get(name, 'absent')}"
    if was.code != now.code and all(getattr(was, each) == getattr(now, each) for each in (*FIGURES, "constants")):
        yield "other code, the same figures"


def _said(value: object) -> str:
    if value is None:
        return "refused"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
