# SPDX-License-Identifier: Apache-2.0
"""An agent's way to power: prove who it is, open a session, start the tasks it needs, end them.  RFC 7523, RFC 9449.

A session is bound to a key made for it, which never leaves this process: its token alone starts no task.  The session's
token is good for the mint and for nothing else; what services accept is a task's.
"""

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from arx_caps.agent import renewing
from arx_caps.agent.bundle import Bundle
from arx_caps.agent.mint_client import MintClient
from arx_caps.agent.started import StartedTask, end_block
from arx_caps.agent.task import Task, now_ms
from arx_caps.jose import KeyFile, SigningKey, make_assertion
from arx_verifier.errors import ArxError, SettingsError, StoreError, shorten


class Agent:
    """A persistent identity: a path and an enrolled key.  A ``with`` block closes its connections to the mint.

    Args:
        key: The agent's key file.
        issuer: The mint's public base URL; the key file's own when left out.
        now: The agent's clock, ms since the Unix epoch.
        client: What to call the mint with; a client of its own when left out.

    Raises:
        SettingsError: The key is an operator's, or no issuer is known.
    """

    __slots__ = ("_key", "_mint", "_now", "_sessions")

    def __init__(
        self,
        key: KeyFile,
        *,
        issuer: str | None = None,
        now: Callable[[], int] = now_ms,
        client: httpx.Client | None = None,
    ) -> None:
        if key.role != "agent":
            raise SettingsError(
                f"this is the key of {key.subject}; an agent needs a key of its own (`arx agent enrol`)"
            )
        address = issuer or key.issuer
        if not address:
            raise SettingsError("the key file names no mint; give its address as `issuer`")
        self._key, self._now = key, now
        self._mint = MintClient(address, now=now, client=client)
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

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

    @property
    def issuer(self) -> str:
        """The mint's public base URL."""
        return self._mint.issuer

    def open_session(self, *, ttl: str | None = None, purpose: str | None = None, keep: bool = True) -> "Session":
        """Prove who this is and open a session, which a ``with`` block ends.

        Args:
            ttl: Life, such as ``"1h"``; the policy's limit when left out.
            purpose: What it is for, in words; it goes into the record.
            keep: Renew it by itself while it is used, where the policy has an idle limit; else ``renew`` is yours.

        Returns:
            The session.

        Raises:
            TokenError: The key is not enrolled for this agent, or the agent was deactivated.
            GrantError: The policy refuses; ``failures`` says why.
            StoreError: The mint does not answer.
            UnavailableError: It cannot open one now.
        """
        key, mint = SigningKey.generate(), self._mint

        def body() -> dict[str, Any]:  # an assertion is good once
            said = make_assertion(self._key, audience=mint.issuer, now=self._now(), session_key=key.public)
            return {"assertion": said, "ttl": ttl, "purpose": purpose}

        answer = mint.call("POST", "/v1/sessions", key=key, body=body)
        session = Session(self._mint, key, answer, now=self._now)
        self._sessions.add(session)
        if keep:
            session.keep()
        return session

    def close(self) -> None:
        """Close the connections to the mint; sessions stay open and can then not be ended or renewed from here."""
        for session in tuple(self._sessions):
            session.let_go()
        self._mint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Agent {self.path} at {self.issuer}>"


