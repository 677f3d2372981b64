"""The directory of the spool: private, owned by us, locked for one process, and looked at again.

Nothing in it is followed if it is a symbolic link, and nothing is used that somebody else owns: whoever
can write here can make the agent send, delete or overwrite.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from otel_connect.errors import SpoolInUseError
from otel_connect.export.descriptors import OwnDescriptor, identity
from otel_connect.export.forks import GATE
from otel_connect.export.store import StoreError

LOCK = "spool.lock"
LEAVE_FREE = 0.05
"""The share of a file system that is left to others."""

_NOTE_BYTES = 256
_OF_A_VOLUME = {"lost+found"}
_CREATE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """A directory that this process holds until ``close``.

    Made, with its parents, if it is absent. Raises SpoolInUseError when another process holds it, and
    StoreError when it cannot be used, or must not be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closed = False
        try:
            with GATE.passage():
                self._place = OwnDescriptor(open_private(path))
                try:
                    self._lock = OwnDescriptor(self._take_lock())
                except BaseException:
                    self._place.close()
                    raise
        except OSError as error:
            raise StoreError(f"{path}: cannot be used ({error.strerror})") from error
        self._identity = identity(os.fstat(self._place.number))

    def create(self, name: str) -> None:
        """Make sure that a file exists, is a plain one of ours and private; raises StoreError."""
        try:
            descriptor = os.open(name, _CREATE | os.O_NONBLOCK, 0o600, dir_fd=self._place.number)
            try:
                self._check_file(name, os.fstat(descriptor))
                os.fchmod(descriptor, 0o600)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"{self.path / name}: cannot be used ({error.strerror})") from error

    def check(self, name: str) -> None:
        """Refuse a file that is there and is not a plain one of ours; raises StoreError."""
        try:
            self._check_file(name, os.stat(name, dir_fd=self._place.number, follow_symlinks=False))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.path / name}: cannot be used ({error.strerror})") from error

    def replaced(self) -> bool:
        """Whether the path does not lead here any more."""
        try:
            return identity(self.path.lstat()) != self._identity
        except OSError:
            return True

    @property
    def held(self) -> bool:
        """Whether it was not closed."""
        return not self._closed

    @property
    def intact(self) -> bool:
        """Whether the application has left open what this holds, the lock above all."""
        return self._closed or (self._place.ours and self._lock.ours)

    def spare_bytes(self, leave: float) -> int:
        """Tell how much may be written if ``leave`` of the file system shall stay free; may be negative."""
        try:
            room = os.fstatvfs(self._place.number)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be used ({error.strerror})") from error
        return room.f_bavail * room.f_frsize - int(room.f_blocks * room.f_frsize * leave)

    def note(self, text: bytes) -> None:
        """Leave a short text in the lock file; it survives the process, and perhaps not the machine."""
        try:
            os.pwrite(self._lock.number, text.ljust(_NOTE_BYTES), 0)
        except OSError:
            return  # a second opinion only: what matters is in the database

    def noted(self) -> bytes:
        """Read the text; empty if there is none."""
        try:
            return os.pread(self._lock.number, _NOTE_BYTES, 0).rstrip()
        except OSError:
            return b""

    def sync(self) -> None:
        """Make names durable; raises StoreError."""
        try:
            os.fsync(self._place.number)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Let it go."""
        self._closed = True
        self._lock.close()
        self._place.close()

    def _take_lock(self) -> int:
        lock = os.open(LOCK, _CREATE, 0o600, dir_fd=self._place.number)
        try:
            self._check_file(LOCK, os.fstat(lock))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise _in_use(self.path) from None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _check_file(self, name: str, status: os.stat_result) -> None:
        _check_plain(self.path / name, status)


def examine(path: Path, names: Iterable[str]) -> None:
    """Look whether a ``Directory`` could be had here, with these files in it, and change nothing.

    Raises SpoolInUseError and StoreError as it does.
    """
    if not path.is_absolute():
        raise StoreError(f"{path}: is not an absolute path")
    try:
        if path.is_symlink():
            raise StoreError(f"{path}: is a symbolic link, which is not followed; name the directory itself")
        if not path.exists():
            _could_be_made(path)
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _must_be_closed(path, descriptor)
            for name in names:
                with suppress(FileNotFoundError):
                    _check_plain(path / name, os.stat(name, dir_fd=descriptor, follow_symlinks=False))
            _could_be_locked(path, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{path}: cannot be used ({error.strerror})") from error


def _could_be_made(path: Path) -> None:
    """Raise OSError as making it, and its parents, would."""
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        read_only = os.statvfs(above).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code))


def _could_be_locked(path: Path, descriptor: int) -> None:
    """Raise SpoolInUseError while another process has the lock, and StoreError when it is no file of ours."""
    try:
        lock = os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except FileNotFoundError:
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        return
    try:
        _check_plain(path / LOCK, os.fstat(lock))
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path) from None
    finally:
        os.close(lock)


def _check_plain(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: is not a plain file; remove it")
    if status.st_uid != os.geteuid() or status.st_nlink > 1:
        raise StoreError(f"{path}: belongs to somebody else as well; remove it")


def _in_use(path: Path) -> SpoolInUseError:
    problem = f"{path} is in use by another process; stop it, or name another directory"
    return SpoolInUseError([f"export.spool_directory: {problem}"])


def open_private(path: Path) -> int:
    """Open a directory, made if it is absent, for us alone; raises StoreError when it must not be used, or OSError."""
    if not path.is_absolute():
        raise StoreError(f"{path}: is not an absolute path")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if path.is_symlink():
            raise StoreError(f"{path}: is a symbolic link, which is not followed; name the directory itself") from None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _make_private(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_private(path: Path, descriptor: int) -> None:
    if _must_be_closed(path, descriptor):
        os.fchmod(descriptor, 0o700)


def _must_be_closed(path: Path, descriptor: int) -> bool:
    """Whether others may enter a directory of ours that is for the spool alone; raises StoreError if it is not."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise StoreError(f"{path}: belongs to user {status.st_uid}, not to {os.geteuid()}; change its owner")
    if stat.S_IMODE(status.st_mode) == 0o700:
        return False
    # Whoever names /, /tmp or /var/lib by mistake must not have it closed to everybody else.
    names = set(os.listdir(descriptor)) - _OF_A_VOLUME
    if names and LOCK not in names:
        raise StoreError(f"{path}: holds files of others and is not private; name a directory for the spool alone")
    return True
