# SPDX-License-Identifier: Apache-2.0
"""The command that starts an isolated program, by each kind of isolation."""

import functools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import arx_caps.isolation.launcher as launcher
from arx_caps.isolation.program import ETC, PRIVATE, SYSTEM, Program, is_within

_SYSTEMD_PATH: Final = re.compile(r"[A-Za-z0-9/._+@,-]+")  # without what systemd quotes or expands
_KERNEL_FILES: Final = tuple(f"/proc/{name}" for name in ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger"))
_UNIT: Final = re.compile(r"[^a-z0-9-]+")
# https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html
_SYSTEMD: Final = [
    "AmbientCapabilities=",
    "CapabilityBoundingSet=",
    "KeyringMode=private",
    "LimitCORE=0",
    "LockPersonality=yes",
    "MountAPIVFS=yes",
    "NoNewPrivileges=yes",
    "PrivateDevices=yes",
    "PrivateIPC=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "TemporaryFileSystem=/:ro /tmp:mode=1777 /var/tmp:mode=1777",
    "InaccessiblePaths=-/sys/kernel -/sys/firmware -/sys/fs/bpf",
]


class IsolationError(Exception):
    """An isolation that does not work on this machine; its text says why."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a program.

    Attributes:
        command: Starts it.
        end: Ends it, where the end of ``command`` and its process group does not; empty otherwise.
    """

    command: tuple[str, ...]
    end: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """How a program is started.

    Attributes:
        kind: ``user``, ``bubblewrap``, ``systemd`` or ``none``.
        program: The program.
        environment: Of each start.
        file: The descriptor of a file in memory with the environment, which systemd reads; None for other kinds.
    """

    kind: str
    program: Program
    environment: Mapping[str, str] = field(repr=False)
    file: int | None = None

    def start(self) -> Start:
        """Return the command of one start, which no shell reads.

        Start it in a thread that lives as long as the program: the kernel ends the program with that thread.

        Raises:
            SettingsError: The program's own folder cannot be made.
        """
        return self.start_of((str(self.program.executable), *self.program.command[1:]))

    def start_of(self, command: tuple[str, ...]) -> Start:
        """Return the command that starts another program in the same isolation.

        Args:
            command: An absolute path, and arguments.
        """
        if self.kind == "none":
            return Start(command=(*self.program.command[:1], *command[1:]))
        if not self.program.user:
            self.program.make_home()
        self.program.check_links()
        if self.kind == "bubblewrap":
            terms = {"user": _user(self.program), "no_new_privs": False}  # bubblewrap sets it, after its own mounts
            return Start(command=_launched(terms, (*bubblewrap_command(self.program), "--", *command)))
        if self.kind == "user":
            return Start(command=_launched({"user": _user(self.program), "no_new_privs": True}, command))
        unit = f"arx-{_UNIT.sub('-', self.program.name)}-{secrets.token_hex(6)}.service"
        assert self.file is not None
        start = (*systemd_command(self.program, unit, f"/proc/{os.getpid()}/fd/{self.file}"), "--", *command)
        return Start(command=start, end=("systemctl", "kill", "--signal=SIGKILL", unit))

    def close(self) -> None:
        """Close the file of the environment."""
        if self.file is not None:
            os.close(self.file)


def _user(program: Program) -> dict[str, Any] | None:
    account = program.account
    if account is None:
        return None
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"uid": account.pw_uid, "gid": account.pw_gid, "groups": groups, "home": str(program.home)}


def _launched(terms: dict[str, Any], command: tuple[str, ...]) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), json.dumps(terms), *command)


def none_start(program: Program) -> Isolation:
    """Return a start without isolation, as the starter's own user.

    Args:
        program: The program.
    """
    return Isolation(kind="none", program=program, environment=program.variables())


def user_start(program: Program) -> Isolation:
    """Return a start as another user.

    Args:
        program: The program.

    Raises:
        SettingsError: There is no such user.
        IsolationError: No user is set, or only root can do it.
    """
    if not program.user:
        raise IsolationError("`user` is not set")
    _require_root("to become another user, the gateway must run as root")
    return Isolation(kind="user", program=program, environment=program.variables(isolated=True))


def bubblewrap_start(program: Program) -> Isolation:
    """Return a start in namespaces of its own, by bubblewrap.

    Args:
        program: The program.

    Raises:
        IsolationError: It is not installed.
    """
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        raise IsolationError("no program bwrap")
    if program.user:
        _require_root("to become another user, the gateway must run as root")
    return Isolation(kind="bubblewrap", program=program, environment=program.variables(isolated=True))


