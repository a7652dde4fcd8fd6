# SPDX-License-Identifier: Apache-2.0
"""What a message between agents says about a task, in words that both sides share.

In a header, the part of the task that the agent which is called gets, and approvals; in that agent's card, its path;
in its answer, the call that needs an approval.  The adapters of A2A use this.  It imports no framework.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.request_signer import SignedHeader
from arx_caps.agent.tasks.task import Task
from arx_verifier.errors import RequestError, SettingsError, refusal, shorten
from arx_verifier.names import is_agent_path
from arx_verifier.request import read_json_object
from arx_verifier.token.holder import HolderKey

# Not a header of our own: HTTP clients drop this one where a redirect leads elsewhere, and logs leave it out.
MESSAGE_HEADER: Final = "Authorization"
CARD_SCHEME: Final = "arx"  # its name in cards, and the key of what is ours in states and metadata
_FORMAT: Final = "arx-task "  # of the bearer in a card, before the agent's path
_KEPT: Final = 128  # tasks that were read; an agent is called again and again with few


def bearer_format(agent: str, key: str | None = None) -> str:
    """Return what a card says of the bearer that its agent takes.

    Args:
        agent: The agent's path.
        key: The agent's public key, for parts of bound tasks; None if it has none.

    Raises:
        SettingsError: It is no agent path.
    """
    if not is_agent_path(agent):
        raise SettingsError(f"agent: expected a path such as acme/worker, got {shorten(agent)}")
    return _FORMAT + (agent if key is None else f"{agent} {key}")


def agent_of(bearer: str) -> tuple[str, str | None]:
    """Return the path that a card names, empty or no path where it names none, and its agent's public key.

    Args:
        bearer: Its bearer format.
    """
    agent, _, key = bearer.removeprefix(_FORMAT).partition(" ")
    return agent, key or None


def message_header(part: str, approvals: Iterable[Approval] = ()) -> SignedHeader:
    """Return the header of a message; its ``repr`` shows no secret.

    Args:
        part: The text of a task.
        approvals: What operators have approved.
    """
    return SignedHeader(f"Bearer {','.join((part, *(each.encode() for each in approvals)))}")


def is_message_header(value: bytes) -> bool:
    """Return whether the value of a header is ours, whole or not.

    Args:
        value: The value.
    """
    return value.partition(b" ")[2].lstrip().startswith(b"arx")


def read_message_header(values: Sequence[bytes], key: HolderKey | None = None) -> tuple[Task, tuple[Approval, ...]]:
    """Return the task and the approvals that a message brought; nothing of them is proven.

    Args:
        values: The values of its headers that are ours.
        key: The key of the agent that was called.

    Raises:
        ArxError: There is none, more than one, or one that cannot be read.
    """
    if len(values) != 1:
        raise refusal("malformed_request" if values else "missing_token")
    part, *approvals = values[0].decode("latin-1").partition(" ")[2].split(",")
    return _task_of(part, key=key), tuple(map(Approval.from_text, approvals))


# A caller sends one part with many messages; to read it takes ten times as long as to look it up.
_task_of = lru_cache(_KEPT)(Task.from_text)


def asked_text(tool: str, args: Mapping[str, Any]) -> str:
    """Return the text that names a call which needs an approval.

    Args:
        tool: The tool.
        args: The call's arguments.
    """
    # A text: the numbers of a message may be doubles, and an approval is of the exact arguments.
    return json.dumps({"tool": tool, "args": args})


def read_asked(text: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the tool and the arguments that such a text names, or None.

    Args:
        text: The text, which another agent wrote.
    """
    with suppress(RequestError, AttributeError, KeyError, TypeError, ValueError):
        asked = read_json_object(text.encode())
        return str(asked["tool"]), dict(asked["args"])
    return None
