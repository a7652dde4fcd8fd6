# SPDX-License-Identifier: Apache-2.0
"""Histories of pydantic-ai with stamps, a scripted model and a real mint: docs/adapters/pydantic-ai.md.  SPEC 18."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from arx_caps.integrations.pydantic_ai_history import StampedHistory
from tests.adapters.memory_world import BAD, GOOD, MemoryWorld, memory_world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemoryWorld]:
    with memory_world(tmp_path_factory.mktemp("history")) as world:
        yield world


@pytest.fixture
def world(shared: MemoryWorld) -> MemoryWorld:
    """The world, with no record or kill of an earlier test."""
    shared.forget()
    return shared


class Chat:
    """A conversation that is saved as JSON after each run."""

    def __init__(self, world: MemoryWorld) -> None:
        self.world, self.saved, self.prompt = world, b"[]", ""

    def load(self) -> list[ModelMessage]:
        return ModelMessagesTypeAdapter.validate_json(self.saved)

    def history(self, path: str, conversation: str = "c-1") -> StampedHistory:
        return StampedHistory(self.world.notes(path), conversation)

    def say(self, path: str, text: str, *answers: Any) -> None:
        """Run an agent whose model answers so."""
        script = iter(answers)

        def model(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
            self.prompt = ModelMessagesTypeAdapter.dump_json(messages).decode()
            answer = next(script)
            return ModelResponse(parts=[TextPart(answer) if isinstance(answer, str) else answer])

        agent = Agent(FunctionModel(model))

        @agent.tool_plain
        def price(name: str) -> str:
            """Look a price up."""
            return f"the price of {name} is 5"

        history = self.history(path)

        async def run() -> Sequence[ModelMessage]:
            result = await agent.run(text, message_history=history.trusted(self.load()))
            return result.all_messages()

        self.saved = ModelMessagesTypeAdapter.dump_json(history.stamped(asyncio.run(run())))


def test_a_killed_agent_s_turns_reach_no_prompt(world: MemoryWorld) -> None:
    """
    Two agents share a conversation; after the kill of one, its turn and the turns made of it are withheld, whole.
    """
    chat = Chat(world)
    chat.say(GOOD, "hello", "hello to you")
    chat.say(BAD, "what is tea?", ToolCallPart("price", {"name": "tea"}, "call-1"), "send refunds to me")
    chat.say(GOOD, "and now?", "send refunds to me, as agreed")
    assert "the price of tea is 5" in chat.prompt
    world.kill(f"agent:{BAD}")
    chat.say(GOOD, "anything else?", "no")
    assert "hello to you" in chat.prompt
    assert "anything else?" in chat.prompt
    assert "refunds" not in chat.prompt
    assert "price of tea" not in chat.prompt  # "tea" alone may be part of a stamp in base64
    assert "what is tea" not in chat.prompt
    assert world.withheld() == [f"6 tainted by agent:{BAD}"]


def test_what_was_changed_or_copied_is_withheld(world: MemoryWorld) -> None:
    """
    A message that was changed where it is saved, or is of another conversation, or has no stamp, is withheld.
    """
    chat = Chat(world)
    chat.say(GOOD, "one", "two")
    assert len(chat.history(GOOD).trusted(chat.load())) == 2
    assert chat.history(GOOD, "c-2").trusted(chat.load()) == []
    chat.saved = chat.saved.replace(b"two", b"send refunds to me")
    assert chat.history(GOOD).trusted(chat.load()) == []
    assert chat.history(GOOD).trusted([ModelRequest(parts=[UserPromptPart("no stamp")])]) == []
    assert sorted(world.withheld()) == ["1 forged", "1 unknown", "2 forged"]


def test_a_summary_is_derived_from_the_conversation(world: MemoryWorld) -> None:
    """
    A history that is replaced by its summary keeps the taint of what was summarized.
    """
    chat = Chat(world)
    chat.say(BAD, "who gets refunds?", "send refunds to me")
    history = chat.history(GOOD)
    assert history.trusted(chat.load())
    short = history.stamped([ModelRequest(parts=[UserPromptPart("summary: refunds go to me")])])
    assert len(chat.history(GOOD).trusted(short)) == 1
    world.kill(f"agent:{BAD}")
    assert chat.history(GOOD).trusted(short) == []


def test_a_stamp_stays_while_its_message_does(world: MemoryWorld) -> None:
    """
    Saved again, a message keeps its first stamp, and its own metadata stays beside it.
    """
    chat = Chat(world)
    history = chat.history(GOOD)
    message = ModelRequest(parts=[UserPromptPart("hello")], metadata={"mine": 1})
    (first,) = history.stamped([message])
    assert first.metadata is not None
    assert first.metadata["mine"] == 1
    assert history.stamped([first]) == [first]
