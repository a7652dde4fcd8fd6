# SPDX-License-Identifier: Apache-2.0
"""Who opens sessions: an agent by a key of its own, or by the token that its platform gives it.  RFC 7523, CONTROL 1.

Either may say on whose behalf, by a token that this person's identity provider signed.  The mint's policy says which
issuers are believed; here nothing of a token is read.
"""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import httpx

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.agent.sessions.session import Session
from arx_caps.agent.sessions.session_file import SessionFile
from arx_caps.agent.tasks.copies import Shared
from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion
from arx_caps.credentials.keyfile import read_secret
from arx_caps.settings.durations import asked_duration
from arx_verifier.clock import now_ms
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.request import read_json_object

ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - a kind of token (RFC 8693 3), none
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - likewise
MAX_TOKEN_BYTES: Final = 16 * 1024


def on_behalf(id_token: str | None, access_token: str | None) -> dict[str, str]:
    """Return on whose behalf a session is opened, in the form that the mint takes.

    Args:
        id_token: Their ID token (OpenID Connect).
        access_token: In its place: their access token (RFC 9068).

    Raises:
        RequestError: Both are given.
    """
    # Two tokens could name two people, and the audit record has room for one subject.
    if id_token is not None and access_token is not None:
        raise RequestError("a session runs on behalf of one person: give id_token or access_token")
    if id_token is not None:
        return {"subject_token": id_token.strip(), "subject_token_type": ID_TOKEN}
    if access_token is not None:
        return {"subject_token": access_token.strip(), "subject_token_type": ACCESS_TOKEN}
    return {}


class SessionOpener(Shared, ABC):
    """A caller that can open sessions at a mint.  A ``with`` block closes the connections to it.

    Args:
        issuer: The mint's public base URL.
        now: The caller's clock, ms since the Unix epoch.
        client: What to call the mint with; a client of its own when left out.
        ca: File of a further authority for TLS, for a client of its own; ``ARX_CA`` wins.

    Raises:
        SettingsError: The file of the authority cannot be read.
    """

    __slots__ = ("_mint", "_now", "_sessions")

    def __init__(
        self,
        issuer: str,
        *,
        now: Callable[[], int] = now_ms,
        client: httpx.Client | None = None,
        ca: str | None = None,
    ) -> None:
        self._mint, self._now = MintClient(issuer, now=now, client=client, ca=ca), now
        # Weak: a session that the application dropped must not be kept, and renewed, by its opener.
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    @property
    def issuer(self) -> str:
        """The mint's public base URL."""
        return self._mint.issuer

    @abstractmethod
    def _shown(self, key: SigningKey) -> dict[str, str]:
        """Return what proves who this is, for a session with this key."""

    def open_session(
        self,
        *,
        ttl: str | None = None,
        purpose: str | None = None,
        keep: bool = True,
        id_token: str | None = None,
        access_token: str | None = None,
    ) -> Session:
        """Prove who this is and open a session, which a ``with`` block ends.

        Args:
            ttl: Life, such as ``"1h"``; the policy's limit when left out.
            purpose: What it is for, in words; it goes into the record.
            keep: Renew it by itself while it is used, where the policy has an idle limit; else ``renew`` is yours.
            id_token: On whose behalf: their ID token, of an issuer that the policy trusts.
            access_token: In its place: their access token.

        Returns:
            The session.

        Raises:
            TokenError: What proves who this is, or on whose behalf, is not accepted; or the agent was deactivated.
            GrantError: The policy refuses; ``failures`` says why.
            RequestError: Both tokens are given, or ``ttl`` is no duration.
            SettingsError: A workload's token cannot be read.
            StoreError: The mint does not answer.
            UnavailableError: It cannot open one now.
        """
        # A key for this session alone: a stolen session token is of no use without it, and the enrolled key signs no
        # call.
        key, subject = SigningKey.generate(), on_behalf(id_token, access_token)
        asked = {"ttl": asked_duration("ttl", ttl), "purpose": purpose}

        # A function, because each repeat needs another assertion: the mint accepts one once.
        def body() -> dict[str, Any]:
            return {**self._shown(key), **subject, **asked}

        answer = self._mint.call("POST", "/v1/sessions", key=key, body=body)
        session = Session(self._mint, key, answer, now=self._now)
        return self._taken(session, keep=keep)

    def resume_session(self, path: str | os.PathLike[str], *, keep: bool = True) -> Session:
        """Take up a session after a restart, from the file that ``Session.save`` or ``arx session open`` wrote.

        Args:
            path: The file; only its owner may read it.  Each renewal replaces it.
            keep: As in ``open_session``.

        Returns:
            The session, renewed.

        Raises:
            SettingsError: The file cannot be read, is no session file, is of another mint, or other users can read it.
            TokenError: The session is over, frozen or was ended.
            GrantError: The policy no longer lets it be open.
            StoreError: The mint does not answer.
            UnavailableError: It cannot say now.
        """
        content = read_secret(Path(path))
        try:
            file = SessionFile.read(read_json_object(content))
        except (RequestError, SettingsError) as error:
            # Not chained: a parser's text could quote the token or the key.
            raise SettingsError(f"{path}: {error}") from None
        # Checked here: another mint would refuse the session's proofs, without saying that it is the wrong mint.
        if file.issuer.rstrip("/") != self._mint.issuer:
            raise SettingsError(f"{path}: this session is of the mint at {file.issuer}, not at {self._mint.issuer}")
        session = Session(self._mint, file.key, {"session": file.session, "token": file.token}, now=self._now)
        session.renew()  # asks the mint whether it is still open
        session.save(path)
        return self._taken(session, keep=keep)

    def _taken(self, session: Session, *, keep: bool) -> Session:
        self._sessions.add(session)
        if keep:
            session.keep()
        return session

    def close(self) -> None:
        """Close the connections to the mint; sessions stay open and can then not be ended or renewed from here."""
        # A copy, as a session may be collected during the loop.
        # Renewal ends first: its thread must not use a closed client.
        for session in tuple(self._sessions):
            session.let_go()
        self._mint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Agent(SessionOpener):
    """A persistent identity: a path and an enrolled key.

    Args:
        key: The agent's key file.
        issuer: The mint's public base URL; the key file's own when left out.
        now: The agent's clock, ms since the Unix epoch.
        client: What to call the mint with; a client of its own when left out.

    Raises:
        SettingsError: The key is an operator's, no issuer is known, or the key file's `ca` cannot be read.
    """

    __slots__ = ("_key",)

    def __init__(
        self,
        key: KeyFile,
        *,
        issuer: str | None = None,
        now: Callable[[], int] = now_ms,
        client: httpx.Client | None = None,
    ) -> None:
        # An operator's key would be refused by the mint as well, but only after an assertion by it was sent.
        if key.role != "agent":
            raise SettingsError(
                f"this is the key of {key.subject}; an agent needs a key of its own (`arx agent enrol`)"
            )
        address = issuer or key.issuer
        if not address:
            raise SettingsError("the key file names no mint; give its address as `issuer`")
        super().__init__(address, now=now, client=client, ca=key.ca)
        self._key = key

    @classmethod
    def from_key_file(
        cls, path: str | os.PathLike[str], issuer: str | None = None, *, now: Callable[[], int] = now_ms
    ) -> Self:
        """Read an agent's key file.

        Args:
            path: A private JWK, mode 0600.
            issuer: The mint's public base URL; the key file's own when left out.
            now: The agent's clock, ms since the Unix epoch.

        Raises:
            SettingsError: The file is missing, readable by others, or no key of an agent.
        """
        return cls(KeyFile.load(path), issuer=issuer, now=now)

    @property
    def path(self) -> str:
        """The agent's path."""
        return self._key.name

    def _shown(self, key: SigningKey) -> dict[str, str]:
        assertion = make_assertion(self._key, audience=self._mint.issuer, now=self._now(), session_key=key.public)
        return {"assertion": assertion}

    def __repr__(self) -> str:
        return f"<Agent {self.path} at {self.issuer}>"


