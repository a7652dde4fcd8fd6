# SPDX-License-Identifier: Apache-2.0
"""What systems other than POSIX lack: forks, file locks, flags and the modes of files."""

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from arx_verifier.errors import SettingsError

O_CLOEXEC: Final[int] = getattr(os, "O_CLOEXEC", 0)  # Windows lets no child have a descriptor
HAS_MODES: Final = hasattr(os, "geteuid")
HAS_READERS: Final = sys.platform != "win32"  # there an event loop waits for no socket that it has not made
_T = TypeVar("_T")


def at_fork(**hooks: Callable[..., Any]) -> None:
    """Register functions as ``os.register_at_fork`` does, where processes fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**hooks)


def reset_at_fork(reset: Callable[[_T], object]) -> "weakref.WeakSet[_T]":
    """Return a set whose objects are reset in each forked child.

    Args:
        reset: A method of the objects.
    """
    objects = weakref.WeakSet[_T]()

    def reset_all() -> None:
        for each in tuple(objects):
            reset(each)

    at_fork(after_in_child=reset_all)
    return objects


def is_open_to_others(mode: int) -> bool:
    """Return whether the mode of a file lets other users open it; on Windows a mode does not show that: False."""
    return HAS_MODES and mode & 0o077 != 0


def posix_alone(part: str) -> str:
    """Return the error that a part of ARx needs a POSIX system."""
    return f"{part} needs a POSIX system: expected Linux or macOS, got {sys.platform}"


def require_posix(part: str) -> None:
    """Raise where file locks of POSIX are missing.

    Args:
        part: What needs them.

    Raises:
        SettingsError: This is Windows.
    """
    if not HAS_MODES:
        raise SettingsError(posix_alone(part))
