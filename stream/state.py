"""What outlives a process: locks, files that are written whole or not at all, checkpoints."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["Checkpoint", "Checkpoints", "Content", "FileLock", "FileLockedError"]
__all__ += ["StateFormatError", "StateLockedError", "dump_checked", "hold", "lock_folder"]
__all__ += ["read_checked", "sync", "write_atomic", "write_folder_atomic"]

log = logging.getLogger(__name__)

_RELEASE = version("resprout")

Content = Sequence[bytes | memoryview]
"""The content of a file in parts, so that large ones need not be joined."""
_DRAFT = ".draft-"
_MANIFEST = "manifest.json"
_MANIFEST_FORMAT = 1


class FileLockedError(Exception):
    """Another holder has the lock; the message names it and its process."""


class FileLock:
    """A lock that is held until it is closed, dropped, or its process dies.

    Parameters
    ----------
    descriptor
        The open file that has the lock; use :func:`hold`.
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


def hold(path: Path, name: str) -> FileLock:
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
    stream.state.FileLockedError: dense (process ...)
    >>> held.close()
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise FileLockedError(holder or "a process that has just started") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{name} (process {os.getpid()})\n".encode(), 0)
    return FileLock(descriptor)


def sync(path: Path) -> None:
    """Make a file, or what was created, renamed or deleted in a folder, survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StateLockedError(Exception):
    """Another worker of the same name uses the state folder."""


def lock_folder(path: Path, name: str | None = None) -> FileLock:
    """Make a state folder if need be, and take it for one worker until the lock is closed.

    Parameters
    ----------
    path
        The folder; its file ``lock`` names the holder.
    name
        How the holder is called in the message that a second one gets; by default the folder's
        own name.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "dense"
    >>> held = lock_folder(path)
    >>> lock_folder(path)
    Traceback (most recent call last):
    ...
    stream.state.StateLockedError: state folder ... is in use by dense (process ...); stop it, ...
    >>> held.close()
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        return hold(path / "lock", name or path.name)
    except FileLockedError as held:
        raise StateLockedError(
            f"state folder {path} is in use by {held}; stop it, or choose another folder"
        ) from None


def write_atomic(path: Path, content: bytes) -> None:
    """Write one file: a crash leaves the old content or the new.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "head"
    >>> write_atomic(path, b"1")
    >>> path.read_bytes()
    b'1'
    """
    draft = path.with_name(f"{_DRAFT}{path.name}")
    _write_synced(draft, [content])
    draft.replace(path)
    sync(path.parent)


class StateFormatError(ValueError):
    """A file was written by a release with another format."""


def dump_checked(number: int, content: Mapping[str, Any]) -> bytes:
    """Write JSON with the number of its format, the release that writes it and a checksum.

    >>> content = dump_checked(1, {"seed": 4})
    >>> sorted(json.loads(content))
    ['format', 'release', 'seed', 'sha256']
    """
    # As JSON knows it: there all keys are texts.
    known = json.loads(json.dumps({"format": number, "release": _RELEASE, **content}))
    return json.dumps({**known, "sha256": _checksum(known)}, indent=1).encode()


