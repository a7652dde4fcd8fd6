# SPDX-License-Identifier: Apache-2.0
"""Read secrets from the environment, a file, a keyring or a command, so that no file of settings has one."""

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from arx_verifier.errors import SettingsError
from arx_verifier.revocation import FILE_SUFFIX, read_secret_file

COMMAND_S: Final = 15.0  # the longest time for a command that writes a secret
MAX_BYTES: Final = 4096  # of its output
COMMAND: Final = "command:"


class Secret(str):
    """A secret text.  Its ``repr`` does not show it, and so none of what holds it does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


def read_secret(source: str, folder: Path, place: str = "") -> Secret:
    """Return a secret.

    Args:
        source: ``env:NAME``, ``file:PATH``, ``keyring:SERVICE/USER`` or ``command:PROGRAM ARGUMENT…``.
        folder: What a relative path is relative to.
        place: Of the secret in the file of settings, before each error.

    Raises:
        SettingsError: There is none, or others may read its file.
    """
    kind, _, name = source.partition(":")
    source = source if kind != "command" else kind  # its words may hold a secret
    try:
        if kind == "env":
            value, hint = os.environ.get(name, ""), f"set {name} where the program starts"
        elif kind == "keyring":
            value, hint = _of_keyring(name), "store it with `keyring set SERVICE USER`, as the program's user"
        elif kind == "command":
            value, hint = run_for_secret(name), "have the command write it to its standard output"
        else:
            value, hint = read_secret_file(folder / name), "write it into the file"
    except SettingsError as error:
        raise SettingsError(f"{place}{source}: {error}") from None
    if not value:
        raise SettingsError(f"{place}{source}: expected a secret, got none; {hint}")
    if not value.isprintable() or not value.isascii():
        raise SettingsError(f"{place}{source}: expected a secret of one line of ASCII, got another")
    return Secret(value)


def run_for_secret(command: str) -> str:
    """Run a command, and return the line that it writes, without the white space around it.

    Args:
        command: Program and arguments, quoted as in a shell; no shell runs it unless it is one.

    Raises:
        SettingsError: It cannot be run, fails, takes longer than ``COMMAND_S``, or writes more than ``MAX_BYTES``.
    """
    # No error has a word of the command but the program, or a byte of its output: both may hold a secret.
    try:
        words = shlex.split(command)
    except ValueError:
        raise SettingsError("expected a command with closed quotes, got another") from None
    if not words:
        raise SettingsError("expected a command, got none")
    program = words[0]
    try:
        # Its own session: a time-out also ends what the command started.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise SettingsError(f"{program} cannot be run: {error.strerror}") from None
    with process:
        raw = _read_within(process, time.monotonic() + COMMAND_S)
        ended = raw is not None and len(raw) <= MAX_BYTES
        if not ended:
            _end(process)
    if raw is None:
        raise SettingsError(f"{program} did not end within {COMMAND_S:g} s: run it by hand, as the program's user")
    if not ended:
        raise SettingsError(f"{program}: expected at most {MAX_BYTES} bytes of output, got more")
    if process.returncode:
        raise SettingsError(f"{program} ended with status {process.returncode}: run it by hand, as the program's user")
    return raw.decode("utf-8", "replace").strip()


def _read_within(process: subprocess.Popen[bytes], until: float) -> bytes | None:
    """Return the first bytes of a process's output, one more than allowed at most; None if it does not end in time."""
    assert process.stdout is not None
    raw, descriptor = b"", process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(raw) <= MAX_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            piece = os.read(descriptor, MAX_BYTES + 1 - len(raw))
            if not piece:
                break
            raw += piece
        else:
            return raw
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    return raw


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that has not ended, with what it started where the system has groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _of_keyring(place: str) -> str:
    try:
        import keyring  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SettingsError("expected the package keyring; run `pip install keyring`") from None
    service, _, user = place.rpartition("/")
    try:
        return str(keyring.get_password(service, user) or "")
    except Exception as error:  # of any backend: its text may be about the secret
        raise SettingsError(f"the keyring failed: {type(error).__name__}") from None


def find_secret(variable: str, file: str | None = None) -> Secret | None:
    """Return the secret of a variable, or that of a file or command; None without any.

    Args:
        variable: The variable that may hold it; its ``_FILE`` names a file, or a command after ``command:``.
        file: The file, or ``command:`` and the command; it goes before the variables.

    Raises:
        SettingsError: Both variables are set, or the file or the command does not give the secret.
    """
    named, held = os.environ.get(variable + FILE_SUFFIX), os.environ.get(variable)
    if file is None and named and held:
        raise SettingsError(f"expected one of {variable} and {variable}{FILE_SUFFIX}, got both: unset the first")
    source = file or named
    if not source:
        return None if held is None else Secret(held)
    place = "" if file else f"{variable}{FILE_SUFFIX}: "
    if source.startswith(COMMAND):
        try:
            value = run_for_secret(source.removeprefix(COMMAND))
        except SettingsError as error:
            raise SettingsError(f"{place}{error}") from None
        if not value or not value.isprintable():
            raise SettingsError(f"{place}expected a secret of one line from the command, got another output")
        return Secret(value)
    try:
        return Secret(read_secret_file(Path(source)))
    except SettingsError as error:
        raise SettingsError(f"{place}{error}") from None
