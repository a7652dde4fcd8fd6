# SPDX-License-Identifier: Apache-2.0
"""Messages of MCP that are changed at random, for a guarded server in Node.

The name that a handler gets begins with ``o-`` in a message whose token allows the call, else with ``f-``.
"""

import json
from random import Random
from typing import Any, Final

CAP: Final = "dev.arx/cap"
METHODS: Final = (
    *("tools/call",) * 6,
    *("tools/list", "prompts/list", "resources/list", "resources/templates/list", "prompts/get", "resources/read"),
    *("completion/complete", "resources/subscribe", "ping", "initialize", "logging/setLevel", "server/discover"),
    *("notifications/cancelled", "notifications/cancelled", "notifications/initialized", "notifications/progress"),
    *("tasks/get", "tasks/result", "tasks/list", "roots/list", "sampling/createMessage", "elicitation/create"),
    *("notifications/tools/list_changed", "rpc.discover", "", "arx/any", "__proto__", "constructor", "toString"),
)
ODD: Final[tuple[Any, ...]] = (None, True, 0, -1, 1.5, "", "x", "1", [], {}, [{}], {"__proto__": {"name": "get"}})
SPELLINGS: Final = ("{0} ", " {0}", "{0}/", "{0}\0", "{0}#", "./{0}", "{0}\u200b")


class Messages:
    """A source of frames.

    Args:
        seed: The same frames come of the same seed.
        tokens: The tokens ``any`` and ``narrow``.

    Attributes:
        sent: The names that were sent with an id.
    """

    def __init__(self, seed: int, tokens: dict[str, str]) -> None:
        self._random, self._tokens, self._number = Random(seed), tokens, 0
        self.sent: dict[str, set[str]] = {}

    def next(self) -> bytes:
        """Return a frame: most of them one message, some a batch, or cut, or other bytes."""
        dice = self._random.random()
        if dice < 0.03:
            several = [self._text() for _ in range(self._random.randrange(4))]
            # A request that its own batch cancels has no answer, and its HTTP response no end.
            return f"[{','.join(text for text in several if 'cancelled' not in text)}]".encode()
        frame = self._text().encode("utf-8", "surrogatepass")
        at = self._random.randrange(len(frame) + 1)
        if dice < 0.06:
            return frame[:at]
        if dice < 0.1:
            return (
                frame[:at]
                + self._random.choice((b"\xff", b"\0", b"\xef\xbb\xbf", b"\r", b'"', b"}", b"{"))
                + frame[at:]
            )
        if dice < 0.12:
            return self._random.choice(
                (b"\xef\xbb\xbf" + frame, frame + frame, b"null", b"7", b"", b"[" * 2000, b'"x"')
            )
        return frame

    def _text(self) -> str:
        pick, chance = self._random.choice, self._random.random
        method, way = pick(METHODS), pick(("any", "any", "narrow", "narrow", "none", "cut", "odd", "twice"))
        self._number += 1
        tool = pick(("get", "slow", "refund")) if way != "narrow" else pick(("get", "refund"))
        is_allowed = way == "any" or (way == "narrow" and method == "tools/call" and tool == "get" and chance() < 0.7)
        name = f"{'o' if is_allowed else 'f'}-{self._number}"
        params = self._params(method, tool, name) | self._token(way)
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._id(), "method": method}
        if method.startswith("notifications/") and chance() < 0.8:
            del message["id"]
        if params or chance() < 0.5:
            message["params"] = params
        if chance() < 0.3:
            self._change(message, params, name)
        self.sent.setdefault(json.dumps(message.get("id")), set()).add(name)
        text = json.dumps(message)
        if chance() < 0.1:
            inner = pick(
                ('"name":"get"', '"arguments":{}', '"method":"ping"', '"params":{}', '"id":"f-0"', '"_meta":{}')
            )
            text = pick((text[:-1] + f",{inner}}}", text.replace("{", f"{{{inner},", 1), text.replace("/", "\\/")))
        return text.replace("tools", pick(("tools", "tools", "\\u0074ools")))

    def _params(self, method: str, tool: str, name: str) -> dict[str, Any]:
        made: dict[str, dict[str, Any]] = {
            "tools/call": {"name": tool, "arguments": {"id": name}},
            "prompts/get": {"name": name},
            "resources/read": {"uri": f"{name}://x"},
            "resources/subscribe": {"uri": f"{name}://x"},
            "notifications/cancelled": {"requestId": self._id()},
            "notifications/progress": {"progressToken": 1, "progress": 1},
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "a", "version": "1"},
            },
            "logging/setLevel": {"level": "error"},
        }
        return dict(made.get(method, {}))

    def _id(self) -> int | str:
        """An id of this message, or of one before, which may wait for its answer."""
        number = self._number - self._random.choice((0, 0, 0, 0, 0, 1, 2, 3))
        return self._random.choice((number, number, number, str(number)))

    def _token(self, way: str) -> dict[str, Any]:
        token = self._tokens.get(way, self._tokens["any"])
        metas: dict[str, Any] = {
            "none": self._random.choice(({}, {CAP.upper(): token}, {f"{CAP} ": token}, {"__proto__": {CAP: token}})),
            "cut": {CAP: token[:-9]},
            "odd": {CAP: self._random.choice((*ODD, [token], {"token": token}, f"Bearer {token}"))},
            "twice": {CAP: f"{token} {token}"},
        }
        meta = metas.get(way, {CAP: token, "progressToken": 1})
        if way == "none" and self._random.random() < 0.3:
            return self._random.choice(({CAP: token}, {"_meta": [{CAP: token}]}, {"_meta": token}, {"token": token}))
        return {"_meta": meta} if meta else {}

    def _change(self, message: dict[str, Any], params: dict[str, Any], name: str) -> None:
        pick = self._random.choice
        at = self._random.randrange(8)
        if at == 0:
            message["method"] = pick((pick(SPELLINGS).format(message["method"]), message["method"].upper(), *ODD))
        elif at == 1:
            message["id"] = pick((*ODD, name * 100))
        elif at == 2:
            message["params"] = pick((*ODD, [params]))
        elif at == 3:
            message[pick(("jsonrpc", "Method", "Params", "result", "error", "extra"))] = pick((*ODD, params))
        elif at == 4:
            params[pick(("arguments", "Arguments", "task", "inputResponses", "requestState", "uri", "ref"))] = pick(ODD)
        elif at == 5:
            params[pick(("name", "Name", "cursor", "_Meta"))] = pick((*ODD, "prompts.get", "get\0", "../get", "GET"))
        elif at == 6:
            message.pop(pick(sorted(message)))
        else:
            message["method"] = pick(
                ("tools/list", "prompts/list", "resources/list", "ping", "notifications/cancelled")
            )
