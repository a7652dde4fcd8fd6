# SPDX-License-Identifier: Apache-2.0
"""What each HTTP client that signs must do, against a real service behind the middleware and a stranger's server."""

import contextlib
import io
import json
import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arx_caps.agent import Approval, Bundle, Task
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.errors import AttenuationError
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from tests.adapters.asgi_server import whole_body
from tests.agent.live import serving
from tests.house.pages import ROOT, blocks
from tests.servers import run_together

PAGE = (ROOT / "docs" / "adapters" / "http-clients.md").read_text(encoding="utf-8")
TOKEN = "arx1_"  # how each token begins
ROUTES = {
    "GET /orders/{order_id}": "orders.get",
    "POST /orders/{order_id}/refund": "orders.refund",
    "GET /away": "orders.away",
    "GET /moved": "orders.moved",
    "GET /busy": "orders.busy",
}
RULES = (
    Rule(
        tool="orders.get", args={"order_id": Constraint(glob="*"), "full": Constraint(one_of=("yes",), optional=True)}
    ),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(range=(0, 100))}),
    *(Rule(tool=f"orders.{name}", args={}) for name in ("away", "moved", "busy")),
)
REFUND = {"amount": 20}
REQUIRED = ThirdPartyCaveat(id="k1.0:t-aaaaaaaaaaaaaaaa", tools=("orders.refund",))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Answer(NamedTuple):
    """An answer, whatever the library calls its parts."""

    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Stranger:
    """A server that is no audience of the task, and keeps what arrives."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.seen.append((scope["path"], dict(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"stranger"})


class Orders:
    """The tool service: it keeps what ran, redirects two paths, and is busy once."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, bytes]] = []
        self.stranger, self.busy = "", 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = await whole_body(receive)
        self.ran.append((scope["path"], body))
        status, headers = 200, [(b"content-type", b"application/json")]
        if scope["path"] in ("/away", "/moved"):
            status = 307
            headers.append((b"location", (self.stranger if scope["path"] == "/away" else "").encode() + b"/orders/o-1"))
        elif scope["path"] == "/busy" and self.busy:
            status, self.busy = 503, self.busy - 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"tool": scope["arx"].tool}).encode()})


class Realm(UnsafeTestRealm):
    """A realm whose service started at a time that the test sets, ms since the Unix epoch."""

    def __init__(self, started: int) -> None:
        super().__init__("orders")
        self.verifier = Verifier(
            audience="orders",
            keys=KeyRing({"k1.0": self._key}, realm="test"),
            epochs=self.epochs,
            decisions=self.decisions,
            nonces=MemoryNonces(now_ms=started),
        )

    def task(self, address: str, now: Callable[[], int], *, approvable: bool = False) -> Task:
        """A task for the service at an address, delegated to a worker; an ``approvable`` one needs approvals."""
        held = self.caller(
            *RULES, agent="acme/support", task="t-aaaaaaaaaaaaaaaa", session="s-aaaaaaaaaaaaaaaa"
        ).macaroon
        if approvable:
            held = require_discharge(held, REQUIRED.encode(), caveat_key(self._key, REQUIRED.id))
        bundle = Bundle(
            agent="acme/support",
            issuer="http://127.0.0.1:8700",
            origins={"orders": (address,)},
            realm="test",
            task="t-aaaaaaaaaaaaaaaa",
            tokens={"orders": held},
        )
        worker = Task(bundle).delegate("acme/worker", args={"amount": {"max": 20}})
        return Task.from_text(worker.encode(), now=now)

    def approval(self) -> Approval:
        """An approval of ``REFUND`` for such a task, as a mint gives it."""
        rule, exp = Rule(tool="orders.refund", args={"order_id": "o-1", **REFUND}), now_ms() + 60_000
        caveats = (Caveat(allow=(rule,), exp=exp, task="a-aaaaaaaaaaaaaaaa"),)
        made = issue_discharge(REQUIRED.encode(), caveat_key(self._key, REQUIRED.id), realm="test", caveats=caveats)
        return Approval.from_text(made.encode())


class World(NamedTuple):
    """A guarded service and a stranger's server, on real sockets."""

    realm: Realm
    address: str
    orders: Orders
    stranger_address: str
    stranger: Stranger

    def task(self, now: Callable[[], int] = now_ms) -> Task:
        """A task for the service, delegated to a worker."""
        return self.realm.task(self.address, now)


