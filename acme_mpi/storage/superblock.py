"""Whether a small file is whole, by its first bytes and its size: a million files in seconds.

References
----------
HDF5 File Format Specification 3.0, II.A "Disk Format: Level 0A - Format Signature and Superblock".
"""

from __future__ import annotations

import os
import struct

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Versions 2 and 3, the only ones that this package writes: signature, version, sizes of offsets and
# of lengths, flags, and then four addresses: base, extension, end of file, root group.
SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")


def fault_of_file(path: str, n_bytes: int, is_pickle: bool = False) -> str:
    """Return what is wrong with a file that holds the results of one task; empty if nothing is.

    Parameters
    ----------
    path : str
        The file.
    n_bytes : int
        Size of its results.
    is_pickle : bool
        It is a pickle, which has just this size; otherwise HDF5.

    Raises
    ------
    OSError
        It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, SUPERBLOCK.size, 0)
    finally:
        os.close(descriptor)
    if is_pickle:
        return "" if size == n_bytes else f"{size} bytes instead of {n_bytes}"
    if len(head) < SUPERBLOCK.size or not head.startswith(SIGNATURE):
        return "it is no HDF5 file any more"
    _, version, *_, end, root = SUPERBLOCK.unpack(head)
    if version not in (2, 3):
        return f"its superblock has the unknown version {version}"
    if end > size or root >= size:
        return f"it has {size} bytes and should have {end}"
    return ""
