# SPDX-License-Identifier: Apache-2.0
"""The APIs of three models, as far as their coding agents need them: a call of a tool a turn, and then the end."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tests.adapters.asgi_server import complete_lifespan, whole_body

Call = tuple[str, dict[str, Any]]  # of a tool: its name and its input
_LAST: Final = "done"


def anthropic(asked: dict[str, Any], calls: Sequence[Call]) -> bytes:
    """Answer as Anthropic's Messages API."""
    done = len(_read_of_anthropic(asked))
    if asked.get("tools") and done < len(calls):
        name, given = calls[done]
        block: dict[str, Any] = {"type": "tool_use", "id": f"toolu_{done}", "name": name, "input": {}}
        delta, why = {"type": "input_json_delta", "partial_json": json.dumps(given)}, "tool_use"
    else:
        block, delta, why = {"type": "text", "text": ""}, {"type": "text_delta", "text": _LAST}, "end_turn"
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": f"msg_{done}", "type": "message", "role": "assistant", "model": asked["model"], "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    ended = {"delta": {"stop_reason": why, "stop_sequence": None}, "usage": {"output_tokens": 1}}
    return _events(
        ("message_start", {"message": message}),
        ("content_block_start", {"index": 0, "content_block": block}),
        ("content_block_delta", {"index": 0, "delta": delta}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", ended),
        ("message_stop", {}),
    )


def _read_of_anthropic(asked: dict[str, Any]) -> list[str]:
    parts = [part for each in asked["messages"] if isinstance(each["content"], list) for part in each["content"]]
    return [str(part["content"]) for part in parts if part["type"] == "tool_result"]


def _openai(asked: dict[str, Any], calls: Sequence[Call]) -> bytes:
    done = len(_read_of_openai(asked))
    if done < len(calls):
        name, given = calls[done]
        item: dict[str, Any] = {"type": "function_call", "id": f"fc_{done}", "call_id": f"call_{done}", "name": name}
        item["arguments"] = json.dumps(given)
    else:
        text = {"type": "output_text", "text": _LAST, "annotations": []}
        item = {"type": "message", "id": f"msg_{done}", "role": "assistant", "content": [text]}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    response = {"id": f"resp_{done}", "object": "response", "model": asked["model"]}
    return _events(
        ("response.created", {"response": response | {"status": "in_progress", "output": []}}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": response | {"status": "completed", "output": [item], "usage": usage}}),
    )


def _read_of_openai(asked: dict[str, Any]) -> list[str]:
    return [str(each["output"]) for each in asked["input"] if each["type"] == "function_call_output"]


def _gemini(asked: dict[str, Any], calls: Sequence[Call]) -> bytes:
    done = len(_read_of_gemini(asked))
    if "tools" not in asked:  # which of its models takes the task
        part: dict[str, Any] = {"text": json.dumps({"complexity_reasoning": "a push", "complexity_score": 90})}
    elif done < len(calls):
        name, given = calls[done]
        part = {"functionCall": {"name": name, "args": given}}
    else:
        part = {"text": _LAST}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    answer = json.dumps({"candidates": [candidate], "usageMetadata": usage})
    return (f"data: {answer}\n\n" if "tools" in asked else answer).encode()


def _read_of_gemini(asked: dict[str, Any]) -> list[str]:
    parts = [part for each in asked["contents"] for part in each["parts"]]
    return [str(part["functionResponse"]["response"]["output"]) for part in parts if "functionResponse" in part]


def _events(*events: Call) -> bytes:
    return "".join(f"event: {kind}\ndata: {json.dumps({'type': kind, **event})}\n\n" for kind, event in events).encode()


class Api(NamedTuple):
    """The API of a model.

    Attributes:
        path: What the path of its requests ends with, before a colon.
        shell: Returns the call of the agent's shell that runs a command.
        answer: Answers a request.
        read: Returns what a request has of the results of calls.
    """

    path: str
    shell: Callable[[str], Call]
    answer: Callable[[dict[str, Any], Sequence[Call]], bytes]
    read: Callable[[dict[str, Any]], list[str]]


APIS: Final = {
    "anthropic": Api(
        "/v1/messages",
        lambda command: ("Bash", {"command": command, "description": "run it"}),
        anthropic,
        _read_of_anthropic,
    ),
    "openai": Api("/v1/responses", lambda command: ("exec_command", {"cmd": command}), _openai, _read_of_openai),
    "gemini": Api("Content", lambda command: ("run_shell_command", {"command": command}), _gemini, _read_of_gemini),
}


class ScriptedModel:
    """A model that has its agent run commands, as an ASGI application.

    Args:
        api: Its API.
        steps: The commands.

    Attributes:
        asked: Each request: method, path, headers and body.
        read: What came of the commands, as the model read it.
    """

    def __init__(self, api: Api, steps: Sequence[str]) -> None:
        self._api, self._calls = api, [api.shell(step) for step in steps]
        self.asked: list[tuple[str, str, dict[bytes, bytes], bytes]] = []
        self.read: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if await complete_lifespan(scope, receive, send):
            return
        body = await whole_body(receive)
        self.asked.append((scope["method"], scope["path"], dict(scope["headers"]), body))
        status, kind, answer = 404, b"application/json", b"{}"
        if scope["path"].endswith(self._api.path):
            asked = json.loads(body)
            self.read = max(self.read, self._api.read(asked), key=len)
            status, answer = 200, self._api.answer(asked, self._calls)
            kind = kind if answer.startswith(b"{") else b"text/event-stream"
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": answer})
