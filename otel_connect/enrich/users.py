"""The names of users, each from the user database of the process that has the number.

Processes with the agent's own root directory have its database, whatever that takes (files, LDAP, systemd). Of any
other process only ``/etc/passwd`` is read, as that process finds it, and its numbers are those of its user namespace
(docs/decisions/0055-whose-user-database.md). A process that ended before that could be read has no owner.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cachetools import TTLCache

from otel_connect.enrich.rooted import Identity

PASSWD, SWITCH = "/etc/passwd", "/etc/nsswitch.conf"
_MOST_NAME = 256
_REMEMBERED, _REMEMBERED_S = 1024, 60


class Owner(NamedTuple):
    """Whose a process is, and what tells which user database knows the name."""

    uid: int
    """As the initial user namespace has it."""
    pid: int
    process_start_boot_ns: int
    root_mount: int | None
    """As in ``Told``."""


class Init(NamedTuple):
    """The first process of the host: what has its root directory is read there also when its own process has gone."""

    root_mount: int
    pid: int
    process_start_boot_ns: int


class Sources(NamedTuple):
    """Who is asked. Processes are given by pid and start time, to which ``None`` is the answer when they are gone."""

    passwd: Callable[[int, int], tuple[Identity, Mapping[int, str]] | None]
    """The file of users of a process: ``RootedFiles.find`` with ``parse_passwd``."""
    switch: Callable[[int, int], tuple[Identity, object] | None]
    """What says which databases a process has; only which file it is matters: ``RootedFiles.find``."""
    inside: Callable[[int, int, int], int | None]
    """The number of a user inside the user namespace of a process: ``procfs.user_inside``."""
    own: Callable[[str], Identity | None]
    """Which file the agent itself has by a path: ``rooted.identity``."""


class Databases:
    """Looks into the user database of a process, as far as it is a file: what a reader does for ``Users``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def look(self, pid: int, start_boot_ns: int, uid: int) -> tuple[bool, str | None]:
        """Return whether the agent's own database has the name, else the name, ``None`` where there is none."""
        passwd = self._sources.passwd(pid, start_boot_ns)
        if passwd is None:
            return False, None
        which, names = passwd
        if which != self._sources.own(PASSWD):
            inside = self._sources.inside(pid, start_boot_ns, uid)
            return False, None if inside is None else names.get(inside)
        # The agent's own file: its numbers are those of the host, whatever user namespace the process is in.
        switch = self._sources.switch(pid, start_boot_ns)
        if switch is not None and switch[0] == self._sources.own(SWITCH):
            return True, None
        return False, names.get(uid)


class Users:
    """Names owners; remembers a bounded number of names from the databases that stay."""

    def __init__(
        self,
        here: Callable[[int], str | None],
        elsewhere: Callable[[int, int, int], tuple[bool, str | None]],
        own_root: int | None,
        init: Init | None,
    ) -> None:
        """Prepare to ask.

        ``here`` gives the name of a user of the agent's own root directory (``procfs.user_name``), ``elsewhere`` is
        ``Databases.look``, ``own_root`` the mount that the agent has for its root directory, like ``Told.root_mount``.
        """
        self._here = here
        self._elsewhere = elsewhere
        self._own_root = own_root
        self._init = init
        self._lasting = {own_root, None if init is None else init.root_mount} - {None}
        self._names: TTLCache[tuple[int | None, int], str | None] = TTLCache(_REMEMBERED, _REMEMBERED_S)

    def name(self, owner: Owner) -> str | None:
        """Return the name of an owner, ``None`` where its database has none or cannot be read."""
        if owner.root_mount not in self._lasting:
            return self._look(owner)
        key = owner.root_mount, owner.uid
        if key not in self._names:
            self._names[key] = self._look(owner)
        return self._names.get(key)

    def _look(self, owner: Owner) -> str | None:
        uid, pid, start, root = owner
        if root is not None and root == self._own_root:
            return self._here(uid)
        if self._init is not None and root == self._init.root_mount:
            pid, start = self._init.pid, self._init.process_start_boot_ns
        own, name = self._elsewhere(pid, start, uid)
        return self._here(uid) if own else name


def parse_passwd(content: bytes) -> dict[int, str]:
    """Read number → name, of the first line that has the number; lines of another form are left out."""
    table: dict[int, str] = {}
    for line in content.splitlines():
        name, _, *fields = [*line.split(b":", 3), b"", b""]
        if name and len(name) <= _MOST_NAME and name[:1] not in b"#+-" and fields[0].isdigit() and len(fields[0]) <= 10:
            shown = name.decode("utf-8", "backslashreplace")
            if shown.isprintable():
                table.setdefault(int(fields[0]), shown)
    return table
