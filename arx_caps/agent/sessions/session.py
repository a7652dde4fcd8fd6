# SPDX-License-Identifier: Apache-2.0
"""A session, an agent's way to power: start the tasks that it needs, renew it, end it.  RFC 9449.

It is bound to a key made for it, which never leaves this process: its token alone starts no task.  The session's
token is good for the mint and for nothing else; what services accept is a task's.
"""

import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.agent.sessions.renewal import start_renewal
from arx_caps.agent.sessions.session_file import SessionFile
from arx_caps.agent.sessions.started_task import Keep, StartedTask, end_block
from arx_caps.agent.tasks.approval import Approval, find_approval
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.copies import Shared
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.keyfile import SigningKey, replace_secret
from arx_caps.settings.durations import asked_duration
from arx_verifier.errors import ArxError, AttenuationError, StoreError, shorten
from arx_verifier.token.holder import HolderKey


class Session(Shared):
    """One bounded run of an agent.  Made by ``open_session``; ``repr`` shows no secret.

    Attributes:
        id: The session's id, which a kill can name.
        agent: The agent's path.
        expires_at: When it ends unless it is renewed, ms since the Unix epoch.
        ends_at: When no renewal helps any more, ms since the Unix epoch.
        purpose: What it is for.
        subject: On whose behalf it runs: their issuer's URL and their name there; None without a subject.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_kept",
        "_key",
        "_lock",
        "_mint",
        "_now",
        "_over",
        "_path",
        "_shown",
        "_token",
        "_used",
        "agent",
        "ends_at",
        "expires_at",
        "id",
        "purpose",
        "subject",
    )

    def __init__(self, mint: MintClient, key: SigningKey, answer: Mapping[str, Any], *, now: Callable[[], int]) -> None:
        self._mint, self._key, self._now = mint, key, now
        about = _part(answer, "session")
        self.id, self.agent, self.purpose = _text(about, "id"), _text(about, "agent"), about.get("purpose")
        self.subject = _subject(about)
        self._lock, self._over, self._used = threading.Lock(), threading.Event(), False
        self._path: Path | None = None
        # Weak: a task that the application dropped must not be kept, and extended, by its session.
        self._kept: weakref.WeakValueDictionary[int, StartedTask] = weakref.WeakValueDictionary()
        self._take(answer)

    def keep(self) -> None:
        """Renew it by itself from now on: while it is used, and until it ends or its ``with`` block does."""
        if self.expires_at < self.ends_at:
            span_s = (self.expires_at - self._begun) / 1000
            start_renewal(self.renew_if_due, span_s, self._over, name="arx-session-renewal")

    def let_go(self) -> None:
        """Renew it, and extend its tasks, by itself no more."""
        self._over.set()
        # A list, made at once: another thread may start a task during the loop.
        for held in self._kept.valuerefs():
            task = held()
            if task is not None:
                task.let_go()

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
            # At half of its life: early enough to outlast a mint that is down, late enough to be rare.
            if self._used and now - self._begun >= (self.expires_at - self._begun) / 2:
                self._renew()
            return (self.expires_at - self._begun) / 1000

    def used(self) -> None:
        """Note that it is at work; what signs calls of its tasks does so."""
        self._used = True

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the session in a file, so that it outlives this process; ``resume_session`` of its agent reads it.

        Each renewal replaces the file.  After ``end`` it is of no use any more, and is removed.

        Args:
            path: The file, a secret with mode 0600; an existing one is replaced.

        Raises:
            SettingsError: It cannot be written.
        """
        with self._lock:
            self._path = Path(path)
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            content = SessionFile(self._mint.issuer, dict(self._shown), self._token, self._key).content()
            replace_secret(self._path, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")

    def resume_task(self, path: str | os.PathLike[str], *, holder_key: HolderKey | None = None) -> StartedTask:
        """Take up a task of this session that ``Task.save`` wrote, after a restart.

        Args:
            path: The file.
            holder_key: As for ``start_task``.

        Returns:
            The task, with all that its session can do with it.

        Raises:
            SettingsError: The file cannot be read, or other users can read it.
            MalformedTokenError: It has no task.
            AttenuationError: The task is of another session.
        """
        bundle = Task.load(path).bundle
        if bundle.agent != self.agent or bundle.outline.identifier.session != self.id:
            raise AttenuationError(f"{path}: this task is of another session than {self.id}")
        return StartedTask(bundle, session=self, now=self._now, key=holder_key or self._key)

    def approval(self, approval: str) -> Approval:
        """Return an approval that this session asked for, also before a restart, as it stands now.

        Args:
            approval: Its id, ``a-…``.

        Raises:
            GrantError: It was denied, withdrawn, or is over; or it is of another session.
            TokenError: The session was ended, frozen or killed.
            StoreError: The mint does not answer.
            UnavailableError: It cannot say now.
        """
        return find_approval(self, approval)

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
        keep: bool = False,
        holder_key: HolderKey | None = None,
        **more: Any,
    ) -> StartedTask:
        """Ask for the power that one piece of work needs.

        Args:
            template: The policy's name for it.
            params: The template's parameters; the form for one that is called as an argument here is.
            ttl: A shorter life than the template's, such as ``"60s"``.
            tools: Fewer tools than the template's.
            depth: Fewer delegations than the template's.
            parent: A task of this session that this one is a part of: when that is over, this one is.
            keep: Extend it by itself while it is used, until it or the session ends.  Clients that have its ``auth()``
                follow; tasks delegated before keep their ends.
            holder_key: The key that a bound task is bound to; the session's own when left out.
            more: The template's parameters, as in ``order_id="o-1"``.

        Returns:
            The task, which a ``with`` block finishes.

        Raises:
            GrantError: The policy refuses; ``failures`` names every parameter that is at fault.
            RequestError: What is asked for cannot be read, such as a ``ttl`` that is no duration or an integer beyond
                2^53-1.
            TokenError: The session is over or was ended.
            StoreError: The mint does not answer.
            UnavailableError: It cannot grant anything now.
        """
        body: dict[str, Any] = {"template": template, "params": {**(params or {}), **more}, "depth": depth}
        body["ttl"] = asked_duration("ttl", ttl)
        self.used()
        body["tools"] = None if tools is None else list(tools)
        body["parent"] = None if parent is None else parent.id
        if holder_key is not None:
            body["holder"] = holder_key.public
        bundle = self._bundle(self._call("POST", "/v1/tasks", body))
        kept = Keep(self, body["ttl"]) if keep else None
        return StartedTask(bundle, session=self, now=self._now, keep=kept, key=holder_key or self._key)

    def kept(self, task: StartedTask) -> None:
        """Let a task go when this session ends; a task that is extended by itself calls it."""
        self._kept[id(task)] = task

    def end(self) -> dict[str, Any]:
        """End the session, and with it every token of every task of it.

        Returns:
            The mint's answer: the session, and the report of its kill.

        Raises:
            TokenError: It was over or ended before.
            StoreError: The mint does not answer.
            UnavailableError: It cannot end it now; the session may still be open.
        """
        # First, or the renewal could report a session that was ended on purpose as lost.
        self.let_go()
        ended = self._call("DELETE", f"/v1/sessions/{self.id}")
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        return ended

    def finish_task(self, task: str) -> dict[str, Any]:
        """Finish a task at the mint; ``StartedTask.finish`` calls it."""
        return self._call("DELETE", f"/v1/tasks/{task}")

    def attenuate_task(self, task: str, link: str, caveats: Mapping[str, list[dict[str, Any]]]) -> Bundle:
        """Attenuate a task at the mint; ``StartedTask.attenuate_for_all`` calls it."""
        self.used()
        return self._bundle(self._call("POST", f"/v1/tasks/{task}/attenuate", {"link": link, "caveats": caveats}))

    def extend_task(self, task: str, body: Mapping[str, Any]) -> Bundle:
        """Ask the mint for more; ``StartedTask.extend`` is the way to it."""
        self.used()
        return self._bundle(self._call("POST", f"/v1/tasks/{task}/extend", body))

    def ask_approval(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask operators to approve a call; ``StartedTask.ask_approval`` is the way to it."""
        self.used()
        return dict(_part(self._call("POST", "/v1/discharges", body), "approval"))

    def fetch_discharge(self, approval: str) -> dict[str, Any]:
        """Ask how an approval stands, and for its discharge; ``Approval.wait`` is the way to it."""
        self.used()
        return self._call("POST", f"/v1/discharges/{approval}")

    def _bundle(self, answer: Mapping[str, Any]) -> Bundle:
        try:
            bundle = Bundle.parse(_text(answer, "bundle"))
        except ArxError as error:
            raise StoreError(
                f"the mint at {self._mint.issuer} answered with a bundle that cannot be used: {error}"
            ) from error
        # A mint, or a proxy before it, that mixes answers up would give this agent the power of another one.
        if bundle.agent != self.agent or bundle.outline.identifier.session != self.id:
            raise StoreError(f"the mint at {self._mint.issuer} answered with a task of another agent or session")
        return bundle

    def _renew(self) -> None:
        # Before the call: a use while the mint answers counts for the next span.
        self._used = False
        answer = self._call("POST", f"/v1/sessions/{self.id}/renew")
        self._take(answer)
        self._write()

    def _take(self, answer: Mapping[str, Any]) -> None:
        """Take over a token, and when it ends."""
        about = self._shown = _part(answer, "session")
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
        # Also where the mint does not answer: the session then idles out instead of being renewed for ever.
        self.let_go()
        hint = f"end it later (`arx session end {self.id}`), or let it end at its limit: it is renewed no more"
        end_block(self.end, error, f"session {self.id}", hint)

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.agent}>"


def _subject(about: Mapping[str, Any]) -> tuple[str, str] | None:
    if about.get("subject") is None:
        return None
    subject = _part(about, "subject")
    return _text(subject, "issuer"), _text(subject, "subject")


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
