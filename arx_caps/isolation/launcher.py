# SPDX-License-Identifier: Apache-2.0
"""Become another program without what a process inherits: open files, keyrings, core dumps, and perhaps the user.

``arx_caps.isolation`` starts this file with ``python -I -S``, so it imports the standard library alone.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
KEYCTL_JOIN_SESSION_KEYRING: Final = 1
# The number of keyctl(2); those of newer machines are one.
KEYCTL: Final = {"x86_64": 250, "i686": 288, "armv7l": 311, "ppc64le": 271, "s390x": 280}
NEWER_KEYCTL: Final = 219
MOST_FILES: Final = 65_536


def leave_keyring() -> None:
    """Join a new session keyring: the one before may have keys of the user."""
    number = KEYCTL.get(platform.machine(), NEWER_KEYCTL)
    ctypes.CDLL(None, use_errno=True).syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)  # fails without keyrings


def become(user: dict[str, Any]) -> None:
    """Become another user, for good.

    Args:
        user: ``uid``, ``gid``, ``groups`` and the working folder ``home``.
    """
    os.setgroups(user["groups"])
    os.setresgid(user["gid"], user["gid"], user["gid"])
    os.setresuid(user["uid"], user["uid"], user["uid"])
    try:
        os.chdir(user["home"])
    except OSError as error:
        sys.exit(f"the user cannot enter {user['home']}: {error.strerror}; set `home` to a folder of the user")


def main(parent: int, terms: dict[str, Any], command: list[str]) -> None:
    """Become ``command``.

    Args:
        parent: Process id of the starter; this process ends with it.
        terms: ``user``, as ``become`` takes it; ``no_new_privs``, whether a program with the setuid bit gets nothing.
        command: The program's absolute path and its arguments.
    """
    os.closerange(3, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    linux = sys.platform == "linux"
    if linux:
        leave_keyring()
    if terms["user"] is not None:
        become(terms["user"])
    if linux:
        libc = ctypes.CDLL(None, use_errno=True)
        if terms["no_new_privs"] and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            sys.exit("the kernel does not know no_new_privs")
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the user: that clears it
    if os.getppid() != parent:
        os._exit(1)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])
