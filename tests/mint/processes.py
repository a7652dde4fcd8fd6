# SPDX-License-Identifier: Apache-2.0
"""Mints as real processes, and callers who ask whichever of them answers."""

import collections
import json
import os
import secrets
import subprocess
import sys
import threading
from typing import Any

import httpx

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion, make_dpop
from arx_caps.service.token_exchange import GRANT_TYPE, TASK_TOKEN
from arx_caps.settings.realm import Realm
from tests.mint.harness import ISSUER, now_ms
from tests.mint.test_token_exchange import ORDER, PAY

EXCHANGE = {"grant_type": GRANT_TYPE, "subject_token_type": TASK_TOKEN, "audience": "payments"}


# Runs a mint whose wall clock is so many seconds off, as on a machine whose clock was set wrong.
CLOCK_OFF = """
import runpy, sys, time
right, off = time.time_ns, int(sys.argv.pop(1)) * 10**9
time.time_ns = lambda: right() + off
time.time = lambda: time.time_ns() / 1e9
runpy.run_module("arx_caps.mint.server.serve", run_name="__main__", alter_sys=True)
"""


class MintProcess:
    """One of the mints: it can be killed and started again, at another port each time."""

    def __init__(self, realm: Realm, store: str, *, clock_s: int = 0) -> None:
        self._realm, self._store = realm, store
        self._runs = ["-c", CLOCK_OFF, str(clock_s)] if clock_s else ["-m", "arx_caps.mint.server.serve"]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it says that it listens."""
        command = [sys.executable, *self._runs, "--realm-dir", str(self._realm.folder), "--port", "0"]
        environment = os.environ | {"ARX_STORE_URL": self._store}
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self._reader: threading.Thread | None = None
        assert self._process.stderr is not None
        # Lines of its log may stand before the one that says that it listens.
        lines = map(json.loads, iter(self._process.stderr.readline, ""))
        event = next((line for line in lines if "ready" in line), {"ready": False})
        if event["ready"] is not True:
            self.kill()
            raise AssertionError(event)
        # A reader must drain the mint's log, as a supervisor does: a mint with a full pipe answers no request.
        self._reader = threading.Thread(target=collections.deque, args=(self._process.stderr, 0), daemon=True)
        self._reader.start()
        self.url = f"http://{event['listen']}"
        self.pid = self._process.pid

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()
        self._close()

    def stop(self) -> None:
        """End it as a supervisor does, and wait until it has put in and signed what it had."""
        self._process.terminate()
        self._process.wait(30)
        self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.join(30)  # until the end of the log
        if self._process.stderr is not None:
            self._process.stderr.close()


class Caller:
    """A client with a key, which asks any mint that answers, and records the answers."""

    def __init__(self, mints: list[MintProcess], client: httpx.Client, key: SigningKey, token: str | None) -> None:
        self.mints, self.client, self.key, self.token = mints, client, key, token

    def headers(self, method: str, path: str) -> dict[str, str]:
        proof = make_dpop(self.key, method=method, url=ISSUER + path, now=now_ms(), token=self.token)
        return {"DPoP": proof} | ({} if self.token is None else {"Authorization": f"DPoP {self.token}"})

    def once(
        self, mint: MintProcess, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response | None:
        """Ask one mint; None when it died over it."""
        try:
            sent = headers if "DPoP" in headers else self.headers(method, path) | headers
            return self.client.request(method, mint.url + path, json=body, headers=sent)
        except httpx.TransportError:
            return None

    def ask(self, turn: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Ask one mint after the other until one answers, always for the same thing."""
        key = {"Idempotency-Key": secrets.token_hex(8)}
        for place in range(turn, turn + 50):
            answer = self.once(self.mints[place % 2], method, path, body, **key)
            # A database or a store may be slow to see that a mint is gone; the answer asks the client to try again.
            if answer is not None and answer.status_code != 503:
                reply: dict[str, Any] = answer.json() | {"status_code": answer.status_code}
                return reply
        raise AssertionError("no mint answers")


class OverError(Exception):
    """The session was killed."""


class Load(threading.Thread):
    """An agent at work with a service: opens a session, renews it, starts tasks, has them extended, exchanged and
    attenuated, ends some; knows all that was answered.
    """

    def __init__(self, mints: list[MintProcess], key: KeyFile, over: threading.Event, service: Caller) -> None:
        super().__init__()
        self.mints, self.agent, self.over, self.service = mints, key, over, service
        self.sessions: set[str] = set()
        self.tasks: set[str] = set()
        self.links: set[str] = set()  # of grants
        self.exchanged: set[str] = set()
        self.ended: set[str] = set()
        self.killed: set[str] = set()  # sessions that were found dead
        self.rounds = self.renewed = 0
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(timeout=10) as client:
                while not self.over.is_set():
                    self.round(client)
                    self.rounds += 1
        except BaseException as error:
            self.failed = error

    def round(self, client: httpx.Client) -> None:
        caller, session = open_session(self.mints, client, self.agent, self.rounds)
        self.sessions.add(session)
        try:
            self.work(caller, session)
        except OverError:
            self.killed.add(session)
            return
        self.end(caller, f"/v1/sessions/{session}", f"session:{session}")

    def work(self, caller: Caller, session: str) -> None:
        for turn in range(self.rounds, self.rounds + 2):
            answer = self.must(caller.ask(turn, "POST", f"/v1/sessions/{session}/renew"))
            caller.token, self.renewed = answer["token"], self.renewed + 1
            started = self.granted(caller.ask(turn, "POST", "/v1/tasks", PAY))
            path = f"/v1/tasks/{started['task']['id']}"
            self.tasks.add(started["task"]["id"])
            self.granted(caller.ask(turn, "POST", f"{path}/extend", {"ttl": "5m"}))
            called = Task(Bundle.parse(started["bundle"])).call_token("orders", "orders.get", ORDER)
            body = EXCHANGE | {"subject_token": called}
            self.exchanged.add(self.must(self.service.ask(turn, "POST", "/v1/exchange", body))["link"])
            self.granted(caller.ask(turn, "POST", f"{path}/attenuate", {"caveats": {"orders": []}}))
            if turn % 2:
                self.end(caller, path, f"task:{started['task']['id']}")

    def granted(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Note a grant that was answered, by what its tokens say."""
        self.links.add(Bundle.parse(self.must(answer)["bundle"]).outline.identifier.id)
        return answer

    def must(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Require that the request succeeded, unless another client killed the session."""
        if answer.get("code") == "revoked":
            raise OverError
        assert answer["status_code"] in (200, 201), answer
        return answer

    def end(self, caller: Caller, path: str, target: str) -> None:
        answer = caller.ask(self.rounds, "DELETE", path)
        if answer["status_code"] == 200:
            self.ended.add(target)
        else:  # its first answer was lost, and the kill was in the store already
            assert answer["code"] == "revoked", answer


def open_session(mints: list[MintProcess], client: httpx.Client, agent: KeyFile, turn: int) -> tuple[Caller, str]:
    """Open a session at one of the mints; returns who has it, and its id."""
    key = SigningKey.generate()
    caller = Caller(mints, client, key, None)
    assertion = make_assertion(agent, audience=ISSUER, now=now_ms(), session_key=key.public)
    answer = caller.ask(turn, "POST", "/v1/sessions", {"assertion": assertion})
    assert answer["status_code"] == 201, answer
    return Caller(mints, client, key, answer["token"]), answer["session"]["id"]
