# SPDX-License-Identifier: Apache-2.0
"""Calls of the mint as an operator, or as an agent with a session file; refusals become exit codes.

A session file has the session's token and the key that the token is bound to.  It is a secret of the agent (mode 0600).
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click
import httpx

from arx_caps.agent.sessions.mint_client import MintClient, takes_proxy
from arx_caps.agent.sessions.session_file import SessionFile
from arx_caps.cli import exit_codes
from arx_caps.cli.access.secure_files import read_object
from arx_caps.cli.exit_codes import Stop
from arx_caps.credentials.jose import make_assertion
from arx_caps.credentials.keyfile import KeyFile, SigningKey
from arx_caps.http.client import open_client
from arx_verifier._platform import is_open_to_others
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, SettingsError, StaleEpochError, UnavailableError

TIMEOUT_S: Final = 30.0  # a kill waits for leases to end before it answers
CONNECT_S: Final = 3.0
PAGE: Final = 1000  # rows of one answer: the mint's limit
MALFORMED: Final = (400, 413, 415, 422)  # the mint refuses such a request from any caller


class Unreachable(Stop):
    """The mint did not answer, or answered that it is not available."""


class Caller:
    """A caller of the mint.

    Attributes:
        issuer: The mint's public base URL.
        key: Signs each call.
        token: The token of each call, or None before the first.
        mint: The agents' client: the same repeats, limits and error texts.
        over: The hint after a refusal as expired or revoked, or None.
        ca: Absolute path of the PEM file of an additional authority for TLS, or None.

    Args:
        issuer: The mint's public base URL.
        key: Signs each call.
        token: The token of each call, or None before the first.
        timeout_s: The longest time for an answer, seconds.
        ca: PEM file of an additional authority for TLS.

    Raises:
        Stop: The issuer is no URL.
        SettingsError: The authority's file cannot be read.
    """

    def __init__(
        self,
        issuer: str,
        key: SigningKey,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        ca: str | None = None,
    ) -> None:
        self.issuer, self.key, self.token = issuer.rstrip("/"), key, token
        self.over: str | None = None
        self.ca = None if ca is None else str(Path(ca).absolute())
        try:
            httpx.URL(issuer)  # an invalid address is refused before any request
            timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
            # A proxy of the environment is used only for a mint that is not on loopback.
            self._http = open_client(self.issuer, timeout=timeout, ca=ca, proxy=takes_proxy(self.issuer))
        except (httpx.InvalidURL, ValueError) as error:
            raise Stop(f"invalid issuer: expected a URL, got {issuer!r:.100}", code="issuer") from error
        self.mint = MintClient(self.issuer, now=now_ms, client=self._http)
        command = click.get_current_context(silent=True)
        if command is not None:
            command.call_on_close(self.close)

    @classmethod
    def operator(
        cls, key_file: Path, issuer: str | None = None, timeout_s: float = TIMEOUT_S, ca: str | None = None
    ) -> "Caller":
        """Sign in with an operator's key file.

        Args:
            key_file: The private key, with its issuer.
            issuer: Replaces the file's issuer.
            timeout_s: The longest time for an answer, seconds.
            ca: PEM file of an additional authority for TLS, if the key file names none.

        Raises:
            Stop: The mint does not answer or does not know this key.
            SettingsError: The key file is invalid.
        """
        key = load_key(key_file, "operator")
        caller = cls(issuer or key.issuer, key.key, timeout_s=timeout_s, ca=key.ca or ca)
        try:
            body = {"assertion": caller.assertion(key)}
            found = caller.call("POST", "/v1/operators/token", body, repeats=False)  # a lost token grants nothing
        except Stop:
            caller.close()  # a kill continues without the mint
            raise
        caller.token = str(found["token"])
        return caller

    def close(self) -> None:
        """Close the connections; those of a command are closed with it."""
        self._http.close()

    def set_timeout(self, timeout_s: float) -> None:
        """Set the longest time for each further answer, seconds."""
        self._http.timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))

    def assertion(self, key: KeyFile) -> str:
        """Return an assertion of the caller, which authenticates the first call."""
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
        """Call the mint, and repeat the call while its answer is lost.

        Args:
            method: The HTTP method.
            path: The path, from ``/v1`` on.
            body: The JSON body, without members that are None; a function is called for each repeat.
            query: The parameters, without those that are None.
            repeats: Whether the call is repeated.

        Returns:
            The answer's JSON object.

        Raises:
            Unreachable: The mint does not answer, or is not available.
            Stop: The mint refused.
        """
        asked = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        try:
            return self.mint.call(
                method,
                f"{path}?{asked}" if asked else path,
                key=self.key,
                token=self.token,
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
        """Return the rows of a list, page by page.

        Args:
            path: The path, from ``/v1`` on.
            member: The answer's member that has the rows.
            query: The parameters, without those that are None.
            limit: The largest number of rows; None for all.

        Returns:
            The rows, and whether more follow.

        Raises:
            Unreachable: The mint does not answer, or is not available.
            Stop: The mint refused.
        """
        found: list[dict[str, Any]] = []
        more = False
        for answer in self.pages(path, member, query, limit=limit):
            found += answer.get(member, [])
            more = "next" in answer
        return found, more

    def pages(
        self, path: str, member: str, query: Mapping[str, Any] | None = None, *, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the answers of a list, page by page; takes and raises what ``rows`` does."""
        # Pages begin after the last row of the page before, so rows that are added meanwhile repeat none.
        count = 0
        after: str | None = None
        while limit is None or count < limit:
            size = PAGE if limit is None else min(PAGE, limit - count)
            answer = self.call("GET", path, query={**(query or {}), "limit": size, "after": after})
            yield answer
            count += len(answer.get(member, []))
            after = answer.get("next")
            if after is None:
                break

    def fetch(self, path: str) -> bytes:
        """Return the bytes of a file of the mint; raises as ``call`` does."""
        assert self.token is not None
        try:
            return self.mint.fetch(path, key=self.key, token=self.token)
        except ArxError as error:
            raise _stop(error) from error


