# SPDX-License-Identifier: Apache-2.0
"""A task that is kept: extended while it is used, in runs of hours, until it or its session ends."""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.agent import Session, StartedTask, Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.app import create_app
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import Realm
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.errors import AttenuationError, GrantError, RevokedError, TokenError, UnavailableError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.agent.live import LiveMint, judged, live_mint, serving
from tests.mint.harness import local_mint
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers

AGENT = "acme/support/night"
MINUTE = 60_000
HOUR = 60 * MINUTE
TTL = 10 * MINUTE
POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:{port}"]

[session.night]
agents = ["acme/**"]
ttl = "8h"
idle = "20m"

[task.look]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "10m"
audience = ["orders"]
allow = [{{ tool = "orders.get", args = {{ order_id = "$order_id" }} }}]
depth = 2
"""

BOUND = POLICY.replace("depth = 2\n", 'depth = 2\nbinding = "bound"\n')


class Clock:
    """The one clock of agent, mint and service, which a test sets forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_ns, self._right = 0, time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: self._right() + self._ahead_ns)

    def advance(self, ms: int) -> None:
        self._ahead_ns += ms * 1_000_000


class Night:
    """A realm without a store, its mint and a guarded service on real sockets, and an agent with a session."""

    def __init__(self, clock: Clock, mint: MintRuntime, live: LiveMint, session: Session, url: str) -> None:
        self.clock, self.mint, self.live, self.session, self.url = clock, mint, live, session, url

    @property
    def epochs(self) -> Any:
        return self.mint.epochs

    def pass_time(self, ms: int, *tasks: StartedTask) -> None:
        """Let time pass, and do what the threads of session and tasks do when they look."""
        self.clock.advance(ms)
        self.session.renew_if_due()
        for task in tasks:
            task.extend_if_due()

    def use(self, policy: str) -> None:
        """Put another policy in force."""
        origin = httpx.URL(self.url)
        self.mint.realm.policy_path.write_text(policy.format(port=origin.port))
        self.mint.reload_policy()

    def start(self, **more: Any) -> StartedTask:
        return self.session.start_task("look", order_id="o-1", keep=True, **more)


def code_of(client: httpx.Client, url: str) -> str:
    """Call the service, and return the code of its answer."""
    answer = client.get(url)
    return "ok" if answer.status_code == 200 else answer.json()["code"]


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"found"})


@contextlib.contextmanager
def guarded(mint: MintRuntime, live: LiveMint, port: int) -> Iterator[None]:
    """Serve the guarded service with its keys from the mint."""
    file = live.service_file("orders")
    keys = KeyRing({kid: bytes_of(key) for kid, key in file["keys"].items()}, realm=file["realm"])
    judge = Verifier(audience="orders", keys=keys, epochs=mint.epochs, decisions=InMemoryDecisions())
    tools = {"GET /orders/{order_id}": "orders.get"}
    with serving(ArxMiddleware(application, verifier=judge, tools=tools), port):
        yield


def realm_in(folder: Path, port: int, service: int, policy: str = POLICY) -> Realm:
    realm = init_realm(folder, name="acme", issuer=f"http://127.0.0.1:{port}", listen=f"127.0.0.1:{port}")
    realm.policy_path.write_text(policy.format(port=service))
    return realm


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Everything runs; the clock is the test's, and the policy its parameter."""
    clock = Clock(monkeypatch)
    port, service = free_ports(2)
    with contextlib.ExitStack() as stack:
        realm = realm_in(tmp_path / "realm", port, service, getattr(request, "param", POLICY))
        mint = stack.enter_context(contextlib.closing(local_mint(realm)))
        stack.enter_context(serving(create_app(mint), port, lifespan="off"))  # or it would look for its store
        live = stack.enter_context(contextlib.closing(LiveMint(mint.realm, tmp_path)))
        stack.enter_context(guarded(mint, live, service))
        agent = stack.enter_context(live.agent(AGENT))
        session = agent.open_session()
        yield Night(clock, mint, live, session, f"http://127.0.0.1:{service}/orders/o-1")


@pytest.mark.slow
@pytest.mark.spec("CONTROL 2.3")
def test_a_run_of_hours(night: Night) -> None:
    """One client for all of it: each call is allowed until the session may live no longer, and none after that."""
    task = night.start()
    worker = Task.from_text(task.delegate("acme/worker").encode())
    ends = []
    with httpx.Client(auth=task.auth()) as client, httpx.Client(auth=worker.auth()) as delegated:
        first, last = task.expires_at, night.session.ends_at
        for _ in range(3):
            assert (code_of(client, night.url), code_of(delegated, night.url)) == ("ok", "ok")
            night.pass_time(3 * MINUTE, task)
        assert task.expires_at > first
        night.pass_time(2 * MINUTE, task)
        # What was delegated before keeps its end; what is delegated now has the later one.
        assert (code_of(client, night.url), code_of(delegated, night.url)) == ("ok", "expired")
        assert task.delegate("acme/worker").expires_at == task.expires_at
        while time.time_ns() // 1_000_000 < last - 3 * MINUTE:
            night.pass_time(3 * MINUTE, task)
            assert code_of(client, night.url) == "ok"
            ends.append(task.expires_at)
        assert sorted(ends) == ends
        assert len(set(ends)) > 60
        assert (task.expires_at, task.extend_if_due(), task.extension_error) == (last, None, None)
        night.clock.advance(3 * MINUTE)
        assert code_of(client, night.url) == "expired"


