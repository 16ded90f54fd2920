"""What is in an ELF, and how is it entered? A lab guest or a multiboot 1 kernel; anything else is refused."""

from __future__ import annotations

import io
import stat
import struct
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from labkit import abi
from labkit.abi import NUMBERS
from labkit.errors import UsageError
from labkit.installation import missing

HEADER = struct.Struct("<III")  # multiboot: magic, flags, checksum
LAB_HEADER = struct.Struct("<IIQQ")  # magic, ABI version, 64-bit entry, end
KNOWN_FLAGS = NUMBERS["MULTIBOOT_FLAG_PAGE_ALIGN"] | NUMBERS["MULTIBOOT_FLAG_MEMORY"]
MUST_UNDERSTAND = 0xFFFF
EM_X86 = ("EM_386", "EM_X86_64")


class Segment(NamedTuple):
    """Bytes at a guest-physical address; `size` beyond them is zero."""

    gpa: int
    data: bytes
    size: int


class Image(NamedTuple):
    """A guest ready to be put in memory. `lab`: entered in 64-bit mode, else by multiboot in 32-bit mode."""

    name: str
    segments: tuple[Segment, ...]
    entry: int
    lab: bool
    file: bytes = b""  # the ELF of a kernel


def load_kernel(path: Path) -> Image:
    """A multiboot 1 kernel, for `kernel=`. UsageError says what is wrong with the file."""
    entry, segments, text = _load(path)
    _check_multiboot(path, text)
    return _image(path, segments, entry, lab=False)._replace(file=text)


@lru_cache(maxsize=1)
def kernel_from(name: str, file: bytes) -> Image:
    """The same, of a file that came from elsewhere: the `file` of an Image. It often comes again."""
    path = Path(name)
    entry, segments = _read_elf(path, file)
    _check_segments(path, segments)
    _check_multiboot(path, file)
    return _image(path, segments, entry, lab=False)._replace(file=file)


def check_fits(image: Image, memory_mib: int) -> None:
    """UsageError: the machine has too little memory for it."""
    end = max(segment.gpa + segment.size for segment in image.segments)
    if end > memory_mib << 20:
        raise UsageError(f"{image.name} needs memory up to {end:#x}: memory_mib={memory_mib} is too small")


def lab_guest(name: str) -> Image:
    """One of the guests built with the package, read once a process. HostError: not built; UsageError: not this ABI."""
    return _lab_image(abi.GUEST_IMAGES / f"{name}.bin")


def guest_image(name: str) -> Path:
    """The ELF of a guest built with the package, for `kernel=`: "storm", "spin" ... UsageError: there is none.

    HostError: no guest was built at all.
    """
    path = abi.GUEST_IMAGES / f"{name}.elf"
    if not path.is_file():
        known = ", ".join(sorted(image.stem for image in abi.GUEST_IMAGES.glob("*.elf")))
        if not known:
            raise missing("guests")
        raise UsageError(f"no guest {name!r}: there are {known}")
    return path


@cache
def _lab_image(path: Path) -> Image:
    """The file is the guest's memory from GPA_IMAGE on; its header says the rest."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise missing("guests", f"{path}: {error.strerror}") from error
    offset = NUMBERS["LAB_HEADER"]
    magic, version, entry, end = LAB_HEADER.unpack_from(data.ljust(offset + LAB_HEADER.size, b"\0"), offset)
    if magic != NUMBERS["LAB_MAGIC"]:
        raise UsageError(f"{path}: no header of a lab guest")
    if version != abi.ABI_VERSION:
        raise UsageError(f"{path}: built for ABI {version}, this labkit speaks {abi.ABI_VERSION}: build it again")
    size = end - abi.GPA_IMAGE
    if not len(data) <= size <= NUMBERS["IMAGE_MAX_BYTES"]:
        raise UsageError(f"{path}: its header says {size} bytes, the file has {len(data)}")
    return _image(path, (Segment(abi.GPA_IMAGE, data, size),), entry, lab=True)


def _image(path: Path, segments: tuple[Segment, ...], entry: int, *, lab: bool) -> Image:
    if not any(segment.gpa <= entry < segment.gpa + segment.size for segment in segments):
        raise UsageError(f"{path}: entry {entry:#x} is in no segment")
    return Image(path.stem if lab else path.name, segments, entry, lab)


Loaded = tuple[int, tuple[Segment, ...], bytes]  # ELF entry (physical), segments, the file


def _load(path: Path) -> Loaded:
    """An unchanged file is parsed once a process."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: not a file")  # a FIFO would be waited for
        return _parse(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


@lru_cache(maxsize=16)
def _parse(path: Path, mtime_ns: int, size: int) -> Loaded:  # noqa: ARG001 - they tell one content from another
    file = path.read_bytes()
    entry, segments = _read_elf(path, file)
    _check_segments(path, segments)
    return entry, segments, file


def _read_elf(path: Path, file: bytes) -> tuple[int, tuple[Segment, ...]]:
    """Physical entry and loadable segments. Whatever the parser makes of a hostile file becomes a UsageError."""
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(file))
        if elf["e_machine"] not in EM_X86 or not elf.little_endian:
            raise UsageError(f"{path}: an ELF for {elf['e_machine']}, not for x86")
        parts = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
        if any(s["p_filesz"] > s["p_memsz"] or s["p_offset"] + s["p_filesz"] > len(file) for s in parts):
            raise UsageError(f"{path}: a segment is larger than the file or than its memory")
        entry = elf["e_entry"]
        for part in parts:
            if part["p_vaddr"] <= entry < part["p_vaddr"] + part["p_memsz"]:
                entry += part["p_paddr"] - part["p_vaddr"]
                break
        return entry, tuple(Segment(s["p_paddr"], s.data(), s["p_memsz"]) for s in parts)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: not an ELF file that can be read ({error or type(error).__name__})") from error


def _check_segments(path: Path, segments: tuple[Segment, ...]) -> None:
    if not segments:
        raise UsageError(f"{path}: no loadable segment")
    info_end = abi.GPA_MULTIBOOT_INFO + abi.MULTIBOOT_INFO_BYTES
    limit = abi.MEMORY_MAX_MIB << 20
    for segment in segments:
        if segment.gpa < info_end or segment.gpa + segment.size > limit:
            raise UsageError(f"{path}: a segment at {segment.gpa:#x}, {segment.size} bytes, does not fit in memory")


def _check_multiboot(path: Path, text: bytes) -> None:
    """A header in the first 8 KiB, 4-byte aligned, magic + flags + checksum = 0, and nothing required we lack."""
    magic = NUMBERS["MULTIBOOT_HEADER_MAGIC"]
    searched = text[: NUMBERS["MULTIBOOT_SEARCH_BYTES"]]
    for at in range(0, len(searched) - HEADER.size + 1, 4):
        found, flags, checksum = HEADER.unpack_from(searched, at)
        if found == magic and (found + flags + checksum) & 0xFFFFFFFF == 0:
            if flags & MUST_UNDERSTAND & ~KNOWN_FLAGS:
                raise UsageError(f"{path}: multiboot flags {flags:#x} ask for something this loader does not do")
            return
    raise UsageError(f"{path}: no multiboot 1 header in its first {len(searched)} bytes: not a kernel for kernel=")
