"""The members of a zip file as torch writes it: plain bytes at known places, none compressed.

Read without zipfile, which believes what a directory says: here members may not be compressed (so nothing can swell),
share bytes or names, or have names that lead out of a folder, and the two descriptions of each must agree.
Source: PKWARE's APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...core.errors import CheckpointError
from ...core.io.files import open_regular
from ...core.printable import short_name

MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 64 << 20
LOCAL_MAGIC = b"PK\x03\x04"
_CENTRAL_MAGIC = b"PK\x01\x02"

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 1


@dataclass(frozen=True)
class Member:
    """Bytes of the file that have a name."""

    name: str
    offset: int
    nbytes: int


def read_members(path: Path) -> dict[str, Member]:
    """The members of a zip file by name. Raises CheckpointError when the file is damaged or not as torch writes it."""
    with _opened(path) as archive:
        return archive.members()


def member_names(path: Path) -> list[str]:
    """The names in the directory of a zip file, unchecked: to tell what kind of file it is.

    Raises: CheckpointError when the file cannot be read or has no directory.
    """
    with _opened(path) as archive:
        return archive.names()


@contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    try:
        with open_regular(path) as file:
            yield _Archive(path, file, os.fstat(file.fileno()).st_size)
    except struct.error as error:
        raise CheckpointError(f"{path}: its zip directory is cut off; copy or download the file again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclass
class _Archive:
    path: Path
    file: BinaryIO
    size: int

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {what}; copy, download or save the file again")

    def names(self) -> list[str]:
        _, directory, count = self.listing()
        names: list[str] = []
        place = 0
        while len(names) < count and directory[place : place + 4] == _CENTRAL_MAGIC:
            if place + _CENTRAL.size > len(directory):
                break
            sizes = _CENTRAL.unpack_from(directory, place)[10:13]
            start = place + _CENTRAL.size
            names.append(directory[start : start + sizes[0]].decode("utf-8", "replace"))
            place = start + sum(sizes)
        return names

    def listing(self) -> tuple[int, bytes, int]:
        """Where the directory begins, its bytes, and how many members it announces."""
        count, directory_size, directory_offset = self.directory()
        if count > MAX_MEMBERS or directory_size > MAX_DIRECTORY_BYTES:
            raise self.fail(
                f"its zip directory names {count} members in {directory_size} bytes, more than any checkpoint"
            )
        if directory_offset + directory_size > self.size:
            raise self.fail("its zip directory lies outside the file")
        return directory_offset, self.at(directory_offset, directory_size), count

    def members(self) -> dict[str, Member]:
        directory_offset, directory, count = self.listing()
        members: dict[str, Member] = {}
        place = 0
        for _ in range(count):
            member, place = self.member(directory, place)
            if member.name in members:
                raise self.fail(f"two zip members are called {short_name(member.name)!r}")
            members[member.name] = member
        self.check_apart(members, directory_offset)
        return members

    def at(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count)

    def directory(self) -> tuple[int, int, int]:
        """Number of members, size and offset of the directory."""
        tail_size = min(self.size, _END.size + _FULL_16)
        tail = self.at(self.size - tail_size, tail_size)
        place = tail.rfind(b"PK\x05\x06")
        if place < 0:
            raise self.fail("is cut off: a zip file without the directory at its end")
        _, disk, first_disk, _, count, size, offset, comment = _END.unpack_from(tail, place)
        if disk or first_disk or place + _END.size + comment != tail_size:
            raise self.fail("its zip directory is damaged")
        if count < _FULL_16 and size < _FULL_32 and offset < _FULL_32:
            return count, size, offset
        end_64 = self.size - tail_size + place - _LOCATOR_64.size
        if end_64 < 0:
            raise self.fail("its zip directory is damaged")
        magic, _, start, _ = _LOCATOR_64.unpack(self.at(end_64, _LOCATOR_64.size))
        if magic != b"PK\x06\x07" or start > end_64:
            raise self.fail("its zip directory is damaged")
        magic, _, _, _, _, _, _, count, size, offset = _END_64.unpack(self.at(start, _END_64.size))
        if magic != b"PK\x06\x06":
            raise self.fail("its zip directory is damaged")
        return count, size, offset

    def member(self, directory: bytes, place: int) -> tuple[Member, int]:
        """One line of the directory, checked against the member's own header; and the next line's place."""
        fields = _CENTRAL.unpack_from(directory, place)
        magic, _, _, flags, method = fields[:5]
        packed, unpacked, name_size, extra_size, comment_size = fields[8:13]
        offset = fields[16]
        place += _CENTRAL.size
        raw_name = directory[place : place + name_size]
        extra = directory[place + name_size : place + name_size + extra_size]
        place += name_size + extra_size + comment_size
        if magic != _CENTRAL_MAGIC or place > len(directory):
            raise self.fail("its zip directory is damaged")
        name = self.name(raw_name)
        if flags & _ENCRYPTED or method:
            raise self.fail(f"zip member {short_name(name)!r} is compressed or encrypted, which torch does not do")
        unpacked, packed, offset = self.wide(name, extra, [unpacked, packed, offset])
        if packed != unpacked:
            raise self.fail(f"zip member {short_name(name)!r} announces two sizes")
        if offset + _LOCAL.size > self.size:
            raise self.fail(f"zip member {short_name(name)!r} lies outside the file")
        header = _LOCAL.unpack(self.at(offset, _LOCAL.size))
        local_name, local_extra = header[9], header[10]
        if header[0] != LOCAL_MAGIC or header[3] or self.file.read(local_name) != raw_name:
            raise self.fail(f"zip member {short_name(name)!r} is described in two ways")
        start = offset + _LOCAL.size + local_name + local_extra
        if start + unpacked > self.size:
            raise self.fail(f"zip member {short_name(name)!r} is cut off")
        return Member(name, start, unpacked), place

    def name(self, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail("a zip member has a name that is no UTF-8") from error
        if not name or name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in name.split("/"):
            raise self.fail(f"zip member {short_name(name)!r} has a name that leads out of the file")
        return name

    def wide(self, name: str, extra: bytes, values: list[int]) -> list[int]:
        """The three numbers of a line, from its 64-bit field where 32 bits do not hold them."""
        wanted = [index for index, value in enumerate(values) if value == _FULL_32]
        place = 0
        while wanted and place + 4 <= len(extra):
            kind, size = struct.unpack_from("<2H", extra, place)
            if kind == 1 and size >= 8 * len(wanted):
                found = struct.unpack_from(f"<{len(wanted)}Q", extra, place + 4)
                for index, value in zip(wanted, found, strict=True):
                    values[index] = value
                return values
            place += 4 + size
        if wanted:
            raise self.fail(f"zip member {short_name(name)!r} is larger than its directory can say")
        return values

    def check_apart(self, members: dict[str, Member], directory_offset: int) -> None:
        end = 0
        for member in sorted(members.values(), key=lambda member: (member.offset, member.nbytes)):
            if member.offset - _LOCAL.size - len(member.name.encode()) < end:
                raise self.fail(f"zip member {short_name(member.name)!r} shares bytes with another")
            end = member.offset + member.nbytes
        if end > directory_offset:
            raise self.fail("zip members and directory share bytes")
