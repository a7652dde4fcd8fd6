# SPDX-License-Identifier: Apache-2.0
"""A program that another process starts: what of the machine it may use, and which files it needs to run."""

import contextlib
import os
import pwd
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from arx_verifier.errors import SettingsError

# What every program may read.  Of /etc only what name resolution, TLS and the linker need: it has keys and passwords.
SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
ETC: Final = tuple(
    f"/etc/{name}"
    for name in [
        "alternatives",
        "ca-certificates",
        "crypto-policies",
        "fonts",
        "gai.conf",
        "group",
        "host.conf",
        "hosts",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "localtime",
        "mime.types",
        "nsswitch.conf",
        "passwd",
        "pki/ca-trust",
        "pki/tls/cert.pem",
        "pki/tls/certs",
        "pki/tls/openssl.cnf",
        "protocols",
        "resolv.conf",
        "services",
        "ssl/cert.pem",
        "ssl/certs",
        "ssl/openssl.cnf",
        "timezone",
    ]
)
PRIVATE: Final = ("/tmp", "/var/tmp", "/run", "/dev/shm")  # noqa: S108  the program gets empty ones
_INHERITED: Final = ("LANG", "LC_ALL", "PATH")  # of the environment, beside what `environment` has
_PERSONAL: Final = ("HOME", "LOGNAME", "TMPDIR", "USER")
_PROGRAM_FOLDERS: Final = ("bin", "sbin", ".bin", "shims")
_MOST_HOPS: Final = 32  # links and interpreters of one program
# pip writes this where the path of an interpreter is too long for a first line with #!
_LONG_SHEBANG: Final = re.compile(rb"#!/bin/sh\n'''exec' \"?([^\"\n]+?)\"? \"\$0\"")
_SHEBANG: Final = re.compile(rb"#![ \t]*(/[^ \t\n]+)(?:[ \t]+-S)?(?:[ \t]+([^ \t\n]+))?")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, and what it may use beside the network and the system's own programs and libraries.

    Attributes:
        name: Of its table, for errors, such as ``upstream.files``.
        command: The program and its arguments.
        environment: Its variables, beside PATH and the language.
        home: Its own folder: its home and, without ``folder``, its working folder; made when it is needed.
        folder: Its working folder, one of ``writes``.
        user: The user that it runs as; empty for the starter's.
        reads: Further files and folders that it may read.
        writes: Further files and folders that it may read and write.
        protected: Files and folders of the starter, which it must not reach.
        offline: Whether it has no network but a loopback of its own; its first process has the id 1, and it may make
            namespaces, for a box in the box.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    home: Path
    folder: Path | None = None
    user: str = ""
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    protected: tuple[Path, ...] = ()
    offline: bool = False

    @property
    def account(self) -> pwd.struct_passwd | None:
        """The account of ``user``; None if none is set.

        Raises:
            SettingsError: There is no such user, or it is root.
        """
        return account_of(self.name, self.user) if self.user else None

    @property
    def executable(self) -> Path:
        """The path of the program.

        Raises:
            SettingsError: There is none.
        """
        path = shutil.which(self.command[0], path=self.variables()["PATH"])
        if path is None:
            text = f"{self.name}: command: {self.command[0]}: expected a program, found none"
            raise SettingsError(f"{text}; install it, or give its path")
        return Path(os.path.abspath(path))  # noqa: PTH100  a link has its own place

    def variables(self, *, isolated: bool = False) -> dict[str, str]:
        """Return its environment.

        Args:
            isolated: Whether it has a home of its own, and runs as ``user``.
        """
        names = (*_INHERITED, *(() if isolated else _PERSONAL))
        found = {name: os.environ[name] for name in names if name in os.environ}
        found.setdefault("PATH", os.defpath)
        if isolated:
            found["HOME"] = str(self.home)
            with contextlib.suppress(KeyError):  # a container's user need not have an account
                own = self.account or pwd.getpwuid(os.geteuid())
                found |= {"USER": own.pw_name, "LOGNAME": own.pw_name}
        return found | dict(self.environment)

    def resolved(self) -> "Program":
        """Return the program with the paths that ``home``, ``reads`` and ``writes`` lead to."""
        return replace(
            self,
            home=_real(self.home),
            reads=tuple(map(_real, self.reads)),
            writes=tuple(map(_real, self.writes)),
            protected=tuple(map(_real, self.protected)),
        )

    def make_home(self) -> None:
        """Make the program's own folder, which a repository around it leaves out.

        Raises:
            SettingsError: It cannot be made.
        """
        try:
            if not self.home.is_dir():
                self.home.mkdir(0o700, parents=True)
                (self.home / ".gitignore").write_text("*\n")
        except OSError as error:
            raise SettingsError(
                f"{self.name}: home: cannot make {self.home}: {error.strerror}; set `home` to a folder that can be made"
            ) from None

    def needed(self) -> list[Path]:
        """Return the folders and files of the program itself, outside of those of the system.

        Each link to it and each of its interpreters is followed.  A folder of programs counts with what is beside it,
        as ``.venv`` does for ``.venv/bin/x``; of another place, the file counts alone.
        """
        # Where the program can write it could put a link to any other place, which the next start would follow.
        changeable = [self.home, *self.writes]
        paths = _hops(self.executable, self.variables()["PATH"], changeable)
        return list(dict.fromkeys(self._room_of(path) for path in paths if not is_within(path, SYSTEM)))

    def _room_of(self, path: Path) -> Path:
        kept = [*self.protected, *_homes(), *map(Path, (*PRIVATE, "/etc", "/var"))]
        inner = path.parent.name in _PROGRAM_FOLDERS
        for room in (path.parent.parent, path.parent) if inner else ():
            if not any(_real(each).is_relative_to(_real(room)) for each in kept):
                return room
        return path

    def check(self) -> None:
        """Check the paths of ``home``, ``reads`` and ``writes``, and those that the command names.

        Raises:
            SettingsError: One does not exist, or leads to what is protected, or another one could be exchanged for it.
        """
        folders = [self.home, *self.writes]
        for member, paths in (("home", (self.home,)), ("reads", self.reads), ("writes", self.writes)):
            for path in paths:
                if member != "home" and not path.exists():
                    raise SettingsError(f"{self.name}: {member}: expected a file or folder, found none at {path}")
                if (secret := self._protected_at(path, is_home=member == "home")) is not None:
                    raise SettingsError(
                        f"{self.name}: {member}: expected a path without files of ARx, got {path}, which would show "
                        f"{secret}; move what the program needs into a folder of its own"
                    )
                # The program could put a link to any other place there, which the next start would follow.
                outer = next((each for each in folders if each != path and _within(path, each)), None)
                if member == "reads" and outer is not None:
                    raise SettingsError(f"{self.name}: reads: {path} is within {outer}, which the program can change")
        for argument in self.command[1:]:
            self._check_argument(argument)

    def _protected_at(self, path: Path, *, is_home: bool) -> Path | None:
        """Return what is protected and at, within or around a path; a home may be within the starter's folder."""
        return next(
            (each for each in self.protected if _within(each, path) or (not is_home and _within(path, each))), None
        )

    def _check_argument(self, argument: str) -> None:
        text = argument if argument.startswith("/") else argument.partition("=")[2] or argument
        self._check_working_folder(text)
        path = Path(text)
        if not text.startswith("/") or not os.path.exists(text):  # noqa: PTH110  no error for what is no path
            return
        shown = [*self.needed(), self.home, *self.reads, *self.writes, *map(Path, (*SYSTEM, *ETC, "/dev", "/proc"))]
        if not any(_within(path, each) or _within(each, path) for each in shown):
            raise SettingsError(
                f"{self.name}: command: the isolated program cannot see {text}; "
                f'add reads = ["{text}"], or writes = ["{text}"] if it must change it'
            )

    def _check_working_folder(self, text: str) -> None:
        """Refuse the name of a file here that the program would look for in its own folder, and not find."""
        # A name alone may be a word: with a suffix or a folder it is meant as a file.
        if text.startswith("/") or (not Path(text).suffix and "/" not in text):
            return
        if os.path.isfile(text) and not os.path.exists(self.home / text):  # noqa: PTH110, PTH113  no error for no path
            whole = os.path.abspath(text)  # noqa: PTH100  a link has its own place
            raise SettingsError(
                f"{self.name}: command: expected a file of the program's working folder {self.home}, got {text}; "
                f'write "{whole}" in its place, and add reads = ["{whole}"]'
            )

    def check_links(self) -> None:
        """Check before a start that no path of ``resolved`` has become a link since.

        Raises:
            SettingsError: One has: another program that may write around it leads this one elsewhere.
        """
        for path, _ in self.own_paths():
            if _real(path) != path:
                raise SettingsError(f"{self.name}: {path} has become a link since the start; reload the gateway")

    def own_paths(self) -> list[tuple[Path, bool]]:
        """Return the paths of ``home``, ``reads`` and ``writes``, each with whether the program may write there."""
        folders = [self.home, *self.writes]
        # What is within another one is there with it.
        alone = [path for path in folders if not any(path != each and _within(path, each) for each in folders)]
        return [*((path, True) for path in dict.fromkeys(alone)), *((path, False) for path in self.reads)]


