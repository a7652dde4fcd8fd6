# SPDX-License-Identifier: Apache-2.0
"""The doctor called a busy realm bad, and an operator who followed its hint revoked every token of a healthy one.

It read the store's header, and then the mint's mark and the log, which went on meanwhile: "the store has lost 17
entries that the mint has: restart the mint".

ARx: the mint's mark is read before the store's header; entries that were added while the doctor read do not count; what
looks wrong is looked at again.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arx_caps.agent import Agent
from arx_caps.cli import exit_codes
from arx_caps.revocation.store import RevocationStore
from tests.cli.helpers import arx
from tests.cli.live import AGENT, Live, live_realm
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.slow]
LOOPS, LOOKS = 3, 3
BUSY_S = 60.0


class Works:
    """Works, each repeated in a thread of its own until ``end``; one that fails is never merely over.

    Attributes:
        done: How often each was done.
    """

    def __init__(self, *works: Callable[[], None]) -> None:
        self.done = [0] * len(works)
        self._stop, self._failed = threading.Event(), list[BaseException]()
        self._threads = [threading.Thread(target=self._repeat, args=(n, work)) for n, work in enumerate(works)]
        for thread in self._threads:
            thread.start()

    def _repeat(self, number: int, work: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                work()
                self.done[number] += 1
        except BaseException as error:
            self._failed.append(error)

    def until_each_goes_on(self) -> None:
        """Wait until each work was done once more, however long a loaded machine takes for it."""
        before = list(self.done)
        until(lambda: self._failed or all(now > then for now, then in zip(self.done, before, strict=True)))
        self.require_success()

    def require_success(self) -> None:
        """Raise what ended a work."""
        if self._failed:
            raise self._failed[0]

    def end(self) -> None:
        """Let each work come to its end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def busy(*works: Callable[[], None]) -> Iterator[Works]:
    """Repeat each work in a thread until the context ends."""
    repeated = Works(*works)
    try:
        yield repeated
    finally:
        repeated.end()
    repeated.require_success()


def look_for(live: Live, seconds: float, works: Works) -> None:
    """Run the doctor for a time, and until work was done during three of its looks; each time all is well."""
    works.until_each_goes_on()
    looks, until_s = 0, time.monotonic() + seconds
    while looks < LOOKS or time.monotonic() < until_s:
        before = sum(works.done)
        code, report, _ = live.run("doctor")
        # On a loaded machine a look can be shorter than any work: it does not count, and is no fault.
        looks += sum(works.done) > before
        works.until_each_goes_on()
        wrong = [check for check in report["checks"] if not check["ok"]]
        assert (code, wrong) == (exit_codes.OK, [])


@pytest.mark.nightly
def test_a_realm_whose_agents_open_and_end_sessions(tmp_path: Path, free_port: int) -> None:
    """Three agents open a session and end it, again and again, for a minute: each look finds nothing wrong."""
    folder = tmp_path / "realm"
    made = arx("init", folder, "--name", "acme", "--issuer", f"http://127.0.0.1:{free_port}")
    assert made.exit_code == exit_codes.OK, made.err
    with (folder / "realm.toml").open("a") as file:
        file.write("agent_rate = 0\n")  # the loops call as one agent, and on a fast machine more often than one may
    with live_realm(folder, free_port) as live, contextlib.ExitStack() as agents:
        live.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "key", "--owner", "ada")

        def session(agent: Agent) -> Callable[[], None]:
            def work() -> None:
                agent.open_session(purpose="a test").end()

            return work

        opened = [agents.enter_context(Agent.from_key_file(tmp_path / "key")) for _ in range(LOOPS)]
        live.until(lambda: live.run("doctor")[0] == exit_codes.OK)
        with busy(*(session(agent) for agent in opened)) as works:
            look_for(live, BUSY_S, works)


def test_a_store_that_takes_freezes_and_thaws_without_a_mint(tmp_path: Path, free_port: int) -> None:
    """Freezes, thaws and kills are written faster than the doctor reads: the log, the maps and the mint agree."""
    with live_realm(tmp_path / "realm", free_port) as live:
        store = live.ready["store"]
        live.until(lambda: live.run("doctor")[0] == exit_codes.OK)

        def freezing(target: str) -> Callable[[], None]:
            def work() -> None:
                with RevocationStore(store, "acme") as written:
                    written.freeze([target], "a test", "operator:ada")
                    written.thaw([target], "a test", "operator:ada")
                    written.kill(["session:s-" + "a" * 16], "a test", "operator:ada")

            return work

        with busy(*(freezing(f"agent:acme/support/a{number}") for number in range(LOOPS))) as works:
            look_for(live, 0, works)
