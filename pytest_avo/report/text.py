"""Values as the reports write them: figures, ratios, durations, and foreign text made harmless."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Sequence

ABSENT = "-"
SEPARATOR = " · "


def significant(value: float | None, digits: int = 3) -> str:
    """A positive figure with that many significant digits and no exponent: 0.0123, 1.23, 12345."""
    if value is None or not math.isfinite(value):
        return ABSENT
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def ratio(estimate: float, interval: tuple[float, float] | None = None, *, bounds: bool = True) -> str:
    """`1.21 [1.18, 1.24]`, or the estimate alone; a third decimal where the interval is too narrow for two."""
    decimals = 1 if estimate >= 10 else 2
    if interval is None:
        return f"{estimate:.{decimals}f}"
    low, high = interval
    if high - low < 0.02:
        decimals = 3
    return f"{estimate:.{decimals}f}" + (f" [{low:.{decimals}f}, {high:.{decimals}f}]" if bounds else "")


def percent(log_ratio: float) -> str:
    """A log-ratio as a change: +4.1%."""
    return f"{math.expm1(log_ratio):+.1%}"


def duration(seconds: float) -> str:
    """`4.2 s`, `2 min 41 s` or `1 h 03 min`; `<0.1 s` of what is too short to be counted."""
    if round(seconds, 1) == 0:
        return "<0.1 s" if seconds else "0 s"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def plain(text: str) -> str:
    """Foreign text (a reason, a hypothesis, a path) on one line, with nothing that a terminal would obey."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """One line with its spaces, and nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def quoted(text: str) -> str:
    """Foreign lines as a quotation: nothing in them that a terminal obeys, nor a CI service that reads the output.

    GitHub obeys a line that begins with `::`, whatever space is before it, and `##[` anywhere; others `##vso[`.
    """
    lines = text.replace("##", "# #").splitlines()
    return "\n".join(f"| {printable(line.expandtabs())}".rstrip() for line in lines)


def columns(text: str) -> int:
    """Columns of a terminal that `text` takes: two for a wide character, none for a combining one."""
    return sum(_columns(char) for char in text)


def clip(text: str, width: int) -> str:
    """`text` within `width` columns, an ellipsis where it was cut."""
    if columns(text) <= width:
        return text
    kept, room = "", width - 1
    for char in text:
        room -= _columns(char)
        if room < 0:
            break
        kept += char
    return kept.rstrip() + "…"


def wrapped(text: str, width: int, *, indent: int = 0, most: int | None = None) -> list[str]:
    """One line as lines of at most `width` columns, broken at blanks; a word that is wider is broken anywhere.

    indent: blanks before all lines but the first. most: so many lines are kept, the last ends with an ellipsis then.
    """
    lines: list[str] = []
    line = text[: len(text) - len(text.lstrip(" "))]
    words = text.lstrip(" ").split(" ")
    while words:
        word, room = words.pop(0), width - (indent if lines else 0)
        together = f"{line} {word}" if line.strip() else line + word
        if columns(together) <= room:
            line = together
        elif line.strip():
            lines.append(line)
            line, words = "", [word, *words]
        else:
            fits = next(length for length in range(len(together), 0, -1) if columns(together[:length]) <= max(room, 2))
            lines.append(together[:fits])
            line, words = "", [together[fits:], *words]
    lines.append(line)
    if most is not None and len(lines) > most:
        rest = " ".join(lines[most - 1 :])
        lines = [*lines[: most - 1], clip(rest, width - (indent if most > 1 else 0))]
    return [lines[0], *(" " * indent + each for each in lines[1:])]


def fold(lead: str, parts: Sequence[str], width: int) -> list[str]:
    """`lead` and parts joined into lines of at most `width` characters, broken between parts; later ones indented."""
    # textwrap breaks at blanks but never at a no-break space, so those hold each part together.
    held = [part.replace(" ", "\xa0") for part in (lead, *parts)]
    joined = f"{held[0]} {SEPARATOR.join(held[1:])}"
    lines = textwrap.wrap(joined, width, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def counted(number: int, noun: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
