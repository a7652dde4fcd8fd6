# SPDX-License-Identifier: Apache-2.0
"""Call the mint as an operator, or as an agent with a session file, and map its refusals to exit codes.

A refusal, an unknown caller and no answer have three exit codes, so that a script can distinguish them.  The HTTP is
that of the agents' client.  A session file holds the session's token and the key it is bound to.  It is a secret of the
agent, mode 0600, and ends with the session.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click
import httpx
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from arx_caps.agent.mint_client import MintClient, takes_proxy
from arx_caps.cli import exit_codes
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.secure_files import read_object
from arx_caps.http_client import open_client
from arx_caps.jose import make_assertion
from arx_caps.keyfile import KeyFile, SigningKey
from arx_verifier.errors import ArxError, UnavailableError

TIMEOUT_S: Final = 30.0  # a kill waits for leases to run out before it answers
CONNECT_S: Final = 3.0
PAGE: Final = 1000  # rows of one answer, as many as the mint gives
MALFORMED: Final = (400, 413, 415, 422)  # the request is wrong in itself, for any caller


class Unreachable(Stop):
    """The mint did not answer, or answered that it cannot do it now."""


class Caller:
    """A caller of the mint.

    Attributes:
        issuer: The mint's public base URL.
        key: Signs each call.
        over: What to do where the token is over or was ended; a hint, or None.
        ca: File of a further authority for TLS, absolute; or None.

    Args:
        issuer: The mint's public base URL.
        key: Signs each call.
        token: Goes along, or None before there is one.
        timeout_s: How long an answer may take, in seconds.
        ca: File of a further authority for TLS.

    Raises:
        Stop: The address is none of a mint.
        SettingsError: The file of the authority cannot be read.
    """

    def __init__(
        self,
        issuer: str,
        key: SigningKey,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        ca: str | None = None,
    ) -> None:
        self.issuer, self.key, self._token = issuer.rstrip("/"), key, token
        self.over: str | None = None
        self.ca = None if ca is None else str(Path(ca).absolute())
        try:
            httpx.URL(issuer)  # an invalid address is refused before any request
            timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
            self._http = open_client(self.issuer, timeout=timeout, ca=ca, proxy=takes_proxy(self.issuer))
        except (httpx.InvalidURL, ValueError) as error:
            raise Stop(f"{issuer!r:.100} is no address of a mint", code="issuer") from error
        self._mint = MintClient(self.issuer, now=now_ms, client=self._http)
        command = click.get_current_context(silent=True)
        if command is not None:
            command.call_on_close(self._http.close)

    @classmethod
    def operator(
        cls, key_file: Path, issuer: str | None = None, timeout_s: float = TIMEOUT_S, ca: str | None = None
    ) -> "Caller":
        """Sign in with an operator's key file.

        Args:
            key_file: The private key; says the issuer.
            issuer: Another issuer than the file's.
            timeout_s: How long an answer may take, in seconds.
            ca: File of a further authority for TLS, where the key file names none.

        Raises:
            Stop: The mint does not answer or does not know this key.
            SettingsError: The key file cannot be used.
        """
        key = load_key(key_file, "operator")
        caller = cls(issuer or key.issuer, key.key, timeout_s=timeout_s, ca=key.ca or ca)
        try:
            body = {"assertion": caller.assertion(key)}
            found = caller.call("POST", "/v1/operators/token", body, repeats=False)  # a token that is lost does nothing
        except Stop:
            caller._http.close()  # a kill goes on without the mint
            raise
        caller._token = str(found["token"])
        return caller

    def set_timeout(self, timeout_s: float) -> None:
        """Set how long the following answers may take, in seconds."""
        self._http.timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)

    def assertion(self, key: KeyFile) -> str:
        """Return an assertion of the caller, for the first call."""
        session_key = self.key.public if key.role == "agent" else None
        return make_assertion(key, audience=self.issuer, now=now_ms(), session_key=session_key)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        query: Mapping[str, Any] | None = None,
        *,
        repeats: bool = True,
    ) -> dict[str, Any]:
        """Make one call, and repeat it while its answer is lost.

        Args:
            method: The HTTP method.
            path: From ``/v1`` on.
            body: Sent as JSON; members that are None are left out.  A function is asked for it anew for each repeat.
            query: Parameters; those that are None are left out.
            repeats: Whether it is repeated.

        Returns:
            The answer's JSON object.

        Raises:
            Unreachable: No answer, or one that says it cannot be done now.
            Stop: The mint refused.
        """
        asked = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        try:
            return self._mint.call(
                method,
                f"{path}?{asked}" if asked else path,
                key=self.key,
                token=self._token,
                body=body,
                repeats=repeats,
            )
        except ArxError as error:
            stop = _stop(error)
            stop.hint = self.over if error.code in ("revoked", "expired") else stop.hint
            raise stop from error

    def rows(
        self, path: str, member: str, query: Mapping[str, Any] | None = None, *, limit: int | None = None
    ) -> tuple[list[dict[str, Any]], bool]:
        """Read a list page by page.

        Args:
            path: From ``/v1`` on.
            member: The answer's member that holds the rows.
            query: Parameters; those that are None are left out.
            limit: At most so many rows; all of them when left out.

        Returns:
            The rows, and whether there are more.

        Raises:
            Unreachable: No answer, or one that says it cannot be done now.
            Stop: The mint refused.
        """
        found: list[dict[str, Any]] = []
        after: str | None = None
        while limit is None or len(found) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            answer = self.call("GET", path, query={**(query or {}), "limit": size, "after": after})
            found += answer.get(member, [])
            after = answer.get("next")
            if after is None:
                break
        return found, after is not None

    def fetch(self, path: str) -> bytes:
        """Get a file; otherwise as ``call``."""
        assert self._token is not None
        try:
            return self._mint.fetch(path, key=self.key, token=self._token)
        except ArxError as error:
            raise _stop(error) from error


def load_key(path: Path, role: str) -> KeyFile:
    """Read a key file of a role.

    Raises:
        SettingsError: It is missing, open to others, or no key file.
        Stop: It is of the other role.
    """
    key = KeyFile.load(path)
    if key.role != role:
        raise Stop(f"{path} is the key of {key.subject}; this needs the key of an {role}", code="wrong_key")
    return key


def now_ms() -> int:
    """Read the wall clock, ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


def _stop(error: ArxError) -> Stop:
    if isinstance(error, UnavailableError):
        return Unreachable(str(error), exit_codes.UNREACHABLE, code=error.code)
    # Who is killed or frozen is known; to sign in again would not help.
    if error.status_hint == httpx.codes.UNAUTHORIZED and error.code not in ("revoked", "frozen"):
        return Stop(str(error), exit_codes.UNAUTHENTICATED, code=error.code)
    if error.code == "tool_not_allowed":
        return Stop(
            str(error), exit_codes.DENIED, hint="`arx whoami` says who this key is and what it may do", code=error.code
        )
    return Stop(str(error), exit_codes.USAGE if error.status_hint in MALFORMED else exit_codes.DENIED, code=error.code)


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
    """Refuse a session file that other users can read, as for a key file; a pipe is private."""
    file = Path(path)
    if path != "-" and file.is_file() and file.stat().st_mode & 0o077:
        raise Stop(f"{path} can be read by others; run `chmod 600 {path}`, and think who has read it", code="file")
