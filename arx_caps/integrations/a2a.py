# SPDX-License-Identifier: Apache-2.0
"""A2A clients: each message brings the agent that is called its part of the caller's task, in a header.

``docs/adapters/a2a.md`` has an example.  The agent that is called uses ``a2a_server``.  Extra: ``arx-caps[a2a]``.
"""

from typing import Any

from a2a.client import ClientCallContext, ClientCallInterceptor
from a2a.client.interceptors import AfterArgs, BeforeArgs
from a2a.types import SecurityScheme, TaskState, TaskStatus

from arx_caps.agent import Approval, Task, ToolCalls
from arx_caps.agent.tools.agent_messages import CARD_SCHEME, MESSAGE_HEADER, agent_of, read_asked
from arx_caps.agent.tools.message_parts import MessageParts


class ArxA2AInterceptor(ClientCallInterceptor):
    """Delegates to the agent that the callee's card names, with each message.

    Args:
        task: The caller's task; None for the current one of each call.
        to: The agent path that the card has to name; None for any.
        limits: What is left of the task: ``tools``, ``args``, ``ttl``, ``depth``, ``audiences`` of ``Task.delegate``.
            A bound task is delegated to the key that the card names, or to ``key``, a public key.

    Raises:
        AttenuationError: ``ttl`` is no duration.
    """

    def __init__(self, task: Task | ToolCalls | None = None, *, to: str | None = None, **limits: Any) -> None:
        self._parts = MessageParts(task.task if isinstance(task, ToolCalls) else task, to, limits)

    async def before(self, args: BeforeArgs) -> None:
        """Put the part of the task into the header of a message.

        Raises:
            AttenuationError: The card names no agent or another one, or has an address without TLS; no task runs here;
                or as ``Task.delegate``.
        """
        if not args.method.startswith("send_message"):
            return
        card, context = args.agent_card, args.context or ClientCallContext()
        scheme = card.security_schemes.get(CARD_SCHEME) or SecurityScheme()
        named, key = agent_of(scheme.http_auth_security_scheme.bearer_format)
        urls = [each.url for each in card.supported_interfaces]
        header = self._parts.header(card.name, named, urls, context.state.get(CARD_SCHEME, ()), key)
        parameters = {**(context.service_parameters or {}), MESSAGE_HEADER: header}
        # A copy: messages that are sent at the same time may share what the application gave.
        args.context = context.model_copy(update={"service_parameters": parameters})

    async def after(self, args: AfterArgs) -> None:
        """Do nothing."""


def with_approvals(*approvals: Approval) -> ClientCallContext:
    """Return the context of a message that brings what operators have approved: ``send_message(…, context=…)``."""
    return ClientCallContext(state={CARD_SCHEME: approvals})


def asked_call(status: TaskStatus) -> tuple[str, dict[str, Any]] | None:
    """Return the tool and the arguments that an agent needs an approval of, or None: what ``ask_approval`` takes.

    Args:
        status: The status of an A2A task, which another agent wrote.
    """
    if status.state != TaskState.TASK_STATE_AUTH_REQUIRED or CARD_SCHEME not in status.message.metadata:
        return None
    return read_asked(status.message.metadata[CARD_SCHEME])