def read_checked(
    path: Path, number: int, way_out: str, earlier: Collection[str] = ()
) -> dict[str, Any]:
    """Read what :func:`dump_checked` wrote.

    Parameters
    ----------
    path
        The file.
    number
        The format that this release reads.
    way_out
        What to do about a file that cannot be read, for the message.
    earlier
        The keys of a file from before there were formats, which is taken as it is; empty: it is
        refused.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    StateFormatError
        It has another format.
    ValueError
        It is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {way_out}") from error
    if isinstance(found, dict) and earlier and found.keys() == set(earlier):
        return found
    if not isinstance(found, dict) or not {"format", "release", "sha256"} <= found.keys():
        raise ValueError(f"{path} is damaged (it lacks its format or checksum); {way_out}")
    if found.pop("sha256") != _checksum(found):
        raise ValueError(f"{path} is damaged (it does not match its checksum); {way_out}")
    if found["format"] != number:
        raise StateFormatError(
            f"{path} is of format {found['format']}, written by Resprout {found['release']}; this "
            f"release reads format {number}: use the release that wrote it, or {way_out}"
        )
    return {name: value for name, value in found.items() if name not in ("format", "release")}


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_folder_atomic(path: Path, files: Mapping[str, Content]) -> None:
    """Write a folder of files: a crash leaves no folder or a whole one.

    A folder that already holds exactly these files is left alone. One that holds something else
    is replaced; only then is there a moment without it.

    Parameters
    ----------
    path
        The folder; its parent is made if need be. One writer a folder.
    files
        File names and contents.
    """
    for name in files:
        if "/" in name or name.startswith("."):
            raise ValueError(f"part {name!r} of {path}: use a plain file name")
    is_there = path.is_dir() and {file.name for file in path.iterdir()} == set(files)
    if is_there and all((path / one).read_bytes() == b"".join(files[one]) for one in files):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_DRAFT}{path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    for name, content in files.items():
        _write_synced(draft / name, content)
    sync(draft)
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)
    sync(path.parent)


def _write_synced(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a worker wrote about itself after ``count`` events."""

    count: int
    parts: dict[str, bytes] = field(repr=False)
    path: Path


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The last few checkpoints of one worker, each a folder ``<count>-<hash>``.

    Parameters
    ----------
    folder
        Holds checkpoints and nothing else; made when the first is written.
    keep
        How many are kept.

    Examples
    --------
    >>> import tempfile
    >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()))
    >>> checkpoints.latest() is None
    True
    >>> _ = checkpoints.write(500, {"cursor.json": b"{}"})
    >>> checkpoints.latest().count, checkpoints.latest().parts
    (500, {'cursor.json': b'{}'})
    """

    folder: Path
    keep: int = 3

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}; at least 1 checkpoint must be kept")

    def write(self, count: int, parts: Mapping[str, bytes]) -> Path:
        """Write a checkpoint and delete the oldest ones; return its folder.

        It takes the place of another one of the same count.
        """
        if _MANIFEST in parts:
            raise ValueError(f"part {_MANIFEST!r} is the checkpoint's own; use another name")
        digests = {name: hashlib.sha256(parts[name]).hexdigest() for name in sorted(parts)}
        about = {"format": _MANIFEST_FORMAT, "release": _RELEASE, "count": count}
        manifest = json.dumps({**about, "sha256": digests}, indent=1).encode()
        path = self.folder / f"{count:015d}-{hashlib.sha256(manifest).hexdigest()[:12]}"
        files = {name: [content] for name, content in parts.items()}
        write_folder_atomic(path, {**files, _MANIFEST: [manifest]})
        # Drafts that a crash left go, and one of the same or a higher count, too: it was damaged,
        # or it would have been resumed from.
        older = [one for one in self.paths() if one.name[:15] < path.name[:15]]
        kept = {path, *older[::-1][: self.keep - 1]}
        for one in [*self.folder.glob(f"{_DRAFT}*"), *self.paths()]:
            if one not in kept:
                shutil.rmtree(one)
        return path

    def latest(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are passed over with a warning.

        One of another format is not damaged: it raises :class:`StateFormatError`.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return self.read(path)
            except StateFormatError:
                raise
            except (ValueError, OSError) as error:
                log.warning("checkpoint %s is damaged, falling back: %s", path, error)
        if paths:
            log.warning("no checkpoint in %s is whole: beginning anew", self.folder)
        return None

    def paths(self) -> list[Path]:
        """Return the folders of all checkpoints, whole or not, oldest first."""
        return sorted(p for p in self.folder.glob("*-*") if not p.name.startswith("."))

    def read(self, path: Path) -> Checkpoint:
        """Read one checkpoint; ValueError or OSError where anything of it is missing or altered."""
        manifest = (path / _MANIFEST).read_bytes()
        if not path.name.endswith(hashlib.sha256(manifest).hexdigest()[:12]):
            raise ValueError(f"{_MANIFEST} does not match the folder's name")
        listed = json.loads(manifest)
        if listed.get("format") != _MANIFEST_FORMAT:
            raise StateFormatError(
                f"checkpoint {path} is of format {listed.get('format')}, written by Resprout "
                f"{listed.get('release', 'of an earlier release')}; this release reads format "
                f"{_MANIFEST_FORMAT}: use the release that wrote it, or begin with a new state "
                "folder"
            )
        parts = {name: (path / name).read_bytes() for name in listed["sha256"]}
        for name, digest in listed["sha256"].items():
            if hashlib.sha256(parts[name]).hexdigest() != digest:
                raise ValueError(f"part {name!r} does not match its SHA-256")
        return Checkpoint(listed["count"], parts, path)