def test_delegating_is_use(night: Night) -> None:
    """An orchestrator whose sub-agents make all calls keeps its task, and its session, which would end idle."""
    task = night.start()
    first = task.expires_at
    for _ in range(10):
        assert task.delegate("acme/worker").expires_at == task.expires_at
        night.pass_time(3 * MINUTE, task)
    assert task.expires_at - first > 20 * MINUTE


def test_an_unused_task_ends(night: Night) -> None:
    """Time alone extends nothing, as it renews no session."""
    task = night.start()
    for _ in range(3):
        first = task.expires_at
        night.pass_time(3 * MINUTE, task)
        assert task.expires_at == first
    night.clock.advance(2 * MINUTE)
    assert task.extend_if_due() is None


@pytest.mark.parametrize("night", [BOUND], indirect=True)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.spec("16.1", "CONTROL 2.3")
def test_a_kept_task_stays_bound_to_its_key(night: Night, *, own: bool) -> None:
    """To the session's, or to the one that it was started with: also where the policy does not bind any more."""
    task = night.start(holder_key=HolderKey.generate()) if own else night.start()
    public, worker = task.bound_to, HolderKey.generate()
    assert public is not None
    for policy in (BOUND, POLICY):
        night.use(policy)
        first = task.expires_at
        with httpx.Client(auth=task.auth()) as client:
            for _ in range(2):
                assert code_of(client, night.url) == "ok"
                night.pass_time(3 * MINUTE, task)
            assert (task.expires_at > first, task.bound_to) == (True, public)
            assert code_of(client, night.url) == "ok"
        text = task.delegate("acme/worker", key=worker.public).encode()
        with httpx.Client(auth=Task.from_text(text, key=worker).auth()) as client:
            assert code_of(client, night.url) == "ok"
        with pytest.raises(AttenuationError, match="bound to the key"):
            Task.from_text(text).http_token("orders", "GET", b"/")


@pytest.mark.spec("CONTROL 2.3")
def test_a_task_is_bound_from_its_extension_on(night: Night) -> None:
    """Where the policy binds its template by then: to the key of its session, without a line of the user's."""
    task = night.start()
    with httpx.Client(auth=task.auth()) as client:
        assert (code_of(client, night.url), task.bound_to) == ("ok", None)
        night.use(BOUND)
        night.pass_time(6 * MINUTE, task)
        assert task.bound_to == night.start().bound_to
        assert code_of(client, night.url) == "ok"


def test_its_own_life_is_asked_for_again(night: Night) -> None:
    """A task that was started for a shorter time than its template's is extended by that time, as narrow as it is."""
    task = night.start(ttl="2m", depth=1)
    task.http_token("orders", "GET", b"/")
    night.pass_time(MINUTE + 1, task)
    left = task.expires_at - time.time_ns() // 1_000_000
    assert (0 < left <= 2 * MINUTE, left > MINUTE, task.depth) == (True, True, 1)


def test_a_refused_extension_is_reported(night: Night, caplog: pytest.LogCaptureFixture) -> None:
    """The task works until its end; then the error of a call names the mint's reason."""
    task = night.start()
    with httpx.Client(auth=task.auth()) as client:
        assert code_of(client, night.url) == "ok"
        policy = night.mint.realm.policy_path
        policy.write_text(policy.read_text().replace("task.look", "task.see"))
        night.mint.reload_policy()
        with pytest.raises(GrantError) as refused:
            night.pass_time(6 * MINUTE, task)
        assert task.extension_error is refused.value
        assert code_of(client, night.url) == "ok"
        night.clock.advance(5 * MINUTE)
        with pytest.raises(AttenuationError, match="the mint did not extend it: ") as caught:
            client.get(night.url)
        assert caught.value.code == refused.value.code == "unknown_task"


@pytest.mark.spec("CONTROL 2.3")
def test_a_killed_task_is_not_extended(night: Night) -> None:
    """Nor one of a killed agent: the mint refuses, and no later call is signed with another token."""
    task = night.start()
    with httpx.Client(auth=task.auth()) as client:
        assert code_of(client, night.url) == "ok"
        night.epochs.kill(f"task:{task.id}")
        assert code_of(client, night.url) == "revoked"
        link = task.link
        with pytest.raises(RevokedError):
            night.pass_time(6 * MINUTE, task)
        assert (task.link, code_of(client, night.url)) == (link, "revoked")
        assert isinstance(task.extension_error, RevokedError)


