# SPDX-License-Identifier: Apache-2.0
"""Read and write the files that hold secrets: bounded, private, never half written.

A secret comes from a file or from stdin (``-``), never from the command line, where every user of the machine could
read it.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from arx_caps.cli.exit_codes import Stop
from arx_caps.realm import PASSPHRASE_VARIABLE
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object
from arx_verifier.token import BUNDLE_PREFIX, TOKEN_PREFIX

MAX_FILE_BYTES: Final = 1024 * 1024  # a bundle of many tokens; nothing that ARx reads whole is larger


def read_text(path: str) -> str:
    """Read a small text file, or stdin for ``-``.

    Returns:
        Its text without the white space around it.

    Raises:
        Stop: It is missing, no file, too large, or not UTF-8.
    """
    raw = _read_stdin() if path == "-" else _read_file(Path(path))
    shown = "stdin" if path == "-" else path
    if len(raw) > MAX_FILE_BYTES:
        raise Stop(f"{shown}: more than {MAX_FILE_BYTES // 1024} KiB", code="file")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Stop(f"{shown}: not text", code="file") from None


def read_object(path: str) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        Stop: As ``read_text``, or it is something else.
    """
    try:
        return read_json_object(read_text(path).encode())
    except RequestError as error:
        shown = "stdin" if path == "-" else path
        raise Stop(f"{shown}: {error}", code="file") from None


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file that only this user can read, whole or not at all.

    Args:
        path: Where.
        text: What, a secret.
        replace: Whether an existing file may be replaced.

    Raises:
        Stop: It exists and may not be replaced, or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                beside.replace(path)
            else:
                os.link(beside, path)  # fails if it exists: a key is never overwritten
        finally:
            beside.unlink(missing_ok=True)
    except FileExistsError:
        raise Stop(f"{path}: exists already, and is not overwritten", code="file") from None
    except OSError as error:
        raise Stop(f"{path}: {error.strerror}", code="file") from error


def write_object(path: Path, value: dict[str, Any], *, replace: bool = True) -> None:
    """Write one JSON object to a private file; see ``write_private``."""
    text = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode()
    write_private(path, text + "\n", replace=replace)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:  # a pipe is welcome: `arx token inspect <(pass show token)`
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        if path.name.startswith((TOKEN_PREFIX, BUNDLE_PREFIX)):
            # Not repeated, nor chained: it is in the shell's history by now, and must not get into a log.
            hint = 'write it to a file and name that, or give it to stdin and say "-"'
            said = "a token or bundle was given where a file's name belongs"
            raise Stop(said, hint=hint, code="secret_in_argv") from None
        raise Stop(f"{path}: {error.strerror}", code="file") from error


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)


passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(),
    help=f'opens the root key with this file\'s text ("-": stdin); else {PASSPHRASE_VARIABLE}',
)


def read_passphrase(file: str | None) -> str | None:
    """Return the passphrase of the root key: from the file, else from the environment, else none."""
    return read_text(file) if file else os.environ.get(PASSPHRASE_VARIABLE)