class Session:
    """One bounded run of an agent.  Made by ``Agent.open_session``; ``repr`` shows no secret.

    Attributes:
        id: The session's id, which a kill can name.
        agent: The agent's path.
        expires_at: When it ends unless it is renewed, ms since the Unix epoch.
        ends_at: When no renewal helps any more, ms since the Unix epoch.
        purpose: What it is for.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_key",
        "_lock",
        "_mint",
        "_now",
        "_over",
        "_token",
        "_used",
        "agent",
        "ends_at",
        "expires_at",
        "id",
        "purpose",
    )

    def __init__(self, mint: MintClient, key: SigningKey, answer: Mapping[str, Any], *, now: Callable[[], int]) -> None:
        self._mint, self._key, self._now = mint, key, now
        about = _part(answer, "session")
        self.id, self.agent, self.purpose = _text(about, "id"), _text(about, "agent"), about.get("purpose")
        self._lock, self._over, self._used = threading.Lock(), threading.Event(), False
        self._take(answer)

    def keep(self) -> None:
        """Renew it by itself from now on: while it is used, and until it ends or its ``with`` block does."""
        if self.expires_at < self.ends_at:
            renewing.keep(self, (self.expires_at - self._begun) / 1000, self._over)

    def let_go(self) -> None:
        """Renew it by itself no more."""
        self._over.set()

    def renew(self) -> None:
        """Let it end later, within its absolute limit.  Tasks keep their ends; ``StartedTask.extend`` prolongs one.

        Raises:
            TokenError: It is over, frozen or was ended.
            GrantError: The policy no longer lets it be open, or its absolute limit is reached.
            StoreError: The mint does not answer.
            UnavailableError: It cannot renew it now.
        """
        with self._lock:
            self._renew()

    def renew_if_due(self) -> float | None:
        """Renew it if it was used and half of its time is over.

        Returns:
            The seconds between two renewals; None when it is over or lives as long as it may.

        Raises:
            ArxError: As ``renew``.
        """
        with self._lock:
            now = self._now()
            if now >= self.expires_at or self.expires_at >= self.ends_at or self._over.is_set():
                return None
            if self._used and now - self._begun >= (self.expires_at - self._begun) / 2:
                self._renew()
            return (self.expires_at - self._begun) / 1000

    def used(self) -> None:
        """Note that it is at work; what signs calls of its tasks does so."""
        self._used = True

    def start_task(
        self,
        template: str,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        ttl: str | None = None,
        tools: Sequence[str] | None = None,
        depth: int | None = None,
        parent: Task | None = None,
        **more: Any,
    ) -> StartedTask:
        """Ask for the power that one piece of work needs.

        Args:
            template: The policy's name for it.
            params: The template's parameters; the form for one that is called as an argument here is.
            ttl: A shorter life than the template's, such as ``"60s"``.
            tools: Fewer tools than the template's.
            depth: Fewer hand-overs than the template's.
            parent: A task of this session that this one is a part of: when that is over, this one is.
            more: The template's parameters, as in ``order_id="o-1"``.

        Returns:
            The task, which a ``with`` block finishes.

        Raises:
            GrantError: The policy refuses; ``failures`` names every parameter that is at fault.
            RequestError: What is asked for cannot be read, such as an integer beyond 2^53-1.
            TokenError: The session is over or was ended.
            StoreError: The mint does not answer.
            UnavailableError: It cannot grant anything now.
        """
        body: dict[str, Any] = {"template": template, "params": {**(params or {}), **more}, "ttl": ttl, "depth": depth}
        self.used()
        body["tools"] = None if tools is None else list(tools)
        body["parent"] = None if parent is None else parent.id
        bundle = self._bundle(self._call("POST", "/v1/tasks", body))
        return StartedTask(bundle, session=self, now=self._now)

    def end(self) -> dict[str, Any]:
        """End the session, and with it every token of every task of it.

        Returns:
            The mint's answer: the session, and the report of its kill.

        Raises:
            TokenError: It was over or ended before.
            StoreError: The mint does not answer.
            UnavailableError: It cannot end it now; the session may still be open.
        """
        self._over.set()
        return self._call("DELETE", f"/v1/sessions/{self.id}")

    def finish_task(self, task: str) -> dict[str, Any]:
        """Tell the mint that a task is done; ``StartedTask.finish`` is the way to it."""
        return self._call("DELETE", f"/v1/tasks/{task}")

    def narrow_task(self, task: str, link: str, caveats: Mapping[str, list[dict[str, Any]]]) -> Bundle:
        """Have the mint narrow a task; ``StartedTask.narrow_for_all`` is the way to it."""
        self.used()
        return self._bundle(self._call("POST", f"/v1/tasks/{task}/narrow", {"link": link, "caveats": caveats}))

    def extend_task(self, task: str, body: Mapping[str, Any]) -> Bundle:
        """Ask the mint for more; ``StartedTask.extend`` is the way to it."""
        self.used()
        return self._bundle(self._call("POST", f"/v1/tasks/{task}/extend", body))

    def _bundle(self, answer: Mapping[str, Any]) -> Bundle:
        try:
            bundle = Bundle.parse(_text(answer, "bundle"))
        except ArxError as error:
            raise StoreError(
                f"the mint at {self._mint.issuer} answered with a bundle that cannot be used: {error}"
            ) from error
        if bundle.agent != self.agent or bundle.outline.identifier.session != self.id:
            raise StoreError(f"the mint at {self._mint.issuer} answered with a task of another agent or session")
        return bundle

    def _renew(self) -> None:
        self._used = False
        answer = self._call("POST", f"/v1/sessions/{self.id}/renew")
        self._take(answer)

    def _take(self, answer: Mapping[str, Any]) -> None:
        """Take over a token, and when it ends."""
        about = _part(answer, "session")
        self._token, self._begun = _text(answer, "token"), self._now()
        # The token's own end: an older one of the session may end later.
        self.expires_at: int = answer.get("expires_at", about.get("expires_at"))
        self.ends_at: int = about.get("ends_at", self.expires_at)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._mint.call(method, path, key=self._key, token=self._token, body=body)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        end_block(self.end, error)

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.agent}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Session is a secret and is not pickled; hand over a task's encode() instead")


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = answer.get(name)
    if not isinstance(part, dict):
        raise StoreError(f"the mint's answer has no {name}; is it of another version?")
    return part


def _text(answer: Mapping[str, Any], name: str) -> str:
    text = answer.get(name)
    if not isinstance(text, str):
        raise StoreError(f"the mint's answer has no {shorten(name)}; is it of another version?")
    return text
