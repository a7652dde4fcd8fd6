# SPDX-License-Identifier: Apache-2.0
"""An open session in a file, so that the next command can go on with it: its token and the key it is bound to.

It is a secret of the agent, mode 0600, and ends with the session.
"""

from pathlib import Path
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.mint_session import Caller
from arx_caps.cli.secure_files import read_object
from arx_caps.keyfile import SigningKey

VERSION: Final = 1
HINT: Final = "`arx session open --key FILE --out FILE` makes a session file"


def session_object(caller: Caller, session: dict[str, Any], token: str) -> dict[str, Any]:
    """Return what a session file holds, a secret."""
    content = {"v": VERSION, "issuer": caller.issuer, "session": session, "token": token}
    content |= {"key": caller.key.private_jwk()}
    return content if caller.ca is None else content | {"ca": caller.ca}


def open_session_file(path: str, issuer: str | None = None) -> tuple[Caller, dict[str, Any]]:
    """Read a session file.

    Args:
        path: The file, or ``-`` for stdin.
        issuer: Another issuer than the file's.

    Returns:
        The agent as a caller of the mint, and what the mint said of the session when it was opened.

    Raises:
        Stop: It is no session file, or others can read it.
    """
    _refuse_open_to_others(path)
    try:
        content = read_object(path)
    except Stop as error:
        raise Stop(str(error), error.exit_code, hint=error.hint or HINT, code=error.code) from error
    session, token, said = content.get("session"), content.get("token"), content.get("issuer")
    if content.get("v") != VERSION or not isinstance(session, dict) or not isinstance(token, str):
        raise Stop(f"{path}: not a session file", hint=HINT, code="file")
    try:
        key = SigningKey(OKPKey.import_key({name: content["key"][name] for name in ("kty", "crv", "x", "d")}))
    except (JoseError, KeyError, TypeError, ValueError):
        # Not chained: the text of a parser could quote the private half.
        raise Stop(f"{path}: the session's key cannot be read", code="file") from None
    ca = content.get("ca")
    caller = Caller(issuer or str(said), key, token, ca=ca if isinstance(ca, str) else None)
    caller.over = "what is over stays so; `arx session open --key FILE --out FILE` opens another session"
    return caller, session


def _refuse_open_to_others(path: str) -> None:
    """Hold a session file to what holds for a key file; a pipe is nobody else's."""
    file = Path(path)
    if path != "-" and file.is_file() and file.stat().st_mode & 0o077:
        raise Stop(f"{path} can be read by others; run `chmod 600 {path}`, and think who has read it", code="file")
