# SPDX-License-Identifier: Apache-2.0
"""The decision on a hook's call: of a process that has the verifier, or of the token alone.

A hook lives for one call.  It cannot follow kills, and it has no memory of used calls: another process must.
"""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from arx_caps.agent import Task
from arx_caps.agent.tasks.forecast import judge
from arx_caps.agent.tasks.outline import unverified_chain
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError, RequestError, StoreError
from arx_verifier.refusal_text import problem_for_model, refusal_for_model
from arx_verifier.request import AccessRequest, read_json_object

MAX_LINE: Final = 1024 * 1024  # bytes of a question or an answer, each one line of JSON
_CHUNK: Final = 64 * 1024


def audience_of(task: Task, audience: str | None) -> str:
    """Return the service whose token a hook uses.

    Args:
        task: The task.
        audience: The chosen one, or None.

    Raises:
        AttenuationError: The task has several, or not this one.
    """
    if audience is None and len(task.audiences) == 1:
        return task.audiences[0]
    if audience not in task.audiences:
        raise AttenuationError(
            f"expected one service of the task, {', '.join(task.audiences)}: name it with --audience"
        )
    return audience


def ask_decider(path: Path, task: Task, audience: str, name: str, tool: str, args: Mapping[str, Any]) -> str | None:
    """Return why ``arx hook serve`` refuses a call, for the model; None if it allows it.

    Args:
        path: Its socket.
        task: The task, which signs the call.
        audience: The service.
        name: The agent's name of the tool.
        tool: The tool.
        args: The arguments.

    Raises:
        ArxError: There is no answer, or the task cannot sign the call.
    """
    token = task.call_token(audience, tool, args)
    question = json.dumps({"token": token, "tool": tool, "args": dict(args)}).encode() + b"\n"
    if len(question) > MAX_LINE:
        raise RequestError(f"expected a call of at most {MAX_LINE} bytes")
    answer = read_json_object(_exchange(path, question))
    if answer.get("code") == "ok":
        return None
    text = problem_for_model(name, answer)
    if text is None:
        raise StoreError(f"{path}: expected an answer of `arx hook serve`, got another")
    return text


def judge_offline(task: Task, audience: str, name: str, tool: str, args: Mapping[str, Any]) -> str | None:
    """Return why a task's own words refuse a call, for the model; None if they allow it.

    Nothing is verified or recorded, and no kill is known.

    Args:
        task: The task.
        audience: The service.
        name: The agent's name of the tool.
        tool: The tool.
        args: The arguments.

    Raises:
        AttenuationError: Only a verifier can decide on the calls of this task.
    """
    chain = unverified_chain(task.bundle.tokens[audience])
    if chain.pools or chain.once or chain.fresh_ms is not None:
        raise AttenuationError(
            "the task has a budget, `once` or `fresh`, which only a verifier can keep: use --decider"
        )
    answer = judge(chain, AccessRequest(tool, dict(args), now_ms()))
    return None if answer else refusal_for_model(name, answer.code, answer.failures)


def _exchange(path: Path, question: bytes) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(path))
            connection.sendall(question)
            answer = b""
            while not answer.endswith(b"\n") and len(answer) <= MAX_LINE:
                if not (chunk := connection.recv(_CHUNK)):
                    raise StoreError(f"{path}: the decider ended without an answer")
                answer += chunk
            return answer
    except OSError as error:
        text = f"{path}: expected a running `arx hook serve`: {error.strerror or error}"
        raise StoreError(text) from None