def load_key(path: Path, role: str) -> KeyFile:
    """Read a key file.

    Args:
        path: The file.
        role: ``agent`` or ``operator``.

    Raises:
        SettingsError: The file is missing, readable by others, or no key file.
        Stop: The key is of another role.
    """
    key = KeyFile.load(path)
    if key.role != role:
        raise Stop(f"{path}: expected the key of an {role}, got the key of {key.subject}", code="wrong_key")
    return key


_STALE: Final = "the mint cannot decide now: try again; `arx status` shows why"


def _stop(error: ArxError) -> Stop:
    # Three exit codes, so that a script can distinguish a refusal, an unknown caller and no answer.
    if isinstance(error, UnavailableError):
        # The reason is of the mint's own verifier, of which the reader may know nothing.
        stale = _STALE if isinstance(error, StaleEpochError) else None
        return Unreachable(str(error), exit_codes.UNREACHABLE, hint=error.hint or stale, code=error.code)
    exit_code, hint = exit_codes.USAGE if error.status_hint in MALFORMED else exit_codes.DENIED, error.hint
    # A killed or frozen caller was authenticated: to sign in again would not help.
    if error.status_hint == httpx.codes.UNAUTHORIZED and error.code not in ("revoked", "frozen"):
        exit_code = exit_codes.UNAUTHENTICATED
    if error.code == "tool_not_allowed":
        exit_code, hint = exit_codes.DENIED, "`arx whoami` shows the permissions of this key"
    return Stop(str(error), exit_code, hint=hint, code=error.code)


HINT: Final = "run `arx session open --key FILE --out FILE` for a session file"


def session_object(caller: Caller, session: dict[str, Any], token: str) -> dict[str, Any]:
    """Return the content of a session file, a secret."""
    return SessionFile(caller.issuer, session, token, caller.key, caller.ca).content()


def open_session_file(path: str, issuer: str | None = None) -> tuple[Caller, dict[str, Any]]:
    """Read a session file.

    Args:
        path: The file, or ``-`` for stdin.
        issuer: Replaces the file's issuer.

    Returns:
        The agent as a caller of the mint, and the session as the mint showed it when it was opened.

    Raises:
        Stop: The file is no session file, or other users can read it.
    """
    _refuse_open_to_others(path)
    try:
        content = read_object(path)
    except Stop as error:
        raise Stop(str(error), error.exit_code, hint=error.hint or HINT, code=error.code) from error
    try:
        file = SessionFile.read(content)
    except SettingsError as error:
        raise Stop(f"{path}: {error}", hint=HINT, code="file") from None
    caller = Caller(issuer or file.issuer, file.key, file.token, ca=file.ca)
    caller.over = "run `arx session open --key FILE --out FILE` for another session"
    return caller, file.session


def _refuse_open_to_others(path: str) -> None:
    """Refuse a session file that other users can read; a pipe is private."""
    file = Path(path)
    if path != "-" and file.is_file() and is_open_to_others(file.stat().st_mode):
        raise Stop(
            f"{path}: other users can read it",
            hint=f"run `chmod 600 {path}`; if one of them may have read it, end the session",
            code="file",
        )
