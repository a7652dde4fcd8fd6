# SPDX-License-Identifier: Apache-2.0
"""pydantic-ai: the message history of a conversation with stamps, in each message's metadata.

``agent.run(…, message_history=history.trusted(loaded))``, and then ``save(history.stamped(result.all_messages()))``.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, UserPromptPart

from arx_caps.memory import STAMP_FIELD, MemoryEntry, TaskMemory


class StampedHistory:
    """Stamps the messages of a conversation for a task, and checks them before they go to a model.

    What ``trusted`` has returned is a source of all that is stamped after it, also of a summary that a history
    processor puts in its place.

    Args:
        notes: The memory of the task.
        conversation: The conversation's name: a message of another one is not trusted in it.
    """

    def __init__(self, notes: TaskMemory, conversation: str) -> None:
        self._notes, self._conversation = notes.tracked(), conversation

    def trusted(self, messages: Sequence[ModelMessage]) -> list[ModelMessage]:
        """Return the trusted messages; what was withheld is recorded.

        A turn from which a message is withheld is withheld as a whole: a call of a tool and its answer belong together.

        Args:
            messages: The messages as they were saved.

        Raises:
            ArxError: As ``TaskMemory.trusted``.
        """
        return [entry.entry for entry in self._notes.trusted_turns(map(self._entry, messages), _begins_turn)]

    def stamped(self, messages: Sequence[ModelMessage]) -> list[ModelMessage]:
        """Return the messages with a stamp in each one's metadata, to be saved; a trusted stamp stays.

        Args:
            messages: Those of a run, such as ``result.all_messages()``.

        Raises:
            ArxError: As ``TaskMemory.stamp``.
        """
        entries = [self._entry(message) for message in messages]
        new = [place for place, entry in enumerate(entries) if not self._notes.is_trusted(entry)]
        found = list(messages)
        stamps = self._notes.stamp_all([entries[place].content for place in new], kind="agent") if new else []
        for place, stamp in zip(new, stamps, strict=True):
            message = messages[place]
            found[place] = replace(message, metadata={**(message.metadata or {}), STAMP_FIELD: stamp})
        return found

    def _entry(self, message: ModelMessage) -> MemoryEntry[ModelMessage]:
        metadata = dict(message.metadata or {})
        stamp = metadata.pop(STAMP_FIELD, None)
        (plain,) = ModelMessagesTypeAdapter.dump_python([replace(message, metadata=metadata or None)], mode="json")
        content: list[Any] = [self._conversation, plain]
        return MemoryEntry(message, content, stamp)


def _begins_turn(message: ModelMessage) -> bool:
    return isinstance(message, ModelRequest) and any(isinstance(part, UserPromptPart) for part in message.parts)
