# SPDX-License-Identifier: Apache-2.0
"""Sign the calls of an RPC channel for the origin that it leads to, and for no other.  SPEC 8.2.

The adapter of gRPC uses this.  It imports no framework: a call is a method, its metadata and its first message.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.copies import Shared
from arx_caps.agent.tasks.origins import Origin, read_origin
from arx_caps.agent.tasks.request_signer import SignedHeader
from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.running_task import current_approvals, running_call
from arx_verifier.enforcement.rpc.protobuf import arguments_of
from arx_verifier.errors import AttenuationError, MalformedTokenError, shorten

HEADER: Final = "authorization"
# One host and port, which is the only server that such a channel connects to.  A list of addresses, a socket of this
# machine or a name that another resolver reads is no origin.
_TARGET: Final = re.compile(r"(?:dns:(?:///)?|ipv4:|ipv6:)?([^/,%]+?)(:[0-9]+)?")
_DEFAULT_PORT: Final = ":443"  # of gRPC, without TLS as well


class RpcSigner(Shared):
    """The calls of a task, or of each current task, over one channel.

    Args:
        target: What the channel connects to, such as ``orders.example:443`` or ``dns:///orders.example``.
        is_secure: Whether it uses TLS.
        tools: The tool of each method, as the service has it: ``{"/orders.Orders/Refund": "orders.refund"}``.  Calls of
            other methods are sent without a token.
        task: The task; None for ``current_task()`` of each call.
        audience: The service's audience; needed where two audiences live at one origin.
        data: The fields of a method's messages that are no arguments, as the service has them.

    Raises:
        AttenuationError: The target is no single host and port, or is no origin of the task.
    """

    def __init__(
        self,
        target: str,
        is_secure: bool,
        tools: Mapping[str, str],
        *,
        task: Task | None = None,
        audience: str | None = None,
        data: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._origin = _origin_of(target, is_secure)
        self._tools, self._task, self._audience = dict(tools), task, audience
        self._known: tuple[Bundle, str] | None = None
        self._data = {method: frozenset(fields) for method, fields in (data or {}).items()}
        if task is not None:
            self._audience_of(task)

    def sign(self, method: str, metadata: Iterable[tuple[str, Any]] | None, message: Any) -> list[tuple[str, Any]]:
        """Return the metadata of a call with its token; without one for a method that has no tool.

        Args:
            method: The method's whole name.
            metadata: What the caller sends.
            message: The first message, which the service decides on; None for an empty stream.

        Raises:
            AttenuationError: The channel leads to no origin of the task, no task runs here, or the call has an
                authorization already; or an approval of the call is of no use there.
            RequestError: The message has no JSON form.
        """
        sent, tool = [*(metadata or ())], self._tools.get(method)
        if tool is None:
            return sent
        if any(name.lower() == HEADER for name, _ in sent):
            raise AttenuationError("this call has an authorization already; it is not overwritten")
        args = {} if message is None else arguments_of(message, self._data.get(method, ()))
        task = self._task if self._task is not None else running_call()[0]
        # A service refuses an approval that its tool does not ask for.
        approvals = current_approvals(task) if task.takes_approval(tool) else ()
        token = task.call_token(self._audience_of(task), tool, args, approvals=approvals)
        return [*sent, (HEADER, SignedHeader(f"Bearer {token}"))]

    def _audience_of(self, task: Task) -> str:
        # A token must not leave its audience: the server of another origin could use it at the right one.
        bundle, known = task.bundle, self._known
        if known is not None and known[0] is bundle:
            return known[1]
        audience = task.request_signer(self._audience).audience_of(self._origin)
        self._known = bundle, audience
        return audience

    def __repr__(self) -> str:
        return f"<RpcSigner for {self._origin}>"


def _origin_of(target: str, is_secure: bool) -> Origin:
    found = _TARGET.fullmatch(target)
    try:
        if found is None:
            raise MalformedTokenError("not one host and port")
        place = found[1].lower() + (found[2] or _DEFAULT_PORT)
        return read_origin(f"{'https' if is_secure else 'http'}://{place}")
    except MalformedTokenError:
        raise AttenuationError(
            f"target: expected one host and port such as orders.example:443, got {shorten(target)}",
            code="unknown_origin",
        ) from None
