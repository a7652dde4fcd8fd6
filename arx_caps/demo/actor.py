# SPDX-License-Identifier: Apache-2.0
"""The demo's agents: a process that does what it is told, line by line, with a task of its own.

Each line on standard input is one JSON command, each line on standard output its JSON answer.  The orchestrator opens a
session and delegates; the sub-agent is given one string and nothing else, also no key.  Tokens stay in here, but for
the one string that a delegation is.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from arx_caps.agent import Agent, Approval, ArxAuth, Session, StartedTask, Task
from arx_verifier import ArxError, CallSigner, Caveat, HttpCall, Macaroon, Rule
from arx_verifier.token.call_proof import http_fields
from arx_verifier.token.wire import TAIL, caveat_packet

EMPTY_SHA256 = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


class Actor:
    """One agent: its session if it opened one, its tasks, and a stream of calls that can run beside."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._tasks: dict[str, Task] = {}
        self._approvals: dict[str, Approval] = {}
        self._streams: list[threading.Thread] = []
        self._stop = threading.Event()
        self._accepted: dict[str, list[float]] = {}
        self._refused: dict[str, dict[str, Any]] = {}

    def open_session(self, key: str, purpose: str) -> dict[str, Any]:
        """Prove who this is with an enrolled key, and open a session."""
        self._session = Agent.from_key_file(key).open_session(purpose=purpose)
        return {"session": self._session.id}

    def start_task(self, name: str, template: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the mint for what one task needs."""
        assert self._session is not None
        self._tasks[name] = task = self._session.start_task(template, **params)
        return {"task": task.id}

    def delegate(self, name: str, to: str, **attenuated: Any) -> dict[str, Any]:
        """Attenuate a task for another agent, without asking anybody."""
        began = time.perf_counter()
        text = self._tasks[name].delegate(to, **attenuated).encode()
        return {"bundle": text, "took_ms": (time.perf_counter() - began) * 1000}

    def receive(self, name: str, bundle: str) -> dict[str, Any]:
        """Take what another agent delegated."""
        self._tasks[name] = task = Task.from_text(bundle)
        return {"holder": task.holder}

    def finish(self, name: str) -> dict[str, Any]:
        """Say that a task is done; nothing of it works from then on."""
        self._tasks[name].finish()
        return {}

    def ask(self, name: str, tool: str, args: dict[str, Any], why: str) -> dict[str, Any]:
        """Ask operators to approve a call of a task."""
        task = self._tasks[name]
        assert isinstance(task, StartedTask)
        self._approvals[name] = approval = task.ask_approval(tool, args, why=why)
        return {"approval": approval.id}

    def call(self, name: str, method: str, url: str, body: Any = None, *, approved: bool = False) -> dict[str, Any]:
        """Call a tool, perhaps with what was approved for the task; the auth class signs the call."""
        approvals = [self._approvals[name].wait(timeout_s=10.0)] if approved else []
        with httpx.Client(auth=self._tasks[name].auth(approvals=approvals)) as client:
            return answer(client.request(method, url, json=body))

    def call_with(self, name: str, how: str, url: str) -> dict[str, Any]:
        """Call with a token that this agent tampered with: widened, stripped, replayed, or for another service."""
        tokens = self._tasks[name].tokens
        token = Macaroon.parse(tokens["orders"])
        if how == "widened":
            anything = (Rule(tool="*"),)
            token = token.attenuate(Caveat(allow=anything, depth=16))
        if how == "stripped":
            body, signature = token.parts()
            last = caveat_packet(token.packets[-1])
            token = Macaroon.from_bytes(body.removesuffix(last) + TAIL + signature)
        target = httpx.URL(url).raw_path
        fields = http_fields(HttpCall("GET", target, EMPTY_SHA256))
        text = CallSigner(token, "orders").sign(fields, time.time_ns() // 1_000_000)
        with httpx.Client(headers={"Authorization": f"Bearer {text}"}) as client:
            first = answer(client.get(url))
            return answer(client.get(url)) if how == "replayed" else first

    def stream(self, name: str, urls: dict[str, str]) -> dict[str, Any]:
        """Begin to call every service in a loop, each in a thread, until refused."""
        auth = self._tasks[name].auth()
        for audience, url in urls.items():
            self._accepted[audience] = []
            thread = threading.Thread(target=self._call_on, args=(auth, audience, url), daemon=True)
            thread.start()
            self._streams.append(thread)
        while not all(self._accepted.values()) and not self._refused:
            time.sleep(0.001)  # until each has accepted one
        return {"streaming": sorted(urls)}

    def _call_on(self, auth: ArxAuth, audience: str, url: str) -> None:
        with httpx.Client(auth=auth) as client:
            while not self._stop.is_set():
                response = client.get(url)
                if response.status_code != 200:
                    self._refused[audience] = {"at": time.time(), **answer(response)}
                    return
                self._accepted[audience].append(time.time())

    def stopped(self, timeout: float) -> dict[str, Any]:
        """Wait until every stream was refused, and say when each was last accepted."""
        for thread in self._streams:
            thread.join(timeout)
        self._stop.set()
        return {"accepted": self._accepted, "refused": self._refused}

    def end(self) -> dict[str, Any]:
        """End the session."""
        if self._session is not None:
            self._session.end()
        return {}


def answer(response: httpx.Response) -> dict[str, Any]:
    """Reduce a response to what the demo looks at."""
    body = response.json() if response.content else {}
    return {"status": response.status_code, "code": body.get("code", "ok"), "body": body}


def main() -> int:
    """Read commands until the input ends."""
    actor = Actor()
    for line in sys.stdin:
        command = json.loads(line)
        do: Callable[..., dict[str, Any]] = getattr(actor, command.pop("do"))
        try:
            told = do(**command)
        except ArxError as error:
            told = {"status": 0, "code": error.code, "body": {"detail": str(error)}}
        print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
