# SPDX-License-Identifier: Apache-2.0
"""The parts of a task that an agent sends with its messages to other agents, each kept for the messages that follow.

To delegate takes half a millisecond, and an orchestrator sends many messages to few agents.
"""

from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from arx_caps.agent.sessions.mint_client import is_private
from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.request_signer import SignedHeader
from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.agent_messages import message_header
from arx_caps.agent.tools.running_task import current_task
from arx_caps.settings.durations import parse_duration
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError, shorten
from arx_verifier.names import is_agent_path

_KEPT: Final = 128  # parts, the last used


class _Part(NamedTuple):
    text: str
    expires_at: int


class MessageParts:
    """The parts of a task, or of each current task.

    Args:
        task: The task; None for ``current_task()`` of each message.
        to: The agent path that a card has to name; None for any.
        limits: What is left of the task: ``tools``, ``args``, ``ttl``, ``depth``, ``audiences`` of ``Task.delegate``.
            A bound task is delegated to the key that the card names, or to ``key``.

    Raises:
        AttenuationError: ``ttl`` is no duration.
    """

    def __init__(self, task: Task | None, to: str | None, limits: dict[str, Any]) -> None:
        self._task, self._to, self._limits = task, to, limits
        self._kept: OrderedDict[tuple[Bundle, str, str | None], _Part] = OrderedDict()
        try:
            self._ttl_ms = None if limits.get("ttl") is None else parse_duration(limits["ttl"])
        except ValueError as error:
            raise AttenuationError(f"ttl: {error}") from error

    def header(
        self,
        name: str,
        to: str,
        addresses: Collection[str],
        approvals: Collection[Approval],
        key: str | None = None,
    ) -> SignedHeader:
        """Return the header of a message, which brings a part of the task.

        Args:
            name: The name of the agent that is called.
            to: The agent path that its card names.
            addresses: Its URLs.
            approvals: What operators have approved.
            key: The public key that its card names, or None.

        Raises:
            AttenuationError: The card names no agent path or another one, or has an address without TLS; no task runs
                here; or as ``Task.delegate``.
        """
        task = self._task or current_task()
        if task is None or not is_agent_path(to) or self._to not in (None, to):
            why = "no task runs here" if task is None else f"its card names {shorten(to) if to else 'no agent path'}"
            raise AttenuationError(f"cannot delegate to {shorten(self._to or name)}: {why}")
        if not all(map(is_private, addresses)):
            raise AttenuationError(f"cannot delegate to {to}: its card has an address without TLS")
        return message_header(self._part(task, to, key), approvals)

    def _part(self, task: Task, to: str, public: str | None) -> str:
        limits = self._limits if task.bound_to is None else {"key": public, **self._limits}
        # By the bundle: a task that was extended has another one, and its parts live longer.
        key = (task.bundle, to, limits.get("key"))
        task.used()  # by the agent that is called, which the mint does not see
        kept = self._kept.get(key)
        if kept is None or self._is_short(kept, task):
            made = task.delegate(to, **limits)
            kept = self._kept[key] = _Part(made.encode(), made.expires_at)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return kept.text

    def _is_short(self, kept: _Part, task: Task) -> bool:
        """Return whether a part has lost more than a tenth of the ``ttl`` that each message is to bring."""
        if self._ttl_ms is None:
            return False
        return min(now_ms() + self._ttl_ms, task.expires_at) - kept.expires_at > self._ttl_ms // 10
