# SPDX-License-Identifier: Apache-2.0
"""Read passwords from the environment, or from files that are read again at each login.  SPEC 15.2.

``NAME_FILE`` names the file of the password that ``NAME`` would hold.  A new password in it needs no restart.
"""

import os
import stat
from pathlib import Path
from typing import Final, TypeAlias

from arx_verifier._platform import HAS_MODES, is_open_to_others
from arx_verifier.errors import SettingsError

FILE_SUFFIX: Final = "_FILE"
MAX_BYTES: Final = 4096  # of a secret
ROOT_UID: Final = 0


class PasswordFile:
    """A password in a file.  ``repr`` shows the file alone.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"PasswordFile({str(self.path)!r})"

    def read(self) -> str:
        """Return the password that the file has now.

        Raises:
            SettingsError: The file is missing, empty, no text of one line, or other users can read it.
        """
        return read_secret_file(self.path)


Password: TypeAlias = str | PasswordFile


def find_password(variable: str) -> Password | None:
    """Return the password of a variable, or of the file that its ``_FILE`` names; None without either.

    Args:
        variable: The variable's name, such as ``ARX_STORE_PASSWORD``.

    Raises:
        SettingsError: Both variables are set, or the file cannot be used now.
    """
    value, path = os.environ.get(variable), os.environ.get(variable + FILE_SUFFIX)
    if not path:
        return value
    if value:
        raise SettingsError(f"expected one of {variable} and {variable}{FILE_SUFFIX}, got both: unset the first")
    if path.startswith("command:"):  # its words may hold a secret
        raise SettingsError(f"{variable}{FILE_SUFFIX}: expected a file, got a command, which no login waits for")
    password = PasswordFile(path)
    try:
        password.read()  # a wrong path ends the start, not the first login
    except SettingsError as error:
        raise SettingsError(f"{variable}{FILE_SUFFIX}: {error}") from None
    return password


def read_now(password: Password | None) -> str | None:
    """Return the text of a password, read now if it is in a file.

    Raises:
        SettingsError: The file cannot be used.
    """
    return password.read() if isinstance(password, PasswordFile) else password


def read_secret_file(file: Path) -> str:
    """Return the secret of a file, without the white space around it.

    The file is for this user alone, or in a folder that this user alone can enter, or of root and readable by a group,
    as Kubernetes mounts a secret.

    Raises:
        SettingsError: The file is missing, empty, no text of one line, or other users can read it.
    """
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SettingsError(f"{file}: expected a regular file, which is read again at each login")
            if _others_can_read(file, found):
                raise SettingsError(f"{file} holds a secret and can be read by others; run `chmod 600 {file}`")
            raw: bytes = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    return one_line(raw, str(file))


def one_line(raw: bytes, place: str) -> str:
    """Return a secret that was read, without the white space around it.

    Args:
        raw: What was read.
        place: Where, before each error.

    Raises:
        SettingsError: It is empty, longer than ``MAX_BYTES``, or no text of one line.
    """
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:  # its text has bytes of the secret
        text = "\0"
    if not text:
        raise SettingsError(f"{place}: expected a secret, got an empty one")
    if len(raw) > MAX_BYTES or not text.isprintable():
        raise SettingsError(f"{place}: expected a secret of one line of UTF-8, got another text")
    return text


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would stop the program


def _others_can_read(file: Path, found: os.stat_result) -> bool:
    if not HAS_MODES or not is_open_to_others(found.st_mode):
        return False
    if found.st_uid == ROOT_UID and not found.st_mode & 0o037:
        return False
    folder = file.resolve().parent.stat()
    return folder.st_uid not in (os.geteuid(), ROOT_UID) or is_open_to_others(folder.st_mode)
