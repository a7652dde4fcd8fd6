# SPDX-License-Identifier: Apache-2.0
"""What a run may call: the hosts of its task's gateways, what requests to them mean, and the token of each call."""

import contextlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from arx_caps.agent import Task
from arx_caps.agent.tasks.origins import Origin, read_origin
from arx_caps.gateway.catalogue.routes import CatalogueRoutes
from arx_caps.gateway.catalogue.terms import RouteTerms
from arx_caps.http import client as http_client
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.errors import ArxError, RequestError, SettingsError

_WAIT_S: Final = 10.0
_LONGEST: Final = 4 * 1024 * 1024  # bytes of a gateway's list of hosts


class _Host(msgspec.Struct, frozen=True):
    upstream: str
    audience: str
    routes: dict[str, RouteTerms]
    max_body: int


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
        SettingsError: No gateway of the task has a host.
    """

    def __init__(self, read_task: Callable[[], Task], on_end: Callable[[], None], gateway: str | None = None) -> None:
        self._read_task, self._on_end, self._has_ended = read_task, on_end, False
        origins = {each: {read_origin(text) for text in texts} for each, texts in self.task.bundle.origins.items()}
        known = sorted({str(origin) for several in origins.values() for origin in several})
        asked = known if gateway is None else [str(read_origin(gateway.rstrip("/")))]
        if unknown := set(asked) - set(known):
            expected = ", ".join(known) or "a policy that names origins"
            raise SettingsError(f"--gateway: expected an origin of the task ({expected}), got {unknown.pop()}")
        self._upstreams: dict[str, HostUpstream] = {}
        failures = [failure for origin in asked if (failure := self._add(origin, origins))]
        if not self._upstreams:
            raise SettingsError(f"no gateway of this task has a host: {'; '.join(failures) or 'it has no origin'}")
        self.gateways = tuple(sorted({each.gateway for each in self._upstreams.values()}))

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

    def _add(self, origin: str, origins: dict[str, set[Origin]]) -> str:
        """Add the hosts of a gateway; return why there are none."""
        try:
            status, raw = http_client.fetch(f"{origin}/hosts", timeout=_WAIT_S, total_s=_WAIT_S, longest=_LONGEST)
        except (httpx.HTTPError, RequestError) as error:
            return f"{origin}: {http_client.no_answer(error, origin) if isinstance(error, httpx.HTTPError) else error}"
        try:
            found = msgspec.json.decode(raw, type=_Hosts).hosts if status == 200 else {}
        except msgspec.DecodeError:
            found = {}
        for host, each in found.items():
            # A token goes to the origins alone that the policy has for its audience.
            if read_origin(origin) in origins.get(each.audience, ()):
                upstream = HostUpstream(
                    origin, each.upstream, each.audience, CatalogueRoutes(each.routes), each.max_body
                )
                self._upstreams.setdefault(host, upstream)
        return f"{origin}: no upstream with a host of the task"
