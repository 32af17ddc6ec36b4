"""The knowledge base K: passages of the shipped files and of the user's folders, found by BM25.

Markdown is split at its headings, other text (reference kernels, say) into runs of lines, and indexed in an in-memory
SQLite FTS5 table.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_avo.core.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SUFFIXES = {".md", ".txt", ".rst", ".py", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".ptx"}
_MAX_FILE_BYTES = 4_000_000
_LONGEST_PASSAGE = 4000
_LINES_PER_PASSAGE = 60
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
_FENCE = re.compile(r"\s*(```|~~~)")
# Words that occur everywhere only dilute a query whose terms are joined by OR.
_COMMON = re.compile(r"a|an|and|are|as|at|be|by|do|does|for|from|how|i|if|in|is|it|of|on|or|the|to|what|when|why|with")


class KnowledgeError(Exception):
    """A folder, file or heading that is not there; the message says what is."""


_ABOUT = {
    "cpu-kernels.md": "cpu",
    "blackwell-architecture.md": "gpu",
    "hopper-architecture.md": "gpu",
    "profiling-and-sass.md": "gpu",
    "ptx-instructions.md": "gpu",
    "triton-and-gluon.md": "gpu",
}
"""Shipped documents that are of no use on the other kind of device."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document under one heading; `heading` has the path to it, " / " between levels."""

    file: str
    heading: str
    text: str


class KnowledgeBase:
    """Documents by name, and search over their passages. Safe to use from several threads."""

    def __init__(self, folders: Sequence[Path] = (), *, shipped: bool = True) -> None:
        """Index the shipped files and every text below `folders`; `KnowledgeError` for a folder that has none."""
        self._passages: dict[str, list[Passage]] = {}
        if shipped:
            for entry in sorted(resources.files(__package__).iterdir(), key=lambda each: each.name):
                if entry.name.endswith(".md"):
                    self._add(entry.name, entry.read_text(encoding="utf-8"))
        names = Counter[str]()
        for folder in dict.fromkeys(each.resolve() for each in folders):
            names[folder.name] += 1
            # Two folders called docs must not hide each other's files.
            self._add_folder(folder, folder.name + (f"-{names[folder.name]}" if names[folder.name] > 1 else ""))
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute("CREATE VIRTUAL TABLE passage USING fts5(file, heading, text, tokenize='porter unicode61')")
        rows = [(each.file, each.heading, each.text) for passages in self._passages.values() for each in passages]
        self._index.executemany("INSERT INTO passage VALUES (?, ?, ?)", rows)
        self._lock = threading.Lock()

    @classmethod
    def of_option(cls, folders: Sequence[Path]) -> Self:
        """The shipped files and the folders of `--avo-knowledge`; InvalidInput where one cannot be read."""
        try:
            return cls(folders)
        except KnowledgeError as error:
            raise InvalidInput(f"--avo-knowledge: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the index."""
        self._index.close()

    def files(self, *, target: str = "") -> list[str]:
        """The names of all documents; with a target only of those that may help there."""
        kind = "cpu" if target == "cpu" else "gpu"
        return [file for file in self._passages if not target or _ABOUT.get(file, kind) == kind]

    def headings(self, file: str) -> list[str]:
        """The headings of one document in its order."""
        return list(dict.fromkeys(each.heading for each in self._document(file)))

    def search(self, query: str, limit: int = 5) -> list[Passage]:
        """The passages that match any word of `query`, best first; none for a query without words.

        The query is words, whatever else it holds: no character of it is taken for FTS syntax.
        """
        words = dict.fromkeys(re.findall(r"[^\W_]+", query.lower()))
        terms = [word for word in words if not _COMMON.fullmatch(word)] or list(words)
        if not terms:
            return []
        match = " OR ".join(f'"{term}"' for term in terms)
        # A word in the file's name or a heading says more about a passage than one in its text.
        statement = (
            "SELECT file, heading, text FROM passage WHERE passage MATCH ? ORDER BY bm25(passage, 4, 4, 1) LIMIT ?"
        )
        with self._lock:
            return [Passage(*row) for row in self._index.execute(statement, (match, limit))]

    def read(self, file: str, heading: str | None = None) -> str:
        """A whole document, or what stands under one heading and those below it."""
        passages = self._document(file)
        if heading is not None:
            wanted = heading.strip().lstrip("#").strip().lower()
            passages = [each for each in passages if _is_under(each.heading.lower(), wanted)]
            if not passages:
                raise KnowledgeError(f"{file} has no heading {heading!r}: it has {'; '.join(self.headings(file))}")
        return "\n".join(each.text for each in passages)

    def _document(self, file: str) -> list[Passage]:
        found = self._passages.get(file) or self._passages.get(f"{file}.md")
        if found is None:
            near = difflib.get_close_matches(file, self._passages, n=3, cutoff=0.4) or self.files()
            raise KnowledgeError(f"the knowledge base has no {file!r}: did you mean {', '.join(near)}?")
        return found

    def _add_folder(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            what = "is no directory" if folder.exists() else "does not exist"
            raise KnowledgeError(f"knowledge folder {folder} {what}: expected a directory of text files")
        found = False
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if (
                path.suffix not in _SUFFIXES
                or any(part.startswith(".") for part in relative.parts)
                or not path.is_file()
            ):
                continue
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise KnowledgeError(f"knowledge file {path} is larger than {_MAX_FILE_BYTES:,} bytes: split it")
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise KnowledgeError(f"knowledge file {path} cannot be read as UTF-8 text: {error}") from error
            found = True
            self._add(f"{name}/{relative.as_posix()}", text)
        if not found:
            raise KnowledgeError(
                f"knowledge folder {folder} has no text files: expected {', '.join(sorted(_SUFFIXES))}"
            )

    def _add(self, name: str, text: str) -> None:
        sections = _sections(text) if Path(name).suffix in {".md", ".txt", ".rst"} else _runs(text)
        self._passages[name] = [
            Passage(name, heading, part) for heading, section in sections for part in _parts(section) if part.strip()
        ]


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """The sections of a markdown text with their heading paths; a heading inside a code fence is none."""
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading:
            yield " / ".join(title for _, title in path), "\n".join(lines)
            level = len(heading[1])
            path = [*(each for each in path if each[0] < level), (level, heading[2])]
            lines = []
        lines.append(line)
    yield " / ".join(title for _, title in path), "\n".join(lines)


def _runs(text: str) -> Iterator[tuple[str, str]]:
    lines = text.splitlines()
    for first in range(0, len(lines), _LINES_PER_PASSAGE):
        run = lines[first : first + _LINES_PER_PASSAGE]
        yield f"lines {first + 1} to {first + len(run)}", "\n".join(run)


def _parts(section: str) -> Iterable[str]:
    """A section in parts of at most about 4000 characters, cut between lines."""
    part: list[str] = []
    size = 0
    for line in section.splitlines():
        if part and size + len(line) > _LONGEST_PASSAGE:
            yield "\n".join(part)
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    yield "\n".join(part)


def _is_under(heading: str, wanted: str) -> bool:
    """Whether `wanted`, a full path or any one title on it, leads to `heading`."""
    return heading == wanted or heading.startswith(f"{wanted} / ") or wanted in heading.split(" / ")
