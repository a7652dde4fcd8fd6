# SPDX-License-Identifier: Apache-2.0
"""The tool calls of one task in an agent framework: which are offered, the check before each, the text of a refusal.

Every adapter of ``arx_caps.integrations`` calls this and decides nothing itself.  This module uses no framework.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from arx_caps.agent.approval import Approval
from arx_caps.agent.running_task import running
from arx_caps.agent.started_task import StartedTask
from arx_caps.agent.task import Task
from arx_verifier.errors import ArxError, AttenuationError, SettingsError, refusal, shorten
from arx_verifier.names import is_tool
from arx_verifier.refusal_text import error_for_model, problem_for_model

ENDED: Final = ("revoked", "frozen")  # no later call of this task is allowed
_MAX_PROBLEM_BYTES: Final = 16 * 1024
_MAX_CAUSES: Final = 8  # a framework wraps an error a few times


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


class ToolCalls:
    """The tool calls of one task.

    Attributes:
        task: The task.
        approvals: What operators have approved, by the framework's id of the call.
        ended: The refusal that showed a kill of the task; then no guarded tool is offered or called any more.

    Args:
        task: The task.
        tools: A framework's name of a tool to its name in tokens, ``{"refund": "orders.refund"}``; a tool that is not
            here has one name.
        public: The framework's names of tools that need no permission.
        asker: The started task that asks operators for approvals; ``task`` itself if it is one.

    Raises:
        SettingsError: A name in ``tools`` cannot name a tool, or a tool is public and in ``tools``.
    """

    def __init__(
        self,
        task: Task,
        *,
        tools: Mapping[str, str] | None = None,
        public: Collection[str] = (),
        asker: StartedTask | None = None,
    ) -> None:
        self.task, self._tools, self._public = task, dict(tools or {}), frozenset(public)
        self._asker = asker if asker is not None or not isinstance(task, StartedTask) else task
        self.approvals: dict[str, Approval] = {}
        self.ended: ToolRefusal | None = None
        for name, tool in self._tools.items():
            if not is_tool(tool):
                raise SettingsError(f"tools: {shorten(tool)} of {shorten(name)} cannot name a tool")
            if name in self._public:
                raise SettingsError(f"public: {shorten(name)} is in tools as well")

    def of(self, task: Task) -> "ToolCalls":
        """Return the same for another task, such as a delegated one.

        Args:
            task: The task.
        """
        other = ToolCalls(task, tools=self._tools, public=self._public, asker=self._asker)
        other.approvals = self.approvals
        return other

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
        return name in self._public or (self.ended is None and self.task.offers(self.tool_of(name)))

    def needs_approval(self, name: str, args: Mapping[str, Any], approvals: Sequence[Approval] = ()) -> bool:
        """Return whether nothing but an operator's approval is missing for a call.

        Args:
            name: The framework's name of the tool.
            args: The call's arguments.
            approvals: What operators have approved of it.
        """
        if name in self._public:
            return False
        return self.task.allows(self.tool_of(name), args, approvals=approvals).code == "missing_discharge"

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
        if self._asker is None:
            raise AttenuationError("only the process that started the task can ask for an approval: give `asker`")
        return self._asker.ask_approval(self.tool_of(name), args, why=why)

    def find_approval(self, approval: str) -> Approval:
        """Return an approval that was asked for, also before a restart, as it stands now; see ``Session.approval``.

        Args:
            approval: Its id.

        Raises:
            AttenuationError: As ``ask_approval``.
            ArxError: As ``Session.approval``.
        """
        if self._asker is None:
            raise AttenuationError("only the process that started the task can look at an approval: give `asker`")
        return self._asker.approval(approval)

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
        if self.ended is not None:
            raise refusal(self.ended.code)
        answer = self.task.allows(self.tool_of(name), args, approvals=approvals)
        if not answer:
            raise refusal(answer.code, answer.failures)
        with running(self.task, approvals):
            yield

    def refusal_of(self, name: str, error: BaseException) -> ToolRefusal | None:
        """Return what a framework makes of an error that a tool raised, or None if it is no refusal of ARx.

        Args:
            name: The framework's name of the tool.
            error: An ``ArxError``, or an HTTP client's error with the response of a guarded service, or one that was
                raised from it.
        """
        cause: BaseException | None = error
        for _ in range(_MAX_CAUSES):
            if cause is None:
                break
            if isinstance(cause, ArxError):
                return self._noted(ToolRefusal(cause.code, error_for_model(name, cause), cause.code in ENDED))
            problem = _problem_of(getattr(cause, "response", None))
            text = problem_for_model(name, problem)
            if text is not None:
                code = str(problem["code"])
                return self._noted(ToolRefusal(code, text, code in ENDED))
            cause = cause.__cause__ or cause.__context__
        return None

    def _noted(self, refused: ToolRefusal) -> ToolRefusal:
        # A freeze may be lifted; what was killed is over, and a model that is offered no tool ends its run.
        if refused.code == "revoked":
            self.ended = refused
        return refused

    def __repr__(self) -> str:
        return f"<ToolCalls of {self.task!r}>"


def _problem_of(response: Any) -> Any:
    """Return the decoded problem of an HTTP response of httpx, httpx2 or requests, or None."""
    try:
        if not str(response.headers.get("content-type", "")).startswith("application/problem+json"):
            return None
        content = response.content
    except Exception:
        return None
    if not isinstance(content, bytes) or len(content) > _MAX_PROBLEM_BYTES:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None
