"""Connections to a lineage file: creation, schema version, durability."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

from pytest_avo.core.disk.folder import make_folder
from pytest_avo.core.errors import InvalidInput

VERSION = 2
FILE = "lineage.sqlite3"
BUSY_S = 30.0
FROM_1_TO_2 = """
BEGIN IMMEDIATE;
ALTER TABLE attempt ADD COLUMN island INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outcome ADD COLUMN over INTEGER REFERENCES attempt (id);
ALTER TABLE outcome ADD COLUMN landing REAL;
ALTER TABLE outcome ADD COLUMN landing_low REAL;
ALTER TABLE outcome ADD COLUMN landing_high REAL;
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, "'failed'))", "'failed', 'kept'))")
    WHERE type = 'table' AND name = 'outcome';
UPDATE sqlite_schema SET sql = replace(sql, "'confirm', 'draft'", "'confirm', 'land', 'draft'")
    WHERE type = 'table' AND name = 'evaluation';
PRAGMA user_version = 2;
COMMIT;
PRAGMA writable_schema = RESET;
"""
"""Wider constraints change nothing that is stored, so SQLite's own way is to edit their text."""

Row = tuple[Any, ...]


class UnreadableLineage(sqlite3.DatabaseError):
    """What is stored cannot be read back: a damaged file, or a record that somebody else wrote."""


def open_to_write(path: Path) -> sqlite3.Connection:
    """Connect to the lineage at `path`, creating it and its folder; InvalidInput when that cannot be.

    Write-ahead log with synchronous=FULL: a committed transaction survives kill -9 and a power cut; readers never wait.
    """
    try:
        make_folder(path.parent)
        # Held while the file is made: a change of the journal mode does not wait for another process, it fails.
        creation = FileLock(path.with_name(f"{path.name}.lock"))
        creation.acquire()
    except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
        raise InvalidInput(f"{path}: cannot be opened as a lineage for writing: {error}") from None
    try:
        return _open_to_write(path)
    finally:
        creation.release()


def _open_to_write(path: Path) -> sqlite3.Connection:
    try:
        connection = _connect(path, mode="rwc")
    except sqlite3.Error as error:
        raise InvalidInput(f"{path}: cannot be opened as a lineage for writing: {error}") from None
    try:
        version = _version(connection, path)
        if version == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8"))
        elif version == 1:
            connection.executescript(FROM_1_TO_2)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # Without it INSERT OR REPLACE deletes a row and fires no DELETE trigger.
        connection.execute("PRAGMA recursive_triggers = ON")
    except sqlite3.Error as error:
        connection.close()
        raise InvalidInput(f"{path}: cannot be opened as a lineage for writing: {error}") from None
    except InvalidInput:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Connect to the lineage at `path` for queries alone; InvalidInput when there is none.

    Where nothing can be written it is read as it is now: to read it in place SQLite wants to write beside it.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: expected a lineage, there is no such file")
    try:
        return _open_to_read(path)
    except InvalidInput:
        if os.access(path.parent, os.W_OK):
            raise
    return _open_copy(path)


def _open_to_read(path: Path) -> sqlite3.Connection:
    try:
        # Not mode=ro: a reader of a write-ahead log must be able to create its shared-memory file.
        connection = _connect(path, mode="rw")
    except sqlite3.Error as error:
        raise InvalidInput(f"{path}: cannot be opened as a lineage: {error}") from None
    try:
        version = _version(connection, path)
        if version == 0:
            raise InvalidInput(f"{path}: expected a lineage, the file is empty")
        if version < VERSION:
            connection.close()  # what an older version wrote is brought up to date before it is read
            open_to_write(path).close()
            connection = _connect(path, mode="rw")
        connection.execute("PRAGMA query_only = ON")
    except InvalidInput:
        connection.close()
        raise
    return connection


def _open_copy(path: Path) -> sqlite3.Connection:
    """A copy in memory, with what a writer that was killed left in its log."""
    with tempfile.TemporaryDirectory(prefix="pytest-avo-lineage-") as folder:
        copy = Path(folder, FILE)
        try:
            shutil.copyfile(path, copy)
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be read as a lineage: {error.strerror}") from None
        try:
            found = _open_to_read(copy)
        except InvalidInput as error:
            raise InvalidInput(str(error).replace(str(copy), str(path))) from None
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        found.backup(connection)
        found.close()
    connection.execute("PRAGMA query_only = ON")
    return connection


class Reader:
    """A connection for queries that several threads may share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_to_read(path)
        self._lock = threading.Lock()

    def rows(self, query: str, *parameters: object) -> list[Row]:
        """All rows of one SELECT: one consistent state. UnreadableLineage where SQLite cannot read them."""
        with self._lock:
            try:
                return self._connection.execute(query, parameters).fetchall()
            except sqlite3.ProgrammingError:
                raise  # it is closed, which is no fault of the file
            except sqlite3.Error as error:
                raise UnreadableLineage(f"{self._path}: the lineage cannot be read: {error}") from None

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connect(path: Path, *, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's schema version, 0 for an empty file; InvalidInput for one that this code cannot read."""
    try:
        # In this order: a process that creates the schema in between has then set its version too.
        tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise InvalidInput(f"{path}: expected a lineage (SQLite): {error}") from None
    if found > VERSION:
        raise InvalidInput(
            f"{path}: written by a newer pytest-avo: expected schema version {VERSION} at most, found {found};"
            " upgrade the plugin or move the file away"
        )
    if found == 0 and tables:
        raise InvalidInput(f"{path}: expected a lineage, found another SQLite database")
    return found
