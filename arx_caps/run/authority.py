# SPDX-License-Identifier: Apache-2.0
"""What a run may call: the hosts of its task's gateways, what requests to them mean, and the token of each call."""

import contextlib
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from arx_caps.agent.tasks.origins import read_origin
from arx_caps.agent.tasks.task import Task
from arx_caps.gateway.catalogue.routes import CatalogueRoutes
from arx_caps.gateway.catalogue.terms import RouteTerms
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.errors import ArxError, SettingsError

Ask = Callable[[str, str], Awaitable[tuple[int, bytes]]]
"""Asks the gateway at an origin for its hosts, with a token of the task; returns the status and what it answered."""


class _Host(msgspec.Struct, frozen=True):
    upstream: str
    audience: str
    routes: dict[str, RouteTerms]
    max_body: int


class _Refusal(msgspec.Struct, frozen=True):
    """What the gateway refuses with; a proxy before it has no such code."""

    code: str


class _Hosts(msgspec.Struct, frozen=True):
    hosts: dict[str, _Host]


class HostUpstream(NamedTuple):
    """The upstream of a host.

    Attributes:
        gateway: The origin of its gateway.
        name: Its name there.
        audience: The audience of its tools.
        routes: What a request to it means.
        max_body: The longest body of a request that is signed whole, bytes.
    """

    gateway: str
    name: str
    audience: str
    routes: CatalogueRoutes
    max_body: int


class RunAuthority:
    """The task of a run, and the hosts that it may call.

    Args:
        read_task: Returns the task as it is now.
        on_end: Called once, when the gateway answers that an operator ended the task.
        gateway: The URL of the gateway; None for those that the policy names for the task.

    Attributes:
        gateways: The origins of the gateways.

    Raises:
        SettingsError: The task has no such gateway.
    """

    def __init__(self, read_task: Callable[[], Task], on_end: Callable[[], None], gateway: str | None = None) -> None:
        self._read_task, self._on_end, self._has_ended = read_task, on_end, False
        known = sorted({str(origin) for several in self._origins().values() for origin in several})
        self.gateways = known if gateway is None else [str(read_origin(gateway.rstrip("/")))]
        if unknown := set(self.gateways) - set(known):
            expected = ", ".join(known) or "a policy that names origins"
            raise SettingsError(f"--gateway: expected an origin of the task ({expected}), got {unknown.pop()}")
        self._answers: dict[str, bytes] = {}
        self._found: dict[str, dict[str, HostUpstream]] = {}
        self._upstreams: dict[str, HostUpstream] = {}

    @property
    def task(self) -> Task:
        """The task as it is now."""
        return self._read_task()

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that the task may call, sorted."""
        return tuple(sorted(host for host, each in self._upstreams.items() if each.audience in self.task.audiences))

    def find(self, host: str) -> HostUpstream | None:
        """Return the upstream of a host; None if the task may call none.

        Args:
            host: The host in lower case.
        """
        found = self._upstreams.get(host)
        return found if found is not None and found.audience in self.task.audiences else None

    def note_end(self) -> None:
        """Note that the gateway refused a call since an operator ended the task."""
        if not self._has_ended:
            self._has_ended = True
            self._on_end()

    def sign(self, upstream: HostUpstream, method: str, target: bytes, body: bytes) -> str:
        """Return the token of a request.

        Args:
            upstream: Where it goes.
            method: Its method.
            target: Raw path and query at the gateway.
            body: Its whole body.
        """
        return self.task.http_token(upstream.audience, method, target, body)

    def sign_streamed(self, upstream: HostUpstream, scope: Any, head: bytes) -> str:
        """Return the token of a request whose body goes on while it comes.

        Args:
            upstream: Where it goes.
            scope: The ASGI ``http`` scope.
            head: What was read of its body.
        """
        meaning = None
        with contextlib.suppress(ArxError, RefusedCall):  # the gateway refuses it, with the reason
            meaning = upstream.routes(scope, head)
        return self.task.call_token(upstream.audience, *(meaning or ("unknown", {})))

    async def look(self, ask: Ask) -> None:
        """Read the hosts of the gateways, and whether an operator has ended the task.

        Args:
            ask: Asks a gateway; it raises an ``ArxError`` if there is no answer.

        Raises:
            SettingsError: No gateway of the task has a host, or the task was ended before the first look.
        """
        failures, aside = [], self.task.aside()
        for origin in self.gateways:
            audiences = [each for each, places in self._origins().items() if origin in places]
            known = {each.audience for each in self._found.get(origin, {}).values()}
            audience = next((each for each in audiences if each in known or not known), "")
            try:
                status, answer = await ask(origin, aside.call_token(audience, "", {}))
            except ArxError as error:
                failures.append(f"{origin}: {error}")
                continue
            if status == 403 and _is_revoked(answer):
                if not self._upstreams:
                    raise SettingsError("an operator ended this task: start another one")
                self.note_end()
            elif status != 200:  # such as of a proxy while the gateway starts: the former hosts are kept
                failures.append(f"{origin}: it answered {status}")
            elif answer != self._answers.get(origin):
                self._answers[origin], self._found[origin] = answer, self._hosts_of(origin, answer)
            if status == 200 and not self._found[origin]:
                failures.append(f"{origin}: no upstream with a host of the task")
        found = [self._found.get(origin, {}) for origin in self.gateways]
        self._upstreams = dict(chain.from_iterable(each.items() for each in reversed(found)))  # the first one wins
        if not self._upstreams:
            raise SettingsError(f"no gateway of this task has a host: {'; '.join(failures) or 'it has no origin'}")

    def _hosts_of(self, origin: str, answer: bytes) -> dict[str, HostUpstream]:
        try:
            found = msgspec.json.decode(answer, type=_Hosts).hosts
        except msgspec.DecodeError:
            return {}
        # A token goes to the origins alone that the policy has for its audience.
        return {
            host: HostUpstream(origin, each.upstream, each.audience, CatalogueRoutes(each.routes), each.max_body)
            for host, each in found.items()
            if origin in self._origins().get(each.audience, ())
        }

    def _origins(self) -> dict[str, set[str]]:
        """Return the origins of each audience of the task."""
        origins = self.task.bundle.origins
        return {each: {str(read_origin(text)) for text in origins.get(each, ())} for each in self.task.audiences}


def _is_revoked(answer: bytes) -> bool:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(answer, type=_Refusal).code == "revoked"
    return False