class Workload(SessionOpener):
    """An agent without a key of its own: its platform's token says who it is (OpenID Connect, SPIFFE).  CONTROL 1.4.

    The policy says which agent that is (``[[workload]]``), and each session has its path.

    Args:
        read_token: Returns the token, a JWT.  Called for each session, because platforms renew it.
        issuer: The mint's public base URL.
        now: The workload's clock, ms since the Unix epoch.
        client: What to call the mint with; a client of its own when left out.
    """

    __slots__ = ("_read_token",)

    def __init__(
        self,
        read_token: Callable[[], str],
        issuer: str,
        *,
        now: Callable[[], int] = now_ms,
        client: httpx.Client | None = None,
    ) -> None:
        super().__init__(issuer, now=now, client=client)
        self._read_token = read_token

    @classmethod
    def from_token_file(
        cls, path: str | os.PathLike[str], issuer: str, *, now: Callable[[], int] = now_ms
    ) -> "Workload":
        """Be the workload whose token the platform keeps in a file; it is read again for each session.

        Args:
            path: The file.
            issuer: The mint's public base URL.
            now: The workload's clock, ms since the Unix epoch.
        """
        return cls(lambda: read_token_file(path), issuer, now=now)

    def _shown(self, key: SigningKey) -> dict[str, str]:  # noqa: ARG002 - no platform's token can name a session's key
        return {"workload_token": self._read_token().strip()}

    def __repr__(self) -> str:
        return f"<Workload at {self.issuer}>"


def read_token_file(path: str | os.PathLike[str]) -> str:
    """Read a token that a platform wrote.

    Raises:
        SettingsError: It is missing, empty, or no token.
    """
    try:
        # Bounded: the path may name a device, or a file that another program still writes.
        with Path(path).open("rb") as file:
            raw = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    text = raw.strip()
    # The error quotes nothing of the file: it may hold another secret.
    if not text.isascii() or text.count(b".") != 2 or len(raw) > MAX_TOKEN_BYTES:
        raise SettingsError(f"{path}: what is in it is no JWT")
    return text.decode("ascii")
