# SPDX-License-Identifier: Apache-2.0
"""Sign the requests of one client with the task that runs each of them.  SPEC 8."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx

from arx_caps.agent.tasks.auth import ArxAuth, OtherAuth
from arx_caps.agent.tools.running_task import running_call


class CurrentTaskAuth(httpx.Auth, OtherAuth):
    """Sign each request with the current task: authentication for a client of httpx or httpx2 that many tasks share.

    ``httpx.Client(base_url=…, auth=CurrentTaskAuth("orders"))`` is made once; a request outside of a task is not sent.

    Args:
        audience: Use this audience's token only; needed where two audiences live at one origin.
    """

    def __init__(self, audience: str | None = None) -> None:
        self._audience = audience

    def _auth(self) -> ArxAuth:
        task, approvals = running_call()
        return task.auth(self._audience, approvals=approvals)

    def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Sign a request whose body was read; the client calls one of the two below."""
        return self._auth().auth_flow(request)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Read the body and sign; for synchronous clients."""
        return self._auth().sync_auth_flow(request)

    def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Read the body and sign; for asynchronous clients."""
        return self._auth().async_auth_flow(request)

    def __repr__(self) -> str:
        return "<CurrentTaskAuth>" if self._audience is None else f"<CurrentTaskAuth for {self._audience}>"
