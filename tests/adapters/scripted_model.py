# SPDX-License-Identifier: Apache-2.0
"""A chat model of LangChain that follows a script, and keeps what it was shown."""

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

Step = str | dict[str, Any] | list[tuple[str, dict[str, Any]]] | Callable[[list[BaseMessage]], Any]


def call(tool: str, **args: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the step in which the model calls a tool."""
    return [(tool, args)]


class ScriptedModel(BaseChatModel):
    """Answer with the next step since the last message of a person, whatever the process or thread.

    A step is a text, tool calls, or a function of the messages that returns one of them.
    """

    script: list[Any]
    _seen: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _offered: list[list[str]] = PrivateAttr(default_factory=list)

    @property
    def seen(self) -> list[list[BaseMessage]]:
        """The messages of each request."""
        return self._seen

    @property
    def offered(self) -> list[list[str]]:
        """The tools of each request."""
        return self._offered

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **more: Any) -> Any:
        """Offer tools."""
        return self.bind(offered=[tool.name for tool in tools])

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, *, offered: Any = (), **more: Any
    ) -> ChatResult:
        self._seen.append(list(messages))
        self._offered.append(list(offered))
        asked = max(place for place, each in enumerate(messages) if isinstance(each, HumanMessage))
        step = self.script[sum(isinstance(each, AIMessage) for each in messages[asked:])]
        if callable(step):
            step = step(messages)
        if isinstance(step, str):
            answer = AIMessage(step)
        else:
            about = [
                {"name": name, "args": args, "id": f"c{len(messages)}-{place}"}
                for place, (name, args) in enumerate(step)
            ]
            answer = AIMessage("", tool_calls=about)
        return ChatResult(generations=[ChatGeneration(message=answer)])
