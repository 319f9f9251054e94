"""The end of a library: what it is, how long, for which key, and a checksum. Nothing is loaded whose seal is broken.

A seal finds damage, not malice: whoever can write a library can seal it. Load libraries only from where you would load
any other program from.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import struct
import zlib
from pathlib import Path

from lpir.devices.cpu.codegen.executor import executor_text
from lpir.errors import FileError

# of the tables, the C interface and the description; changes of the executor count by themselves
LAYOUT = 2
FORMAT = LAYOUT << 32 | zlib.crc32(executor_text().encode())
MAGIC = b"lpirAOT\n"
# magic, format, bytes of the library, maker, key, checksum of all before it
SEAL = struct.Struct("<8sQQ32s32s32s")


def seal(library: bytes | bytearray | memoryview, key: bytes = bytes(32)) -> bytes:
    """The library with a seal behind it. `key`: 32 bytes that say what it was made from."""
    end = SEAL.pack(MAGIC, FORMAT, len(library), maker(), key, bytes(32))[:-32]
    digest = hashlib.sha256(library)
    digest.update(end)
    return b"".join((library, end, digest.digest()))


def reseal(sealed: bytes, key: bytes) -> bytes:
    """The same library for another key."""
    return seal(memoryview(sealed)[: -SEAL.size], key)


def check(data: bytes | memoryview, key: bytes | None = None) -> None:
    """Raises FileError that says what is wrong. With a `key`, the versions that made the library must be ours too."""
    if len(data) < SEAL.size or bytes(data[:4]) != b"\x7fELF":
        raise FileError("not a compiled model")
    magic, form, size, made_by, made_for, digest = SEAL.unpack(data[-SEAL.size :])
    if magic != MAGIC:
        raise FileError("not a compiled model of lpir, or not all of it")
    if form != FORMAT:
        raise FileError("the compiled model was made by another version of lpir: compile it again")
    if size != len(data) - SEAL.size or hashlib.sha256(data[:-32]).digest() != digest:
        raise FileError("the compiled model is damaged")
    if key is not None:
        # where there is no llvmlite, any will have done
        same = made_by == maker() if llvmlite_version() else made_by[:16] == maker()[:16]
        if made_for != key or not same:
            raise FileError("the compiled model was made from something else")


@functools.cache
def maker() -> bytes:
    """What compiles here: half a digest of lpir's source (its version is in it), half one of llvmlite's version."""
    root = Path(__file__).parents[3]
    digest = hashlib.sha256((root / "__init__.py").read_bytes())
    for folder in ("devices/cpu", "ir", "ops", "passes", "scalar"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.digest()[:16] + hashlib.sha256(llvmlite_version().encode()).digest()[:16]


@functools.cache
def llvmlite_version() -> str:
    """The version of llvmlite, found without importing it; "" where it is not installed."""
    found = importlib.util.find_spec("llvmlite")
    if found is None or found.origin is None:
        return ""
    try:
        text = (Path(found.origin).parent / "_version.py").read_text()
    except OSError:
        return ""
    named = re.search(r"""version["']?\s*[:=]\s*["']([^"']+)""", text)
    return named[1] if named else text
