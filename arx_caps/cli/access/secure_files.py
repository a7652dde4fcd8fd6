# SPDX-License-Identifier: Apache-2.0
"""Read and write files of secrets: bounded, mode 0600, written whole or not at all.

A secret is read from a file or from stdin (``-``), never from the command line, which every user of the machine can
read.
"""

import os
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from arx_caps.cli.exit_codes import Stop
from arx_caps.credentials.secret_source import COMMAND, find_secret, run_for_secret
from arx_caps.credentials.whole_files import written_beside
from arx_caps.settings.realm import PASSPHRASE_VARIABLE
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object
from arx_verifier.token.wire import BUNDLE_PREFIX, TOKEN_PREFIX

MAX_FILE_BYTES: Final = 1024 * 1024  # a bundle of many tokens; nothing that ARx reads whole is larger


def read_text(path: str) -> str:
    """Read a text file, or stdin for ``-``.

    Returns:
        The text, without white space around it.

    Raises:
        Stop: It is missing, no file, larger than ``MAX_FILE_BYTES``, or not UTF-8.
    """
    # One byte more than the limit is read, so that a larger file is refused and not cut.
    raw = _read_stdin() if path == "-" else _read_file(Path(path))
    shown = "stdin" if path == "-" else path
    if len(raw) > MAX_FILE_BYTES:
        raise Stop(f"{shown}: expected at most {MAX_FILE_BYTES // 1024} KiB", code="file")
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Stop(f"{shown}: expected UTF-8 text", code="file") from None


def read_object(path: str) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        Stop: As ``read_text``, or the text is not one JSON object.
    """
    try:
        return read_json_object(read_text(path).encode())
    except RequestError as error:
        shown = "stdin" if path == "-" else path
        raise Stop(f"{shown}: {error}", code="file") from None


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file of mode 0600, whole or not at all.

    Args:
        path: The file.
        text: Its content, a secret.
        replace: Whether an existing file may be replaced.

    Raises:
        Stop: The file exists and may not be replaced, or cannot be written.
    """
    try:
        with written_beside(path, text.encode()) as beside:
            if replace:
                beside.replace(path)
            else:
                os.link(beside, path)  # fails if it exists: a key is never overwritten
    except FileExistsError:
        raise Stop(f"{path}: the file exists, and is not overwritten", code="file") from None
    except OSError as error:
        raise Stop(f"{path}: {error.strerror}", code="file") from error


def write_object(path: Path, value: dict[str, Any]) -> None:
    """Write one JSON object to a private file; see ``write_private``."""
    text = msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode()
    write_private(path, text + "\n")


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:  # a pipe is welcome: `arx token inspect <(pass show token)`
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        if path.name.startswith((TOKEN_PREFIX, BUNDLE_PREFIX)):
            # The text is a secret: it is neither quoted nor chained, so that it does not reach a log.
            hint = "write it to a file and give the file's name, or send it to stdin and give `-`"
            raise Stop("expected the name of a file, got a token or bundle", hint=hint, code="secret_in_argv") from None
        raise Stop(f"{path}: {error.strerror}", code="file") from error


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)


passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(),
    help=f"file with the passphrase of the root key, `-` for stdin, or command:PROGRAM… [{PASSPHRASE_VARIABLE}]",
)


def read_passphrase(file: str | None) -> str | None:
    """Return the passphrase of the root key, of ``passphrase_option`` or of the environment; None without one."""
    return find_secret(PASSPHRASE_VARIABLE) if file is None else read_given_passphrase(file)


def read_given_passphrase(file: str) -> str:
    """Return the passphrase of a file, of stdin for ``-``, or of a command."""
    return run_for_secret(file) if file.startswith(COMMAND) else read_text(file)
