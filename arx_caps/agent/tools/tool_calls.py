# SPDX-License-Identifier: Apache-2.0
"""The tool calls of one task in an agent framework: which are offered, the check before each, the text of a refusal.

Every adapter of ``arx_caps.integrations`` calls this and decides nothing itself.  This module uses no framework.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypedDict
from urllib.parse import urlsplit

from arx_caps.agent.sessions.started_task import StartedTask
from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.origins import origin_of, read_origin
from arx_caps.agent.tasks.outline import meet_all
from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.running_task import current_task, running
from arx_verifier.amounts import Amount
from arx_verifier.errors import ArxError, AttenuationError, GrantError, RequestError, SettingsError, refusal, shorten
from arx_verifier.names import is_tool
from arx_verifier.refusal_text import error_for_model, problem_for_model
from arx_verifier.request import read_json_object
from arx_verifier.token.holder import HolderKey

# No later call of this task is allowed; and the last words of a run that ends there.
ENDED: Final = {
    "revoked": "An operator ended this work, or its session ended.",
    "frozen": "An operator froze this work.",
}
_MAX_PROBLEM_BYTES: Final = 16 * 1024
_MAX_CAUSES: Final = 8  # a framework wraps an error a few times


class SubAgent(NamedTuple):
    """A sub-agent that a tool hands work to, and its part of the task, as for ``Task.delegate``.

    Attributes:
        to: The sub-agent's path.
        tools: The tools that it is given, by their names in tokens, or patterns.
        args: Constraints.
        ttl: Life from each call on, such as ``"5m"``.
        depth: How many delegations may follow.
        audiences: The services that it may call; None for those that have such a tool.
        budget: What its calls may cost together, by unit, at each call of the tool.
    """

    to: str
    tools: Sequence[str]
    args: Mapping[str, Any] | None = None
    ttl: str | None = None
    depth: int | None = None
    audiences: Sequence[str] | None = None
    budget: Mapping[str, Amount] | None = None


class ToolRefusal(NamedTuple):
    """A refused call, as a framework needs it.

    Attributes:
        code: The reason code.
        text: The text for the model.
        over: Whether the work was ended, so that the run must end, too.
    """

    code: str
    text: str
    over: bool


class ToolTables(TypedDict, total=False):
    """What an adapter knows of a framework's tools: keyword arguments of ``RunToolCalls``.

    Attributes:
        tools: A tool's name to its name in tokens, ``{"refund": "orders.refund"}``; another tool has one name.
        public: The names of tools that need no permission.
        sub_agents: The name of a tool that runs another agent, to that agent and its part of the task.
    """

    tools: Mapping[str, str] | None
    public: Collection[str]
    sub_agents: Mapping[str, SubAgent] | None


class ToolCalls:
    """The tool calls of one task.

    Attributes:
        task: The task.  Once it is known to have ended, no guarded tool is offered or called any more.

    Args:
        task: The task.
        tools: A framework's name of a tool to its name in tokens, ``{"refund": "orders.refund"}``; a tool that is not
            here has one name.
        public: The framework's names of tools that need no permission.
        sub_agents: The framework's name of a tool that hands work to a sub-agent, to that sub-agent.  Such a tool needs
            no permission, and runs with the sub-agent's part of the task.

    Raises:
        SettingsError: A name in ``tools`` cannot name a tool, or a tool is in two of ``tools``, ``public`` and
            ``sub_agents``.
    """

    def __init__(
        self,
        task: Task,
        *,
        tools: Mapping[str, str] | None = None,
        public: Collection[str] = (),
        sub_agents: Mapping[str, SubAgent] | None = None,
    ) -> None:
        self.task, self._tools, self._public = task, dict(tools or {}), frozenset(public)
        self._sub_agents = dict(sub_agents or {})
        _check_tables(self._tools, self._public, self._sub_agents)

    def of(self, task: Task) -> "ToolCalls":
        """Return the same for another task, such as a delegated one.

        Args:
            task: The task.
        """
        tables: dict[str, Any] = {"tools": self._tools, "public": self._public, "sub_agents": self._sub_agents}
        return ToolCalls(task, **tables)

    def delegate(self, to: str, **limits: Any) -> "ToolCalls":
        """Return the same for a sub-agent, with a narrower task.

        Args:
            to: The sub-agent's path, which the record names.
            limits: What is left of the task: ``tools``, ``args``, ``ttl``, ``depth``, ``audiences``, as for
                ``Task.delegate``; and ``key``, if the sub-agent of a bound task has one already.

        Raises:
            AttenuationError: As ``Task.delegate``.
        """
        return self.of(self.task.delegate(to, **{**self._key(), **limits}))

    def tool_of(self, name: str) -> str:
        """Return the name in tokens of a framework's tool.

        Args:
            name: The framework's name of it.
        """
        return self._tools.get(name, name)

    def is_public(self, name: str) -> bool:
        """Return whether a tool needs no permission.

        Args:
            name: The framework's name of it.
        """
        return name in self._public

    def offers(self, name: str) -> bool:
        """Return whether a model may be shown a tool: it is public, or the task can allow some call of it.

        Args:
            name: The framework's name of it.
        """
        if name in self._public or self.task.ended is not None:
            return name in self._public
        if name in self._sub_agents:
            return self.task.depth > 0 and bool(meet_all(self.task.tools, self._sub_agents[name].tools))
        return self.task.offers(self.tool_of(name))

    def needs_approval(self, name: str, args: Mapping[str, Any], approvals: Sequence[Approval] = ()) -> bool:
        """Return whether nothing but an operator's approval is missing for a call, and this process can ask for one.

        Where it cannot, no run is suspended: the model reads that the approval is missing.

        Args:
            name: The framework's name of the tool.
            args: The call's arguments.
            approvals: What operators have approved of it.
        """
        tool = self.tool_of(name)
        if name in self._public or name in self._sub_agents or self.task.asker is None:
            return False
        if not self.task.needs_approval(tool):
            return False
        found = self.task.allows(tool, args, approvals=approvals)
        # After a mark the token alone allows it.
        return found.code == "missing_discharge" or (bool(found) and not approvals)

    def ask_approval(self, name: str, args: Mapping[str, Any], *, why: str | None = None) -> Approval:
        """Ask operators to approve one call, also of a task that was delegated from a started one.

        Args:
            name: The framework's name of the tool.
            args: The call's arguments.
            why: Why it is to be done, in words for the operators.

        Raises:
            AttenuationError: The task was not started in this process; or it would not allow the call with an
                approval either.
            ArxError: As ``StartedTask.ask_approval``.
        """
        tool = self.tool_of(name)
        try:
            return self._found_asker().ask_approval(tool, args, why=why)
        except GrantError as error:
            if error.code == "conflict":  # the mark was lifted: without this, no call of the tool would be tried again
                self.task.note_refusal(tool, error.code)
            raise

    def find_approval(self, approval: str) -> Approval:
        """Return an approval that was asked for, also before a restart, as it stands now; see ``Session.approval``.

        Args:
            approval: Its id.

        Raises:
            AttenuationError: As ``ask_approval``.
            ArxError: As ``Session.approval``.
        """
        return self._found_asker().approval(approval)

    @contextmanager
    def call(self, name: str, args: Mapping[str, Any], approvals: Sequence[Approval] = ()) -> Iterator[None]:
        """Run a tool in this context, in which ``current_task`` is the task of the call.

        This is a first check, by the task's own words: the service that the tool calls decides, or ``local_tool`` where
        the tool runs here.

        Args:
            name: The framework's name of the tool.
            args: The call's arguments.
            approvals: What operators have approved of it.

        Raises:
            ArxError: The call is refused, and the tool must not run.
        """
        if name in self._public:
            yield
            return
        if self.task.ended is not None:
            raise refusal(self.task.ended)
        if name in self._sub_agents:
            with running(self._part(self._sub_agents[name])):
                yield
            return
        answer = self.task.allows(self.tool_of(name), args, approvals=approvals)
        if not answer:
            raise refusal(answer.code, answer.failures)
        with running(self.task, approvals):
            yield

    def refusal_of(self, name: str, error: BaseException) -> ToolRefusal | None:
        """Return what a framework makes of an error that a tool raised, or None if it is no refusal of ARx.

        Args:
            name: The framework's name of the tool.
            error: An ``ArxError``, or an HTTP client's error with the response of a service of the task, or one that
                was raised from it.
        """
        cause: BaseException | None = error
        for _ in range(_MAX_CAUSES):
            if cause is None:
                break
            if isinstance(cause, ArxError):
                return self._noted(name, ToolRefusal(cause.code, error_for_model(name, cause), cause.code in ENDED))
            response = getattr(cause, "response", None)
            # A page that a tool reads must not say that an operator ended the work, nor why ARx refused a call.
            problem: Any = _problem_of(response) if self._is_service(response) else None
            text = problem_for_model(name, problem)
            if text is not None:
                code = str(problem["code"])
                return self._noted(name, ToolRefusal(code, text, code in ENDED))
            cause = cause.__cause__ or cause.__context__
        return None

    def _is_service(self, response: Any) -> bool:
        """Return whether a response is of an origin of the task; True where an audience of it has no origins."""
        origins = [self.task.bundle.origins.get(audience, ()) for audience in self.task.audiences]
        if not all(origins):
            return True
        try:
            url = urlsplit(str(response.url))
            origin = origin_of(url.scheme, url.hostname or "", url.port)
        except Exception:  # of any HTTP library: one without a URL, or with a bad one, shows no origin of the task
            return False
        return any(origin == read_origin(text) for texts in origins for text in texts)

    def _found_asker(self) -> StartedTask:
        asker = self.task.asker
        if not isinstance(asker, StartedTask):
            raise AttenuationError("only the process that started the task can ask for an approval")
        return asker

    def _part(self, sub_agent: SubAgent) -> Task:
        # One agent serves tasks of several templates: a sub-agent is given those of its tools that the task has.
        given = sorted(set(meet_all(self.task.tools, sub_agent.tools)))
        if not given:
            asked = ", ".join(sub_agent.tools)
            raise AttenuationError(f"this task has none of the tools of {sub_agent.to}: {shorten(asked)}")
        return self.task.delegate(**self._key(), **sub_agent._replace(tools=given)._asdict())

    def _key(self) -> dict[str, Any]:
        # The sub-agent runs in this process: its key never leaves it, and ends with the task.
        return {} if self.task.bound_to is None else {"key": HolderKey.generate()}

    def _noted(self, name: str, refused: ToolRefusal) -> ToolRefusal:
        self.task.note_refusal(self.tool_of(name), refused.code)
        # A freeze may be lifted; what was killed is over, and a model that is offered no tool ends its run.
        if refused.code == "revoked":
            self.task.ended = refused.code
        return refused

    def __repr__(self) -> str:
        return f"<ToolCalls of {self.task!r}>"


class RunToolCalls:
    """The tool calls of an agent that is written once and serves many tasks.

    Args:
        task: The task of all runs, or a function that returns a run's task from its context; None for the current task,
            such as a sub-agent's part.
        tools: As for ``ToolCalls``, like all that follow.
        public: Names of tools that need no permission.
        sub_agents: Tools that hand work to a sub-agent.

    Raises:
        SettingsError: As ``ToolCalls``.
    """

    def __init__(
        self,
        task: Task | Callable[[Any], Task] | None = None,
        *,
        tools: Mapping[str, str] | None = None,
        public: Collection[str] = (),
        sub_agents: Mapping[str, SubAgent] | None = None,
    ) -> None:
        self._task_of: Callable[[Any], Task | None] | None = task if callable(task) else None
        self._tables: dict[str, Any] = {"tools": dict(tools or {}), "public": tuple(public)}
        self._tables["sub_agents"] = dict(sub_agents or {})
        _check_tables(**self._tables)
        self._calls = ToolCalls(task, **self._tables) if isinstance(task, Task) else None

    def of(self, context: Any) -> ToolCalls:
        """Return the tool calls of a run.

        Args:
            context: The framework's context of the run.

        Raises:
            AttenuationError: The run has no task.
        """
        if self._calls is not None:
            return self._calls
        task = current_task() if self._task_of is None else self._task_of(context)
        # Another task's token must not be used instead: the run would have powers that its caller did not choose.
        if not isinstance(task, Task):
            raise AttenuationError("this run has no task: give it one, or run it in a tool that was called with a task")
        return ToolCalls(task, **self._tables)


def _check_tables(tools: Mapping[str, str], public: Collection[str], sub_agents: Mapping[str, SubAgent]) -> None:
    for name, tool in tools.items():
        if not is_tool(tool):
            raise SettingsError(f"tools: {shorten(tool)} of {shorten(name)} cannot name a tool")
        if name in public:
            raise SettingsError(f"public: {shorten(name)} is in tools as well")
    for name in sub_agents:
        if name in public or name in tools:
            raise SettingsError(f"sub_agents: {shorten(name)} is in tools or public as well")


def _problem_of(response: Any) -> Any:
    """Return the decoded problem of an HTTP response of httpx, httpx2 or requests, or None."""
    try:
        if not str(response.headers.get("content-type", "")).startswith("application/problem+json"):
            return None
        content = response.content
    except Exception:  # of any HTTP library, such as for a streamed answer that was not read
        return None
    if not isinstance(content, bytes) or len(content) > _MAX_PROBLEM_BYTES:
        return None
    try:
        return read_json_object(content)
    except RequestError:
        return None