def test_a_freeze_is_waited_for(night: Night) -> None:
    """A task whose agent was frozen when it was to be extended is extended after the thaw."""
    task = night.start()
    task.http_token("orders", "GET", b"/")
    first = task.expires_at
    night.epochs.freeze(f"task:{task.id}")
    night.clock.advance(6 * MINUTE)
    with pytest.raises(TokenError) as frozen:
        task.extend_if_due()
    assert frozen.value.code == "frozen"
    night.epochs.thaw(f"task:{task.id}")
    task.extend_if_due()
    assert (task.expires_at > first, task.extension_error) == (True, None)


def test_a_mint_that_is_down_is_asked_again(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when no call was made since."""
    task = night.start()
    task.http_token("orders", "GET", b"/")
    first, asked = task.expires_at, list[str]()
    right = Session.extend_task

    def extend_task(session: Session, of: str, body: Any) -> Any:
        asked.append(of)
        if len(asked) == 1:
            raise UnavailableError("it starts again")
        return right(session, of, body)

    monkeypatch.setattr(Session, "extend_task", extend_task)
    with pytest.raises(UnavailableError):
        night.pass_time(6 * MINUTE, task)
    task.extend_if_due()
    assert (task.expires_at > first, task.extension_error, asked) == (True, None, [task.id] * 2)


def test_copies_are_not_kept(night: Night) -> None:
    """An extension has the grant's limits alone: what a holder attenuated offline keeps its end."""
    task = night.start()
    narrow = task.attenuate(depth=0)
    narrow.http_token("orders", "GET", b"/")
    night.clock.advance(6 * MINUTE)
    assert (narrow.extend_if_due(), narrow.depth) == (None, 0)


@pytest.mark.slow
def test_threads_sign_while_it_is_extended(night: Night) -> None:
    """Each call is allowed, by the earlier token or by the later one."""
    task, codes = night.start(), set[str]()
    over = threading.Event()

    def work() -> None:
        with httpx.Client(auth=task.auth()) as client:
            while not over.is_set():
                codes.add(code_of(client, night.url))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    links = {task.link}

    def extended() -> bool:
        task._begun = 0  # long ago: due at once, with the clock of the calls that are on their way
        task.extend_if_due()
        links.add(task.link)
        return len(links) > 10

    until(extended)
    over.set()
    for thread in threads:
        thread.join()
    assert codes == {"ok"}


@pytest.fixture(scope="module")
def mint(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMint]:
    """A mint with a real store and on the real clock: a finished task is killed there."""
    (port,) = free_ports(1)
    with live_mint(tmp_path_factory.mktemp("kept"), store_url=valkey.url, name="kept", port=port) as live:
        yield live


def extensions() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "arx-task-extension"}


def use_until_extended(task: StartedTask) -> None:
    """Sign calls, as a run does, until the thread has extended the task."""
    first = task.expires_at

    def at_work() -> bool:
        task.http_token("orders", "GET", b"/")
        return task.expires_at > first

    until(at_work)


@pytest.mark.parametrize("end", ["finish", "end", "close", "drop"])
def test_its_thread_extends_it_until_it_ends(mint: LiveMint, end: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is extended while it is used; finished, ended or forgotten, it is let go in silence."""
    caplog.set_level(logging.WARNING, logger="arx_caps.agent")
    before = extensions()
    with mint.agent(f"acme/support/kept-{end}") as agent:
        session = agent.open_session()
        task = session.start_task("look", order_id="o-1", ttl="2s", keep=True)
        assert len(extensions() - before) == 1
        use_until_extended(task)
        if end == "finish":
            task.finish()
        elif end == "end":
            session.end()
        elif end == "close":
            agent.close()
        del task
        gc.collect()
        until(lambda: not extensions() - before)
    # Threads of services that other tests of this process left behind log as well.
    assert [record for record in caplog.records if record.name.startswith("arx_caps.agent")] == []


@pytest.mark.spec("CONTROL 2.4")
def test_what_is_left_for_all_is_kept_instead(mint: LiveMint) -> None:
    """The attenuated task follows, as narrow as it is; the one that it replaces is let go."""
    before = extensions()
    with (
        mint.agent("acme/support/kept-left") as agent,
        agent.open_session() as session,
        mint.service("orders") as orders,
    ):
        task = session.start_task("refund", order_id="o-1", amount=5, ttl="5s", keep=True)
        left = task.attenuate_for_all(tools=["orders.get"], depth=0)
        until(lambda: len(extensions() - before) <= 1)
        use_until_extended(left)
        assert (task.extend_if_due(), left.tools, left.depth) == (None, ("orders.get",), 0)
        assert judged(orders, left, "orders.get", {"order_id": "o-1"}) == "ok"
        assert judged(orders, task, "orders.get", {"order_id": "o-1"}) == "revoked"
