# SPDX-License-Identifier: Apache-2.0
"""Which isolation a program gets: each one is tried with a real process before it is taken."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from arx_caps.isolation.program import Program
from arx_caps.isolation.start import (
    Isolation,
    IsolationError,
    bubblewrap_start,
    none_start,
    systemd_start,
    user_start,
)
from arx_verifier.errors import SettingsError

_MAKERS: Final[dict[str, Callable[[Program], Isolation]]] = {
    "bubblewrap": bubblewrap_start,
    "systemd": systemd_start,
    "user": user_start,
}
KINDS: Final = ("auto", *_MAKERS, "none")
HINT: Final = 'run `apt install bubblewrap`, or set isolation = "user" and user = "NAME", or isolation = "none"'
_NO_NAMESPACES: Final = HINT.replace("run `apt install bubblewrap`", "allow user namespaces on this machine")
_TRIAL_S: Final = 30.0
# Ends with 7 and names the first file that it can read, after one line of its own.
_TRIAL: Final = 'echo runs; for file; do if (: < "$file") 2>/dev/null; then echo "$file"; exit 7; fi; done'
_OWN_PIDS: Final = 8  # processes of a new namespace have these ids, as the starter may have in a container


def isolate(program: Program, kind: str) -> Isolation:
    """Return how to start a program so that it reaches nothing of its starter.

    Args:
        program: The program.
        kind: One of ``KINDS``.

    Raises:
        SettingsError: The isolation does not work on this machine, or the program's table is wrong.
    """
    program.executable  # noqa: B018  raises if there is none
    if kind == "none":
        return none_start(program)
    program = program.resolved()
    if kind != "user":
        program.check()
    reasons = []
    for name, make in _MAKERS.items():
        if kind not in ("auto", name):
            continue
        try:
            return tried(make(program))
        except IsolationError as error:
            reasons.append(f"{name}: {error}")
    text = f'{program.name}: isolation = "{kind}" does not work here ({"; ".join(reasons)})'
    raise SettingsError(f"{text}; {HINT if shutil.which('bwrap') is None else _NO_NAMESPACES}")


@functools.cache
def kind_that_works() -> str | None:
    """Return the isolation that ``auto`` gives to a program of the system on this machine; None if it finds none."""
    with tempfile.TemporaryDirectory(prefix="arx-isolation-") as folder:
        program = Program(name="isolation", command=("/bin/sh",), environment={}, home=Path(folder))
        try:
            isolation = isolate(program, "auto")
        except SettingsError:
            return None
        isolation.close()
        return isolation.kind


def tried(isolation: Isolation) -> Isolation:
    """Return an isolation that has started a process which could read nothing of what is protected.

    Args:
        isolation: The isolation.

    Raises:
        IsolationError: It could not start, or could read a file.
    """
    own = f"/proc/{os.getpid()}/environ"
    secrets = [*_secrets(isolation.program), *([own] if os.getpid() > _OWN_PIDS else [])]
    start = isolation.start_of(("/bin/sh", "-c", _TRIAL, "sh", *secrets))
    try:
        done = subprocess.run(
            start.command,
            env=dict(isolation.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        isolation.close()
        raise IsolationError(str(error)) from None
    lines = done.stdout.decode(errors="replace").splitlines()
    if lines[:1] == ["runs"] and done.returncode == 0:
        return isolation
    isolation.close()
    if lines[:1] == ["runs"]:
        raise IsolationError(f"the program could read {lines[-1]}: run `chmod go-rwx {lines[-1]}`")
    why = " ".join(done.stderr.decode(errors="replace").split())
    raise IsolationError("".join(c for c in why[:300] if c.isprintable()) or f"exit code {done.returncode}")


def _secrets(program: Program) -> Iterator[str]:
    """Yield what is protected, and for a folder what is in it, but for the way to the program's own paths."""
    own = [path for path, _ in program.own_paths()]
    for path in program.protected:
        with contextlib.suppress(OSError):
            inner = [*path.iterdir()] if path.is_dir() else [path]
            yield from (str(each) for each in inner if not any(one.is_relative_to(each) for one in own))
