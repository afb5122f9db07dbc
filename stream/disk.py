"""What a file system is asked for: one holder at a time, and folders that survive a crash."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class HeldError(Exception):
    """Somebody else holds the lock; the message names the holder and its process."""


class Held:
    """A lock that is held until it is closed, dropped, or its process dies.

    Parameters
    ----------
    descriptor
        The open file that bears the lock; use :func:`hold`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let the next holder in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def hold(path: Path, name: str) -> Held:
    """Take the lock on the file ``path`` and write ``name`` and the process id into it.

    A second call is refused in the same process too, and ``kill -9`` frees the lock. The file
    stays, since deleting it would let two holders in.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lock"
    >>> held = hold(path, "dense")
    >>> hold(path, "dense")
    Traceback (most recent call last):
    ...
    stream.disk.HeldError: dense (process ...)
    >>> held.close()
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise HeldError(holder or "a process that has just started") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{name} (process {os.getpid()})\n".encode(), 0)
    return Held(descriptor)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or deleted in a folder survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
