# SPDX-License-Identifier: Apache-2.0
"""The part of a task that a message brought to an agent: whether it is this agent's, its calls, and what was refused.

The adapter of A2A servers uses this.  It imports no framework.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.agent_messages import asked_text, read_message_header
from arx_caps.agent.tools.tool_calls import ToolCalls
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, refusal
from arx_verifier.token.holder import HolderKey

_ASK: Final = "This agent cannot ask: ask where the task was started, and send the message again with the approval."


class PartRefusal(NamedTuple):
    """How work with a part of a task ended.

    Attributes:
        text: The text for the caller's model.
        waits: Whether nothing but an approval is missing.
        asked: The text that names the call which needs it; None where it is not known.
    """

    text: str
    waits: bool
    asked: str | None


class ReceivedPart:
    """What a message brought; its ``repr`` shows no secret.

    Attributes:
        task: The part; there is none where ``refusal_for`` says why.

    Args:
        values: The values of the message's headers that are ours.
        key: The key of the agent that was called, for the part of a bound task.
    """

    task: Task

    def __init__(self, values: Sequence[bytes], key: HolderKey | None = None) -> None:
        self._failed: tuple[BaseException, str, dict[str, Any]] | None = None
        self._error: ArxError | None = None
        try:
            self.task, self._approvals = read_message_header(values, key)
            self.task.check_key()  # else the agent would begin work that it cannot do
        except ArxError as error:
            self._error = error

    def refusal_for(self, agent: str) -> str | None:
        """Return why an agent must not work with this, or None.

        Args:
            agent: Its path.
        """
        if self._error is not None:
            return str(self._error)
        if self.task.holder != agent:
            return f"the task was delegated to {self.task.holder}"
        return str(refusal("expired")) if self.task.expires_at <= now_ms() else None

    @contextmanager
    def call(self, tool: str, args: Mapping[str, Any]) -> Iterator[None]:
        """Make one call: checked first, and with the approval that the message brought for it.

        Args:
            tool: The tool's name in tokens.
            args: The call's arguments as they go on the wire.

        Raises:
            ArxError: The call is refused.
        """
        brought = self._approvals if self.task.takes_approval(tool) else ()
        fitting = [each for each in brought if each.tool == tool and self.task.allows(tool, args, approvals=[each])]
        try:
            with ToolCalls(self.task).call(tool, args, fitting):
                yield
        except Exception as error:  # also that of an HTTP client, which may bring a service's refusal
            self._failed = error, tool, dict(args)
            raise

    def refusal_of(self, error: BaseException) -> PartRefusal | None:
        """Return how an error ends the work, or None if it is no refusal of ARx.

        Args:
            error: What the work raised.
        """
        failed = self._failed if self._failed is not None and self._failed[0] is error else None
        refused = ToolCalls(self.task).refusal_of("" if failed is None else failed[1], error)
        if refused is None:
            return None
        if refused.code != "missing_discharge":
            return PartRefusal(refused.text, False, None)
        return PartRefusal(f"{refused.text} {_ASK}", True, None if failed is None else asked_text(*failed[1:]))

    def __repr__(self) -> str:
        return f"<ReceivedPart {self._error or self.task!r}>"
