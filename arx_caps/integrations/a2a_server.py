# SPDX-License-Identifier: Apache-2.0
"""A2A servers: an agent works with the part of the caller's task that each message brings, and with no other.

``docs/adapters/a2a.md`` has an example.  Extra: ``arx-caps[a2a-server]``.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from a2a import types
from a2a.helpers import new_task, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext, RequestContextBuilder, SimpleRequestContextBuilder
from a2a.server.agent_execution.active_task import TERMINAL_TASK_STATES
from a2a.server.context import ServerCallContext
from a2a.server.events import Event, EventQueue
from a2a.server.routes.common import DefaultServerCallContextBuilder, ServerCallContextBuilder
from a2a.server.tasks import TaskUpdater
from a2a.utils.errors import InvalidRequestError
from starlette.requests import Request

from arx_caps.agent.tasks.holder_key import find_holder_key
from arx_caps.agent.tools.agent_messages import CARD_SCHEME, bearer_format, is_message_header
from arx_caps.agent.tools.received_part import PartRefusal, ReceivedPart
from arx_caps.agent.tools.running_task import running
from arx_verifier.token.holder import HolderKey


def arx_card(card: types.AgentCard, agent: str, key: HolderKey | None = None) -> types.AgentCard:
    """Return a card that asks for a part of the caller's task with each message; sign it afterwards.

    Args:
        card: The agent's card.
        agent: The agent's path, to which callers delegate.
        key: The agent's key, to which callers delegate bound tasks; else that of ``find_holder_key``, if there is one.

    Raises:
        SettingsError: It is no agent path; or as ``find_holder_key``.
    """
    made = types.AgentCard()
    made.CopyFrom(card)
    own = key or find_holder_key()
    bearer = bearer_format(agent, None if own is None else own.public)
    scheme = types.HTTPAuthSecurityScheme(scheme="Bearer", bearer_format=bearer)
    made.security_schemes[CARD_SCHEME].CopyFrom(types.SecurityScheme(http_auth_security_scheme=scheme))
    # Requirements are alternatives: one without ours would let a message come without a task.
    for requirement in made.security_requirements or [made.security_requirements.add()]:
        requirement.schemes[CARD_SCHEME].CopyFrom(types.StringList())
    return made


class ArxContextBuilder(ServerCallContextBuilder):
    """Takes the header away before anything is built that is kept or logged.

    Args:
        builder: Builds the rest of the context, such as the user.
        key: The agent's key, as in its card; else that of ``find_holder_key``, if there is one.

    Raises:
        SettingsError: As ``find_holder_key``.
    """

    def __init__(self, builder: ServerCallContextBuilder | None = None, *, key: HolderKey | None = None) -> None:
        self._builder, self._key = builder or DefaultServerCallContextBuilder(), key or find_holder_key()

    def build(self, request: Request) -> ServerCallContext:
        """Build the context of a request."""
        headers = request.scope["headers"]
        ours = [value for name, value in headers if name == b"authorization" and is_message_header(value)]
        rest = [each for each in headers if each[1] not in ours]
        context = self._builder.build(Request({**request.scope, "headers": rest}, request.receive))
        context.state[CARD_SCHEME] = ReceivedPart(ours, self._key)
        return context


class ArxReceiver(AgentExecutor, RequestContextBuilder):
    """Runs an executor with the task that the message brought: the current one, until the execution ends.

    Give it to a request handler as ``agent_executor`` and as ``request_context_builder``.

    Args:
        agent: The path of this agent, as in its card.
        executor: What the agent does.  An ``ArxError``, or a service's refusal, ends the A2A task as failed, in words.
        builder: Builds the contexts of requests.
    """

    def __init__(self, agent: str, executor: AgentExecutor, builder: RequestContextBuilder | None = None) -> None:
        self._agent, self._executor, self._builder = agent, executor, builder or SimpleRequestContextBuilder()

    async def build(self, context: ServerCallContext, *args: Any, **more: Any) -> RequestContext:
        """Build the context of a message; one that brought no task of this agent is refused before it is stored.

        Raises:
            InvalidRequestError: The message brought no task, no usable one, or another agent's.
        """
        self._received(context)
        return await self._builder.build(context, *args, **more)

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Run the executor."""
        received, queue = self._received(context.call_context), _Watched(event_queue, context)
        try:
            with running(received.task):
                await self._executor.execute(context, queue)
        except Exception as error:  # an HTTP client's error may bring a service's refusal; any other is raised again
            refused = received.refusal_of(error)
            if refused is None or queue.ended:
                raise
            await queue.end(refused)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Cancel the execution."""
        await self._executor.cancel(context, event_queue)

    def _received(self, context: ServerCallContext) -> ReceivedPart:
        received = context.state.get(CARD_SCHEME)
        why: str | None = "give the routes `context_builder=ArxContextBuilder()`"
        if isinstance(received, ReceivedPart) and (why := received.refusal_for(self._agent)) is None:
            return received
        raise InvalidRequestError(f"{self._agent} refused the message: {why}")


def tool_call(context: RequestContext, tool: str, args: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Make one tool call of an executor: checked first, and with the approval that the message brought for it.

    Args:
        context: The executor's.
        tool: The tool's name in tokens.
        args: The call's arguments as they go on the wire.

    Raises:
        ArxError: The call is refused; the executor lets it pass, so that the A2A task says why.
    """
    received: ReceivedPart = context.call_context.state[CARD_SCHEME]
    return received.call(tool, args)


class _Watched(EventQueue):
    """A queue that knows what may follow, and can end the A2A task."""

    def __init__(self, queue: EventQueue, context: RequestContext) -> None:
        self._queue, self._context = queue, context
        self._begun, self.ended = context.current_task is not None, False

    async def enqueue_event(self, event: Event) -> None:
        self._begun = self._begun or isinstance(event, types.Task)
        state = getattr(getattr(event, "status", None), "state", None)
        self.ended = self.ended or isinstance(event, types.Message) or state in TERMINAL_TASK_STATES
        await self._queue.enqueue_event(event)

    async def end(self, refused: PartRefusal) -> None:
        """Say what was refused, in the state of the A2A task."""
        updater = TaskUpdater(self, self._context.task_id or "", self._context.context_id or "")
        if not self._begun:
            sent, state = [self._context.message] if self._context.message else [], types.TaskState.TASK_STATE_SUBMITTED
            await self.enqueue_event(new_task(updater.task_id, updater.context_id, state, history=sent))
        metadata = None if refused.asked is None else {CARD_SCHEME: refused.asked}
        said = updater.new_agent_message([new_text_part(refused.text)], metadata)
        await (updater.requires_auth(said) if refused.waits else updater.failed(said))
