"""A vocabulary as three flat arrays, and the file that keeps them.

A tokenizer.json of 129,280 tokens takes a quarter of a second and 60 MB to read, more than all else that an
agent does before its first request. The table made of it once is one read of 3 MB.

The file: a magic, a CRC-32 of the rest, the length of a JSON header, the header, then `slots` (64 bits each),
`offsets` (32 bits each) and `spellings`, in the byte order of the machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Final

_MAGIC: Final = b"DSV4-BPE-1\n" + sys.byteorder[:1].encode() + b"\n"
_PREFIX: Final = Struct(f"={len(_MAGIC)}sII")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A structural token. ``early`` ones are looked for before the others (``normalized`` is false)."""

    text: str
    id: int
    early: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A vocabulary.

    Attributes:
        byte_ids: the token of each of the 256 bytes.
        slots: pairs and their merges, as `dsv4_model.bpe.merging.PairTable` wants them.
        offsets: one more than ids; the bytes of token ``id`` are ``spellings[offsets[id]:offsets[id + 1]]``.
        spellings: the bytes of all tokens but the added ones; empty for a number that is no token.
    """

    added: tuple[AddedToken, ...]
    byte_ids: tuple[int, ...]
    slots: array[int]
    offsets: array[int]
    spellings: bytes


def table_path(folder: Path, source: Path) -> Path:
    """Where the table of a tokenizer.json is kept."""
    name = hashlib.blake2b(os.fsencode(source.resolve()), digest_size=12).hexdigest()
    return folder / f"{name}.table"


def identity(source: Path) -> dict[str, object]:
    """What tells one state of a file from another, as Python's compiled files have it. Raises `OSError`."""
    found = source.stat()
    times = [found.st_mtime_ns, found.st_ctime_ns]
    return {"path": str(source.resolve()), "bytes": found.st_size, "times": times}


def read_table(path: Path, source: Path) -> Table | None:
    """The table kept at ``path`` if it is whole and made of ``source`` as that is now, else None."""
    try:
        content = path.read_bytes()
        magic, checksum, length = _PREFIX.unpack_from(content)
        if magic != _MAGIC or zlib.crc32(memoryview(content)[_PREFIX.size :]) != checksum:
            return None
        body = _PREFIX.size + length
        header = json.loads(content[_PREFIX.size : body])
        if header["source"] != identity(source):
            return None
        slots, offsets = array("Q"), array("I")
        middle = body + 8 * header["slots"]
        end = middle + 4 * header["offsets"]
        slots.frombytes(memoryview(content)[body:middle])
        offsets.frombytes(memoryview(content)[middle:end])
        added = tuple(AddedToken(text, id, early) for text, id, early in header["added"])
        return Table(added, tuple(header["bytes"]), slots, offsets, content[end:])
    except (OSError, ValueError, KeyError, TypeError, StructError):
        return None


def write_table(path: Path, table: Table, source: Mapping[str, object]) -> None:
    """Keep a table for the next time; where that can't be done, the next time makes it again."""
    header = json.dumps(
        {
            "source": source,
            "added": [[token.text, token.id, token.early] for token in table.added],
            "bytes": table.byte_ids,
            "slots": len(table.slots),
            "offsets": len(table.offsets),
        }
    ).encode()
    rest = b"".join((header, table.slots.tobytes(), table.offsets.tobytes(), table.spellings))
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_PREFIX.pack(_MAGIC, zlib.crc32(rest), len(header)))
                file.write(rest)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
