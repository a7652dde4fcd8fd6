# SPDX-License-Identifier: Apache-2.0
"""A2A: each message brings the agent that is called its part of the caller's task, in a header that is never stored."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from a2a.client import ClientCallContext, ClientCallInterceptor
from a2a.client.interceptors import AfterArgs, BeforeArgs
from a2a.helpers import new_task, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext, RequestContextBuilder, SimpleRequestContextBuilder
from a2a.server.context import ServerCallContext
from a2a.server.events import Event, EventQueue
from a2a.server.routes.common import DefaultServerCallContextBuilder, ServerCallContextBuilder
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCard, HTTPAuthSecurityScheme, Message, SecurityScheme, StringList, TaskState, TaskStatus
from a2a.types import Task as A2ATask
from a2a.utils.errors import InvalidRequestError
from starlette.requests import Request

from arx_caps.agent import Approval, Task, ToolCalls, current_task
from arx_caps.agent.mint_client import is_private
from arx_caps.agent.running_task import running
from arx_caps.agent.task import now_ms
from arx_verifier.errors import ArxError, AttenuationError, RequestError, SettingsError, refusal, shorten
from arx_verifier.names import is_agent_path
from arx_verifier.request import read_json_object

# Not a header of our own: HTTP clients drop this one where a redirect leads elsewhere, and logs leave it out.
HEADER: Final = "Authorization"
SCHEME: Final = "arx"  # its name in cards, and the key of what is ours in states and metadata
FORMAT: Final = "arx-task "  # of the bearer, before the agent's path
ASK: Final = "This agent cannot ask: ask where the task was started, and send the message again with the approval."
_TERMINAL: Final = (
    TaskState.TASK_STATE_COMPLETED,
    TaskState.TASK_STATE_CANCELED,
    TaskState.TASK_STATE_FAILED,
    TaskState.TASK_STATE_REJECTED,
)


def arx_card(card: AgentCard, agent: str) -> AgentCard:
    """Return a card that asks for a part of the caller's task with each message; sign it afterwards.

    Args:
        card: The agent's card.
        agent: The agent's path, to which callers delegate.

    Raises:
        SettingsError: It is no agent path.
    """
    if not is_agent_path(agent):
        raise SettingsError(f"agent: expected a path such as acme/worker, got {shorten(agent)}")
    made = AgentCard()
    made.CopyFrom(card)
    scheme = HTTPAuthSecurityScheme(scheme="Bearer", bearer_format=FORMAT + agent)
    made.security_schemes[SCHEME].CopyFrom(SecurityScheme(http_auth_security_scheme=scheme))
    # Requirements are alternatives: one without ours would let a message come without a task.
    for requirement in made.security_requirements or [made.security_requirements.add()]:
        requirement.schemes[SCHEME].CopyFrom(StringList())
    return made


class ArxA2AInterceptor(ClientCallInterceptor):
    """Delegates anew for each message, to the agent that the callee's card names.

    Args:
        task: The caller's task; None for the current one of each call.
        to: The agent path that the card has to name; None for any.
        limits: What is left of the task: ``tools``, ``args``, ``ttl``, ``depth``, ``audiences`` of ``Task.delegate``.
    """

    def __init__(self, task: Task | ToolCalls | None = None, *, to: str | None = None, **limits: Any) -> None:
        self._task, self._to, self._limits = task.task if isinstance(task, ToolCalls) else task, to, limits

    async def before(self, args: BeforeArgs) -> None:
        """Put the part of the task into the header of a message.

        Raises:
            AttenuationError: The card names no agent or another one, or has an address without TLS; no task runs here;
                or as ``Task.delegate``.
        """
        if not args.method.startswith("send_message"):
            return
        task, card = self._task or current_task(), args.agent_card
        scheme = card.security_schemes.get(SCHEME) or SecurityScheme()
        to = scheme.http_auth_security_scheme.bearer_format.removeprefix(FORMAT)
        if task is None or not is_agent_path(to) or self._to not in (None, to):
            why = "no task runs here" if task is None else f"its card names {shorten(to) if to else 'no agent path'}"
            raise AttenuationError(f"cannot delegate to {shorten(self._to or card.name)}: {why}")
        if not all(is_private(each.url) for each in card.supported_interfaces):
            raise AttenuationError(f"cannot delegate to {to}: its card has an address without TLS")
        context = args.context or ClientCallContext()
        texts = [task.delegate(to, **self._limits).encode(), *(each.encode() for each in context.state.get(SCHEME, ()))]
        parameters = {**(context.service_parameters or {}), HEADER: _Secret(f"Bearer {','.join(texts)}")}
        # A copy: messages that are sent at the same time may share what the application gave.
        args.context = context.model_copy(update={"service_parameters": parameters})

    async def after(self, args: AfterArgs) -> None:
        """Do nothing."""


def with_approvals(*approvals: Approval) -> ClientCallContext:
    """Return the context of a message that brings what operators have approved: ``send_message(…, context=…)``."""
    return ClientCallContext(state={SCHEME: approvals})


def asked_call(status: TaskStatus) -> tuple[str, dict[str, Any]] | None:
    """Return the tool and the arguments that an agent needs an approval of, or None: what ``ask_approval`` takes.

    Args:
        status: The status of an A2A task.
    """
    if status.state != TaskState.TASK_STATE_AUTH_REQUIRED or SCHEME not in status.message.metadata:
        return None
    # Another agent wrote it.
    with suppress(RequestError, AttributeError, KeyError, TypeError, ValueError):
        asked = read_json_object(status.message.metadata[SCHEME].encode())
        return str(asked["tool"]), dict(asked["args"])
    return None


class ArxContextBuilder(ServerCallContextBuilder):
    """Takes the header away before anything is built that is kept or logged.

    Args:
        builder: Builds the rest of the context, such as the user.
    """

    def __init__(self, builder: ServerCallContextBuilder | None = None) -> None:
        self._builder = builder or DefaultServerCallContextBuilder()

    def build(self, request: Request) -> ServerCallContext:
        """Build the context of a request."""
        ours = [value for name, value in request.scope["headers"] if name == b"authorization" and _is_ours(value)]
        rest = [each for each in request.scope["headers"] if each[1] not in ours]
        context = self._builder.build(Request({**request.scope, "headers": rest}, request.receive))
        context.state[SCHEME] = _read(ours)
        return context


class ArxReceiver(AgentExecutor, RequestContextBuilder):
    """Runs an executor with the task that the message brought: the current one, until the execution ends.

    Give it to a request handler as ``agent_executor`` and as ``request_context_builder``.

    Args:
        agent: The path of this agent, as in its card.
        executor: What the agent does.  An ``ArxError``, or the answer of a service that refused, ends the A2A task as
            failed, in words.
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
        received, queue = self._received(context.call_context), _Watched(event_queue, context.current_task is not None)
        try:
            with running(received.task):
                await self._executor.execute(context, queue)
        except Exception as error:  # an HTTP client's error may bring a service's refusal; any other is raised again
            failed = received.failed if received.failed and received.failed[0] is error else (error, "", None)
            refused = ToolCalls(received.task).refusal_of(failed[1], error)
            if refused is None or queue.ended:
                raise
            task, thread, said = context.task_id or "", context.context_id or "", refused.text
            if not queue.begun:
                history = [context.message] if context.message else []
                await queue.enqueue_event(new_task(task, thread, TaskState.TASK_STATE_SUBMITTED, history=history))
            state, metadata = TaskState.TASK_STATE_FAILED, None
            if refused.code == "missing_discharge":
                state, said = TaskState.TASK_STATE_AUTH_REQUIRED, f"{said} {ASK}"
                # A text: the numbers of a message are doubles, and an approval is of the exact arguments.
                call = {"tool": failed[1], "args": failed[2]}
                metadata = None if failed[2] is None else {SCHEME: json.dumps(call)}
            updater = TaskUpdater(queue, task, thread)
            await updater.update_status(state, updater.new_agent_message([new_text_part(said)], metadata))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Cancel the execution."""
        await self._executor.cancel(context, event_queue)

    def _received(self, context: ServerCallContext) -> "_Received":
        received = context.state.get(SCHEME)
        if not isinstance(received, _Received):
            why = "give the routes `context_builder=ArxContextBuilder()`" if received is None else str(received)
        elif received.task.holder != self._agent:
            why = f"the task was delegated to {received.task.holder}"
        elif received.task.expires_at <= now_ms():
            why = str(refusal("expired"))
        else:
            return received
        raise InvalidRequestError(f"{self._agent} refused the message: {why}")


@contextmanager
def tool_call(context: RequestContext, tool: str, args: Mapping[str, Any]) -> Iterator[None]:
    """Make one tool call of an executor: checked first, and with the approval that the message brought for it.

    Args:
        context: The executor's.
        tool: The tool's name in tokens.
        args: The call's arguments as they go on the wire.

    Raises:
        ArxError: The call is refused; the executor lets it pass, so that the A2A task says why.
    """
    received = context.call_context.state[SCHEME]
    task, brought = received.task, received.approvals if received.task.needs_approval(tool) else ()
    fitting = [each for each in brought if each.tool == tool and task.allows(tool, args, approvals=[each])]
    try:
        with ToolCalls(task).call(tool, args, fitting):
            yield
    except (
        Exception
    ) as error:  # noted for `execute`, which knows a refusal, also one that an HTTP client's error brings
        received.failed = (error, tool, dict(args))
        raise


@dataclass
class _Received:
    """What a message brought; no member's ``repr`` shows a secret."""

    task: Task
    approvals: tuple[Approval, ...]
    failed: tuple[Exception, str, dict[str, Any] | None] | None = None


class _Secret(str):
    """A header's value that contexts do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<a task>'"


class _Watched(EventQueue):
    """A queue that knows what may follow."""

    def __init__(self, queue: EventQueue, begun: bool) -> None:
        self._queue, self.begun, self.ended = queue, begun, False

    async def enqueue_event(self, event: Event) -> None:
        self.begun = self.begun or isinstance(event, A2ATask)
        status = getattr(event, "status", None)
        self.ended = self.ended or isinstance(event, Message) or (status is not None and status.state in _TERMINAL)
        await self._queue.enqueue_event(event)


def _is_ours(value: bytes) -> bool:
    return value.partition(b" ")[2].lstrip().startswith(b"arx")


def _read(values: list[bytes]) -> "_Received | ArxError":
    if len(values) != 1:
        return refusal("malformed_request" if values else "missing_token")
    task, *approvals = values[0].decode("latin-1").partition(" ")[2].split(",")
    try:
        return _Received(Task.from_text(task), tuple(map(Approval.from_text, approvals)))
    except ArxError as error:
        return error
