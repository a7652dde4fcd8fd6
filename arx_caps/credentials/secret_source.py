# SPDX-License-Identifier: Apache-2.0
"""Read secrets from the environment, a file, a keyring or a command, so that no file of settings has one."""

import os
import selectors
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import msgspec

from arx_verifier._platform import require_posix
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.password import FILE_SUFFIX, MAX_BYTES, one_line, read_secret_file

COMMAND_S: Final = 15.0  # the longest time for a command that writes a secret
COMMAND: Final = "command:"


class Secret(str):
    """A secret text.  Its ``repr`` does not show it, and so none of what holds it does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class SecretStruct(msgspec.Struct, frozen=True):
    """A struct with a secret, which neither a log nor a traceback may show."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def read_secret(source: str, folder: Path, place: str = "") -> Secret:
    """Return a secret.

    Args:
        source: ``env:NAME``, ``file:PATH`` or ``keyring:SERVICE/USER``.
        folder: What a relative path is relative to.
        place: Of the secret in the file of settings, before each error.

    Raises:
        SettingsError: There is none, or others may read its file.
    """
    kind, _, name = source.partition(":")
    try:
        if kind == "env":
            value, hint = os.environ.get(name, ""), f"set {name} where the program starts"
        elif kind == "keyring":
            value, hint = _of_keyring(name), "store it with `keyring set SERVICE USER`, as the program's user"
        else:
            value, hint = read_secret_file(folder / name), "write it into the file"
    except SettingsError as error:
        raise SettingsError(f"{place}{source}: {error}") from None
    if not value:
        raise SettingsError(f"{place}{source}: expected a secret, got none; {hint}")
    if not value.isprintable() or not value.isascii():
        raise SettingsError(f"{place}{source}: expected a secret of one line of ASCII, got another")
    return Secret(value)


def run_for_secret(source: str) -> str:
    """Run a command, and return the line that it writes, without the white space around it.

    Args:
        source: ``command:PROGRAM ARGUMENT…``, quoted as in a shell; no shell runs it unless it is one.

    Raises:
        SettingsError: It cannot be run, fails, takes longer than ``COMMAND_S``, or writes more than ``MAX_BYTES``, no
            line or several.
    """
    # No error has a word of the command but the program, or a byte of its output: both may hold a secret.
    require_posix("a command that writes a secret")
    try:
        program, *arguments = shlex.split(source.removeprefix(COMMAND))
    except ValueError:
        raise SettingsError("expected command:PROGRAM ARGUMENT… with closed quotes, got another") from None
    by_hand = "run it by hand, as the program's user"
    try:
        # A session of its own: a time-out also ends what the command started.
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise SettingsError(f"{program} cannot be run: {getattr(error, 'strerror', 'invalid words')}") from None
    with process:
        try:
            raw = _read_within(process, time.monotonic() + COMMAND_S)
        except subprocess.TimeoutExpired:
            raise SettingsError(f"{program} did not end within {COMMAND_S:g} s: {by_hand}") from None
        finally:
            if process.returncode is None:  # also after Ctrl-C, which does not reach its session
                os.killpg(process.pid, signal.SIGKILL)
    if len(raw) > MAX_BYTES:
        raise SettingsError(f"{program}: expected at most {MAX_BYTES} bytes of output, got more")
    if process.returncode:
        raise SettingsError(f"{program} ended with status {process.returncode}: {by_hand}")
    return one_line(raw, program)


def _read_within(process: subprocess.Popen[bytes], until: float) -> bytes:
    """Return the output of a process that ends in time, or its first bytes, one more than is allowed.

    Raises:
        TimeoutExpired: It does not end in time.
    """
    assert process.stdout is not None
    raw, descriptor = b"", process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(raw) <= MAX_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise subprocess.TimeoutExpired(process.args, COMMAND_S)
            piece = os.read(descriptor, MAX_BYTES + 1 - len(raw))
            if not piece:
                process.wait(max(0.0, until - time.monotonic()))
                break
            raw += piece
    return raw


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


def find_secret(variable: str) -> Secret | None:
    """Return the secret of a variable, or of the file or command that its ``_FILE`` names; None without either.

    Args:
        variable: The variable's name, such as ``ARX_ROOT_PASSPHRASE`` with ``ARX_ROOT_PASSPHRASE_FILE``.

    Raises:
        SettingsError: Both variables are set, or the file or the command does not give the secret.
    """
    held, source = os.environ.get(variable), os.environ.get(variable + FILE_SUFFIX)
    if not source:
        return None if held is None else Secret(held)
    if held:
        raise SettingsError(f"expected one of {variable} and {variable}{FILE_SUFFIX}, got both: unset the first")
    try:
        return Secret(run_for_secret(source) if source.startswith(COMMAND) else read_secret_file(Path(source)))
    except SettingsError as error:
        raise SettingsError(f"{variable}{FILE_SUFFIX}: {error}") from None


def is_set(variable: str) -> bool:
    """Return whether ``find_secret`` has a place to look at; nothing is read or run."""
    return bool(os.environ.get(variable) or os.environ.get(variable + FILE_SUFFIX))
