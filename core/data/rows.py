"""The rows of annotation files, as they stand there, one after the other: a file of any length takes no more memory.

A file is told by its content where its name is not exact: records a line in a .json, a list in a .jsonl. docs/data.md
documents the formats; core.data.tables reads those that are tables.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from ..errors import MediaError
from ..extras import needs_extra
from ..io.files import open_regular
from ..printable import one_line
from .tables import read_columns, table_rows

MAX_ROW_BYTES = 16_000_000
"""Of one record; a file without line ends is no list of records."""
_CHUNK_BYTES = 1 << 20
_BLANKS = re.compile(r"[ \t\r\n]*")


def rows_of(file: Path) -> Iterator[Any]:
    """What stands for each record, by column; a text where it says why there is none.

    Raises: MediaError when the file is missing, no regular file, or cannot be parsed as a whole.
    """
    yield from ROW_FORMATS[file.suffix.lower()](file)


def _json_rows(file: Path) -> Iterator[Any]:
    with _opened(file) as stream:
        sign = _JsonList(file, _chunks(file, stream)).sign()
    if sign == "[":
        yield from _listed_rows(file)
    elif file.suffix.lower() != ".json" or _has_records_on_lines(file):
        yield from _line_rows(file)
    else:
        found = "dict" if sign == "{" else repr(sign)
        raise MediaError(f"{file}: expected a list of records, got {found}; or save a record on each line as .jsonl")


def _has_records_on_lines(file: Path) -> bool:
    """Whether the first line is a whole record and others follow."""
    with _opened(file) as stream:
        lines = (line for line in _lines(file, stream) if line.strip())
        try:
            return isinstance(json.loads(next(lines, "")), dict) and next(lines, None) is not None
        except (ValueError, RecursionError):
            return False


def _line_rows(file: Path) -> Iterator[Any]:
    with _opened(file) as stream:
        for line in _lines(file, stream):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield f"is not JSON ({error})"


def _listed_rows(file: Path) -> Iterator[Any]:
    with _opened(file) as stream:
        yield from _JsonList(file, _chunks(file, stream))


class _JsonList:
    """The values of a JSON list that comes in pieces."""

    def __init__(self, file: Path, chunks: Iterator[str]) -> None:
        self.file, self._chunks = file, chunks
        self._text, self._place, self._number = "", 0, 0
        self._decode = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[Any]:
        self._take("[")
        while self.sign() != "]" or self._number:
            self._number += 1
            yield self._value()
            if self._take(",", "]") == "]":
                break
        else:
            self._take("]")
        if self.sign():
            raise self._error("something follows its list")

    def sign(self) -> str:
        """The next character that is no blank; nothing at the end."""
        while True:
            self._place = _BLANKS.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read_on():
                return ""

    def _take(self, *signs: str) -> str:
        found = self.sign()
        if found not in signs:
            raise self._error(f"expected {' or '.join(signs)}, got {found!r}" if found else "it ends too early")
        self._place += 1
        return found

    def _value(self) -> Any:
        self.sign()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except RecursionError as error:
                raise self._error("its brackets are nested too deep") from error
            except json.JSONDecodeError as error:
                if len(self._text) - self._place > MAX_ROW_BYTES or not self._read_on():
                    raise self._error(error.msg) from error
                continue
            if end < len(self._text) or not self._read_on():
                self._place = end
                return value

    def _read_on(self) -> bool:
        chunk = next(self._chunks, "")
        self._text, self._place = self._text[self._place :] + chunk, 0
        return bool(chunk)

    def _error(self, reason: str) -> MediaError:
        place = f" at record {self._number}" if self._number else ""
        return MediaError(f"{self.file}: is not JSON{place} ({reason})")


def _table_rows(file: Path) -> Iterator[Any]:
    with _opened(file) as stream:
        yield from table_rows(file, _lines(file, stream))


def nameless_columns(file: Path) -> tuple[str, ...] | None:
    """What the columns of a table without a line of names are taken for; None for other files. Raises: as rows_of."""
    if ROW_FORMATS[file.suffix.lower()] is not _table_rows:
        return None
    with _opened(file) as stream:
        columns = read_columns(file, _lines(file, stream))[0]
    return None if columns.are_named else columns.names


def _parquet_rows(file: Path) -> Iterator[Any]:
    with needs_extra("parquet", f"{file}: reading parquet"):
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    with _opened(file):  # pyarrow would wait for a pipe
        pass
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise MediaError(f"{file}: cannot be read as parquet ({one_line(error)})") from error


ROW_FORMATS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".json": _json_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _table_rows,
    ".tsv": _table_rows,
    ".parquet": _parquet_rows,
}


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    try:
        stream = open_regular(file)
    except FileNotFoundError as error:
        raise MediaError(f"{file}: there is no such file") from error
    except OSError as error:
        raise MediaError(f"{file}: cannot be read ({error.strerror or error})") from error
    with stream:
        yield stream


def _lines(file: Path, stream: IO[bytes]) -> Iterator[str]:
    """Lines with their ends; splitlines() would also part them at separators that JSON texts may hold."""
    for number in count(1):
        raw = stream.readline(MAX_ROW_BYTES + 1)
        if not raw:
            return
        if len(raw) > MAX_ROW_BYTES:
            raise MediaError(f"{file}, line {number}: has more than {MAX_ROW_BYTES} bytes; expected a record on each")
        try:
            yield raw.removeprefix(codecs.BOM_UTF8).decode() if number == 1 else raw.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(file, number) from error


def _chunks(file: Path, stream: IO[bytes]) -> Iterator[str]:
    """The text in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, raw = 1, b" "
    while raw:
        raw = stream.read(_CHUNK_BYTES)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise _not_utf8(file, line + raw.count(b"\n", 0, error.start)) from error
        line += raw.count(b"\n")
        if text:
            yield text


def _not_utf8(file: Path, line: int) -> MediaError:
    return MediaError(f"{file}:{line}: is not UTF-8 text; save the file in UTF-8")
