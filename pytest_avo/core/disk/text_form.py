"""How a Python file's text lies on disk: read as Python reads it, written back as it was."""

from __future__ import annotations

import codecs
import io
import re
import tokenize
from collections import Counter
from dataclasses import dataclass

COOKIE = re.compile(r"^([ \t\f]*#.*?coding[:=][ \t]*)([-\w.]+)", re.ASCII)
"""PEP 263: an encoding's name in a comment on one of the first two lines."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """The byte order mark and the line ends of a file; its encoding is what its own text declares."""

    mark: bool = False
    newline: str = "\n"
    """The most frequent one, where a file has several."""

    @classmethod
    def of(cls, data: bytes) -> TextForm:
        ends = Counter(re.findall(rb"\r\n|\n|\r", data))
        newline = ends.most_common(1)[0][0].decode() if ends else "\n"
        return cls(mark=data.startswith(codecs.BOM_UTF8), newline=newline)

    def encoded(self, text: str) -> bytes:
        """The bytes of a text with line feeds as line ends, in the encoding that it declares.

        Where that cannot hold one of its characters, UTF-8 is used and declared instead; UnicodeEncodeError for what
        is no character. A mark is left out where another encoding is declared: Python refuses both.
        """
        encoding = declared(text)
        try:
            data = text.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            encoding, data = "utf-8", redeclared(text).encode()
        if self.newline != "\n":
            data = data.replace(b"\n", self.newline.encode())
        return (codecs.BOM_UTF8 if self.mark and encoding == "utf-8" else b"") + data


def decoded(data: bytes) -> str:
    """The text of a Python file, its line ends line feeds and without a byte order mark.

    SyntaxError or UnicodeDecodeError where Python could not read it either.
    """
    name, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return io.TextIOWrapper(io.BytesIO(data), name).read()


def as_read_back(text: str) -> str:
    """A text as Python would read it from the file that it is written to: both have one digest then.

    Its line ends are line feeds, it has no byte order mark, and it declares an encoding that Python has and that holds
    it. UnicodeEncodeError for what is no character.
    """
    text = io.StringIO(text.removeprefix("\ufeff"), newline=None).read()
    try:
        if decoded(text.encode(declared(text))) == text:
            return text
    except (SyntaxError, UnicodeError, LookupError):
        pass
    redeclared(text).encode()
    return redeclared(text)


def declared(text: str) -> str:
    """The encoding that a text declares for its file; UTF-8 where it declares none that Python has."""
    for line in text.split("\n", 2)[:2]:
        if found := COOKIE.match(line):
            try:
                name = codecs.lookup(found[2]).name
            except LookupError:
                return "utf-8"
            return "utf-8" if name == "utf-8-sig" else name
        if line.strip() and not line.lstrip().startswith("#"):
            break  # a declaration on the second line counts only below a comment or an empty line
    return "utf-8"


def redeclared(text: str) -> str:
    """The text, declared to be in UTF-8 where it declares something else."""
    lines = text.split("\n", 2)
    return "\n".join([*(COOKIE.sub(r"\1utf-8", line) for line in lines[:2]), *lines[2:]])