@contextlib.contextmanager
def world(*, started: int = 0) -> Iterator[World]:
    """Serve both; ``started`` is when the service says that it started, ms since the Unix epoch."""
    realm, orders, stranger = Realm(started), Orders(), Stranger()
    guarded = ArxMiddleware(orders, verifier=realm.verifier, tools=ROUTES)
    with serving(guarded) as port, serving(stranger) as other:
        orders.stranger = f"http://127.0.0.1:{other}"
        yield World(realm, f"http://127.0.0.1:{port}", orders, orders.stranger, stranger)


def traced(error: BaseException) -> str:
    """Return an error's traceback with the variables of its frames, as error trackers collect them."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    unread = [found]
    while unread:
        one = unread.pop()
        unread += [each for each in (one.__cause__, one.__context__) if each is not None]
        for frame in one.stack:
            # Of a request that could not be sent, the standard library has the very bytes in a variable.
            if Path(frame.filename).parts[-2:] == ("http", "client.py"):
                frame.locals = None
    return "".join(found.format())


def parts() -> Iterator[bytes]:
    """A body that can be read once."""
    yield b'{"amou'
    yield b'nt":20}'


class HttpClientContract(ABC):
    """The tests of each client; the file of one says how it sends."""

    name: str  # of the library, as in the title of its section on the page

    @abstractmethod
    def send(self, task: Task, method: str, url: str, **more: Any) -> Answer:
        """Send one request; ``body`` is bytes, a file or an iterable, the others as they say."""

    @abstractmethod
    def repeat(self, task: Task, url: str) -> Answer:
        """Get a URL, and repeat that as users of the library do while the service is busy."""

    @abstractmethod
    def shown(self, task: Task, url: str) -> str:
        """Get a URL that is refused or that nothing serves, and return all that shows of requests and errors."""

    def bodies(self) -> Mapping[str, Callable[[], Any]]:
        """Bodies in all forms that the library takes."""
        file = json.dumps(REFUND).encode()
        return {"bytes": lambda: file, "file": lambda: io.BytesIO(file), "parts": parts}

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls) -> Iterator[World]:
        with world() as made:
            yield made

    def test_what_is_signed_is_what_arrives(self, served: World) -> None:
        """Byte for byte: odd paths, queries, a body; what the task does not allow is refused with what it would."""
        task = served.task()
        odd = f"{served.address}/orders/a%20b%C3%A4~'%2d?full=yes"
        for path in (odd, f"{served.address}/orders/a b?full=yes"):
            found = self.send(task, "GET", path)
            assert (found.status, found.json()) == (200, {"tool": "orders.get"})
        refused = self.send(task, "POST", f"{served.address}/orders/o-1/refund", body=b'{"amount":21}')
        assert (refused.status, refused.json()["code"]) == (403, "argument_not_allowed")
        assert [failure["rule"] for failure in refused.json()["failures"]] == ["amount max"]

    def test_each_form_of_body_is_signed(self, served: World) -> None:
        """One that can be read once is read before it is signed, and arrives whole."""
        for form, made in self.bodies().items():
            served.orders.ran.clear()
            answer = self.send(served.task(), "POST", f"{served.address}/orders/o-1/refund", body=made())
            assert answer.status == 200, (form, answer)
            assert [json.loads(body) for _, body in served.orders.ran] == [REFUND]

    def test_nothing_is_sent_elsewhere(self, served: World) -> None:
        """A request to an origin of no audience is not sent, neither with a token nor without."""
        port = served.address.rpartition(":")[2]
        elsewhere = [
            served.stranger_address,
            f"http://localhost:{port}",
            f"{served.address}@{served.stranger_address[7:]}",
        ]
        served.stranger.seen.clear()
        for address in elsewhere:
            with pytest.raises(
                AttenuationError, match="belongs to no audience of this task; known: http://127"
            ) as caught:
                self.send(served.task(), "GET", f"{address}/orders/o-1")
            assert caught.value.code == "unknown_origin"
        assert served.stranger.seen == []

    def test_no_redirect_carries_a_token(self, served: World) -> None:
        """Neither to a stranger nor within the service: what was signed for one call is of no use for another."""
        served.stranger.seen.clear()
        served.orders.ran.clear()
        for path in ("/away", "/moved"):
            with contextlib.suppress(AttenuationError):
                assert self.send(served.task(), "GET", served.address + path).status in (200, 307, 401)
        assert [path for path, _ in served.orders.ran] == ["/away", "/moved"]
        assert not any(b"authorization" in headers for _, headers in served.stranger.seen)

    def test_another_authorization_header_is_not_overwritten(self, served: World) -> None:
        """Which identity is meant is not guessed."""
        with pytest.raises(AttenuationError, match="Authorization header already"):
            self.send(served.task(), "GET", f"{served.address}/orders/o-1", headers={"authorization": "Bearer mine"})

    def test_an_approval_goes_with_its_call(self) -> None:
        """Without it the call is refused; with it the approved call runs, and no other does."""
        with world() as served:
            task = served.realm.task(served.address, now_ms, approvable=True)
            url = f"{served.address}/orders/o-1/refund"
            approvals = [served.realm.approval()]
            assert self.send(task, "POST", url, body=b'{"amount":20}').json()["code"] == "missing_discharge"
            other = self.send(task, "POST", url, body=b'{"amount":19}', approvals=approvals)
            assert (other.status, other.json()["code"]) == (403, "argument_not_allowed")
            answer = self.send(task, "POST", url, body=b'{"amount":20}', approvals=approvals)
            assert answer.status == 200, answer
            assert len(served.orders.ran) == 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_early_call_is_signed_again(self, stream: bool) -> None:
        """A call that was signed before the service started runs once, with the same body."""
        began, signed = now_ms(), list[int]()

        def clock() -> int:
            signed.append(now_ms() if signed else began - 1_000)
            return signed[-1]

        with world(started=began) as served:
            url = f"{served.address}/orders/o-1/refund"
            answer = self.send(served.task(clock), "POST", url, body=parts(), stream=stream)
            assert (answer.status, answer.json(), len(signed)) == (200, {"tool": "orders.refund"}, 2)
            assert [json.loads(body) for _, body in served.orders.ran] == [REFUND]

    @pytest.mark.parametrize("stream", [False, True])
    def test_no_more_than_once(self, stream: bool) -> None:
        """A service that answers so to each call is not asked for ever, and its answer can be read."""
        signed = list[int]()

        def clock() -> int:
            signed.append(now_ms())
            return signed[-1]

        with world(started=now_ms() + 60_000) as served:
            answer = self.send(served.task(clock), "GET", f"{served.address}/orders/o-1", stream=stream)
            assert (answer.status, answer.json()["code"], len(signed)) == (401, "proof_invalid", 2)
            assert served.orders.ran == []

    def test_another_refusal_can_be_streamed(self, served: World) -> None:
        """Also one that was looked at: no token that is presented twice is signed again."""
        task = served.task(lambda: now_ms() - 60_000)
        answer = self.send(task, "GET", f"{served.address}/orders/o-1", stream=True)
        assert (answer.status, answer.json()["code"]) == (401, "proof_invalid")

    def test_a_retry_is_signed_anew(self, served: World) -> None:
        """A service that was busy takes the second attempt: a token is accepted once."""
        served.orders.busy = 1
        answer = self.repeat(served.task(), f"{served.address}/busy")
        assert (answer.status, served.orders.busy) == (200, 0), answer

    def test_runs_beside_each_other_do_not_mix(self, served: World) -> None:
        """Threads with a task each, and one whose task may not do it."""
        results: dict[int, set[int]] = {}

        def work(number: int) -> None:
            task = served.task() if number else served.task().attenuate(tools=["orders.refund"])
            url = f"{served.address}/orders/o-{number}"
            results[number] = {self.send(task, "GET", url).status for _ in range(5)}

        run_together(*(partial(work, number) for number in range(4)))
        assert results == {0: {403}, 1: {200}, 2: {200}, 3: {200}}

    def test_no_token_is_shown(self, served: World, caplog: pytest.LogCaptureFixture) -> None:
        """Neither in a log at DEBUG, nor by what a tracer shows of requests, answers and errors."""
        caplog.set_level(logging.DEBUG)
        task = served.task().attenuate(tools=["orders.refund"])
        shown = [self.shown(task, f"{served.address}/orders/o-1")]
        lost = served.realm.task("http://127.0.0.1:1", now_ms)
        shown.append(self.shown(lost, "http://127.0.0.1:1/orders/o-1"))
        assert "orders" in " ".join(shown)
        assert TOKEN not in "\n".join([*shown, caplog.text, *(str(vars(record)) for record in caplog.records)])

    def test_the_example_of_the_page_runs(self, served: World, capsys: pytest.CaptureFixture[str]) -> None:
        """As it stands there, with this service's address."""
        part = PAGE.partition(f"\n## {self.name}\n")[2].partition("\n## ")[0]
        shown = [block.text for block in blocks(part)]
        program = shown[0].replace("http://127.0.0.1:9001", served.address)
        exec(compile(program, f"http-clients.md, {self.name}", "exec"), {"task": served.task()})
        assert capsys.readouterr().out == shown[1]
