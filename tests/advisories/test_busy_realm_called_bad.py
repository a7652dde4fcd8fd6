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
from arx_caps.revocation import RevocationStore
from tests.cli.live import AGENT, Live, live_realm

pytestmark = [pytest.mark.servers, pytest.mark.slow]
LOOPS = 3
BUSY_S = 60.0


@contextlib.contextmanager
def busy(*works: Callable[[], None]) -> Iterator[list[int]]:
    """Repeat each work in a thread until the context ends; the list has how often each was done."""
    stop, done = threading.Event(), [0] * len(works)
    failed: list[BaseException] = []

    def loop(number: int) -> None:
        try:
            while not stop.is_set():
                works[number]()
                done[number] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed


def look_for(live: Live, seconds: float, done: list[int]) -> int:
    """Run the doctor for a time, at least three times with work in between; each time all is well."""
    live.until(lambda: min(done) > 0)
    looks, until_s, before = 0, time.monotonic() + seconds, 0
    while looks < 3 or time.monotonic() < until_s:
        code, report, _ = live.run("doctor")
        wrong = [check for check in report["checks"] if not check["ok"]]
        assert (code, wrong) == (exit_codes.OK, [])
        assert sum(done) > before, "nothing was done while the doctor looked"
        looks, before = looks + 1, sum(done)
    return looks


def test_a_realm_whose_agents_open_and_end_sessions(tmp_path: Path, free_port: int) -> None:
    """Three agents open a session and end it, again and again, for a minute: each look finds nothing wrong."""
    with live_realm(tmp_path / "realm", free_port) as live, contextlib.ExitStack() as agents:
        live.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "key", "--owner", "ada")

        def session(agent: Agent) -> Callable[[], None]:
            def work() -> None:
                agent.open_session(purpose="a test").end()

            return work

        opened = [agents.enter_context(Agent.from_key_file(tmp_path / "key")) for _ in range(LOOPS)]
        live.until(lambda: live.run("doctor")[0] == exit_codes.OK)
        with busy(*(session(agent) for agent in opened)) as done:
            look_for(live, BUSY_S, done)


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

        with busy(*(freezing(f"agent:acme/support/a{number}") for number in range(LOOPS))) as done:
            look_for(live, 0, done)