def account_of(name: str, user: str) -> pwd.struct_passwd:
    """Return the account of a user that programs run as.

    Args:
        name: The table's name, for errors.
        user: The user's name.

    Raises:
        SettingsError: There is no such user, or it is root.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise SettingsError(
            f"{name}: user: expected a user of this machine, got {user!r:.100}; "
            f"run `useradd --system --create-home NAME` and set its name"
        ) from None
    if account.pw_uid in (0, os.geteuid()):
        raise SettingsError(f"{name}: user: expected another user than root and that of ARx, got {user}")
    return account


def is_within(path: Path, folders: Iterable[str | Path]) -> bool:
    """Return whether a path is one of some folders or in one.

    Args:
        path: The path, absolute.
        folders: The folders.
    """
    return any(path.is_relative_to(folder) for folder in folders)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _within(path: Path, folder: Path) -> bool:
    return _real(path).is_relative_to(_real(folder))


def _homes() -> list[Path]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.home() raises if there is none
    return [home, home / ".local" / "share", home / ".config"]


def _hops(path: Path, search: str, changeable: list[Path]) -> Iterator[Path]:
    """Yield a program, each link to it, and the same of its interpreter; not what is in a folder that can change."""
    waiting = [path]
    for _ in range(_MOST_HOPS):
        if not waiting:
            return
        path = waiting.pop()
        if is_within(path, changeable) or is_within(_real(path.parent), changeable):
            continue
        yield path
        place = _real(path.parent) / path.name  # from which the kernel follows a link
        if place != path:
            waiting.append(place)
        elif path.is_symlink():
            waiting.append(Path(os.path.normpath(path.parent / path.readlink())))
        elif (interpreter := _interpreter(path, search)) is not None:
            waiting.append(interpreter)


def _interpreter(path: Path, search: str) -> Path | None:
    try:
        with path.open("rb") as file:
            begin = file.read(4096)
    except OSError:
        return None
    if (long := _LONG_SHEBANG.match(begin)) is not None:
        return Path(os.fsdecode(long[1]))
    if (form := _SHEBANG.match(begin)) is None:
        return None
    name = os.fsdecode(form[1])
    if name.rpartition("/")[2] == "env" and form[2]:
        found = shutil.which(os.fsdecode(form[2]), path=search)
        return Path(os.path.abspath(found)) if found else None  # noqa: PTH100
    return Path(name)