def systemd_start(program: Program) -> Isolation:
    """Return a start as a transient service of the system's systemd.

    Args:
        program: The program.

    Raises:
        IsolationError: systemd does not run this machine, or a path cannot be written in its settings.
    """
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemd-run") is None:
        raise IsolationError("systemd does not run this machine")
    _require_root("systemd starts services for root alone")
    for path in (*program.needed(), *(path for path, _ in program.own_paths()), *program.protected):
        if not _SYSTEMD_PATH.fullmatch(str(path)):
            raise IsolationError(f"expected paths of letters, digits and /._+@,- for systemd, got {path}")
    environment = program.variables(isolated=True)
    # A unit's own variables can be read by each user of the machine; what this file has is read by systemd alone.
    file = os.memfd_create("environment")
    os.write(file, "".join(f"{name}={_quoted(value)}\n" for name, value in environment.items()).encode())
    return Isolation(kind="systemd", program=program, environment={"PATH": environment["PATH"]}, file=file)


def _require_root(text: str) -> None:
    if os.geteuid() != 0:
        raise IsolationError(text)


def _quoted(value: str) -> str:
    return '"' + re.sub(r'(["\\$`])', r"\\\1", value) + '"'


def bubblewrap_command(program: Program) -> tuple[str, ...]:
    """Return bubblewrap and its options.

    Args:
        program: The program.
    """
    words = [str(shutil.which("bwrap"))]
    # With a user namespace for root too: the keyring of the user is another one there.
    words += ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if program.offline:
        words += ["--unshare-net", "--as-pid-1"]
    elif _disables_namespaces():
        words.append("--disable-userns")
    words += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev"]
    # The kernel lets root write these without any capability, and bubblewrap leaves some of them writable for root.
    # Where a file of /proc is covered, the kernel refuses a box in the box a /proc of its own.
    for text in _KERNEL_FILES if os.geteuid() == 0 or not program.offline else ():
        words += ["--ro-bind-try", text, text]
    for folder in PRIVATE:
        words += ["--perms", "0755" if folder == "/run" else "1777", "--tmpfs", folder]
    for text in SYSTEM:
        path = Path(text)
        words += ["--symlink", str(path.readlink()), text] if path.is_symlink() else ["--ro-bind-try", text, text]
    for text in ETC:
        words += ["--ro-bind-try", text, text]
    words += _binds(_mounts(program))
    covered = _covered(program)
    for path in covered:
        words += ["--tmpfs", str(path)] if path.is_dir() else ["--ro-bind", "/dev/null", str(path)]
    # The program's paths within a folder that is masked are mounted over it again.
    words += _binds(mount for mount in program.own_paths() if is_within(mount[0], covered))
    return (*words, "--chdir", str(program.folder or program.home), "--remount-ro", "/")


@functools.cache
def _disables_namespaces() -> bool:
    """Return whether this bubblewrap, of 0.8 or later, can forbid further user namespaces, as for a kernel's flaws."""
    done = subprocess.run([str(shutil.which("bwrap")), "--help"], capture_output=True, check=False, timeout=30)
    return b"--disable-userns" in done.stdout + done.stderr


def _mounts(program: Program) -> list[tuple[Path, bool]]:
    """Return the program's own files and paths, each with whether it may write there; outer ones first."""
    own, needed = program.own_paths(), program.needed()
    shown = [*needed, *(path for path, _ in own)]
    # What is within another one is there with it, and no mount can be made on a link.
    alone = [path for path in needed if not any(path != each and path.is_relative_to(each) for each in shown)]
    return sorted([*((path, False) for path in alone), *own], key=lambda mount: len(mount[0].parts))


def _covered(program: Program) -> list[Path]:
    """Return what is protected and within what the program may read."""
    shown: list[str | Path] = [*SYSTEM, *ETC, *(path for path, _ in _mounts(program))]
    return [path for path in program.protected if is_within(Path(os.path.realpath(path)), shown) and path.exists()]


def _binds(mounts: Iterable[tuple[Path, bool]]) -> Iterator[str]:
    for path, writable in mounts:
        yield from ("--bind" if writable else "--ro-bind", str(path), str(path))


def systemd_command(program: Program, unit: str, environment: str) -> tuple[str, ...]:
    """Return ``systemd-run`` and its options.

    Args:
        program: The program.
        unit: The name of the service.
        environment: A file with its environment.
    """
    words = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", f"--unit={unit}"]
    terms = [*_SYSTEMD, f"EnvironmentFile={environment}", f"WorkingDirectory={program.home}"]
    # Without a user of its own it could send signals to all processes of root.  PrivatePIDs needs systemd 257.
    terms.append(f"User={program.user}" if program.user else "PrivatePIDs=yes")
    for text in (*SYSTEM, *ETC):
        terms.append(f"BindReadOnlyPaths=-{text}")
    for path, writable in _mounts(program):
        terms.append(f"{'BindPaths' if writable else 'BindReadOnlyPaths'}={path}")
    for path in _covered(program):
        terms.append(f"InaccessiblePaths=-{path}")
    if (own := _own_unit()) is not None:  # the service ends with that of its starter
        terms += [f"BindsTo={own}", f"After={own}"]
    for term in terms:
        words += ["-p", term]
    return tuple(words)


def _own_unit() -> str | None:
    """Return the service of systemd that this process belongs to."""
    last = Path("/proc/self/cgroup").read_text().strip().rpartition("/")[2]
    return last if last.endswith(".service") else None
