# SPDX-License-Identifier: Apache-2.0
"""Batches that wait for the log are taken in one transaction, and one that is refused keeps no other one out."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from sqlalchemy import event

from arx_caps.audit.ingest.entries import Reader
from arx_caps.audit.merkle.errors import DisputedError
from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.store import batch_queue
from arx_caps.audit.store.batch_queue import BatchQueue, Taking
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.transaction import Writing
from arx_verifier.errors import ArxError, StoreError
from tests.audit.batches import batch_of, decision, facts

pytestmark = pytest.mark.spec("LOG 2.3")


def some(run: str, first: int = 1, code: str = "ok") -> Batch:
    """Ten records of a run."""
    return batch_of([decision(n, facts(f"s-{run}"), code) for n in range(10)], first, run)


def taken_together(store: LogStore, batches: Sequence[Batch]) -> tuple[list[int | ArxError], int]:
    """Send batches while another thread has the log; return the answers and the number of transactions."""
    answers: list[int | ArxError] = [0] * len(batches)
    standing, commits = threading.Semaphore(0), list[object]()

    def on_commit(connection: object) -> None:
        commits.append(connection)

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        yield
        standing.release()

    def send(place: int, batch: Batch) -> None:
        try:
            answers[place] = store.take(batch, "s", turn=turn())
        except ArxError as error:
            answers[place] = error

    threads = [threading.Thread(target=send, args=each) for each in enumerate(batches)]
    with store.writing():
        for thread in threads:
            thread.start()
            standing.acquire()
        event.listen(store._engine, "commit", on_commit)
    for thread in threads:
        thread.join()
    event.remove(store._engine, "commit", on_commit)
    return answers, len(commits) - 1  # but that of the thread that had the log


def test_what_waits_is_taken_in_one_transaction(store: LogStore) -> None:
    """The first sender takes at least its own; all that came meanwhile, of its run and of others, is one more."""
    batches = [some("a"), some("b"), some("b", 11), some("c"), some("b", 21)]
    answers, transactions = taken_together(store, batches)
    assert answers == [10, 10, 20, 10, 30]
    assert transactions <= 2
    assert store.size() == 50


def test_a_transaction_has_its_bound(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sender waits for all that ever came: what goes beyond the bound is the next transaction's."""
    monkeypatch.setattr(batch_queue, "TOGETHER", 15)
    answers, transactions = taken_together(store, [some(run) for run in "abcdef"])
    assert answers == [10] * 6
    assert 3 <= transactions <= 4
    assert store.size() == 60


def test_another_story_is_refused_alone(store: LogStore) -> None:
    """What contradicts the log changes nothing; those before and behind it in the same transaction are taken."""
    store.take(some("b"), "s")
    answers, transactions = taken_together(store, [some("x"), some("a"), some("b", code="expired"), some("c")])
    assert [answers[0], answers[1], answers[3]] == [10, 10, 10]
    assert transactions <= 2
    assert isinstance(answers[2], DisputedError)
    assert store.size() == 40


def test_what_the_database_does_not_keep_keeps_nothing_else_out(store: LogStore) -> None:
    """A transaction that fails for what one batch says is done again, each by itself."""
    read = Reader().read
    good, bad = [Taking(each, read(each), "s", None) for each in (some("a"), some("c"))], some("b")
    spoilt = Taking(bad, [read(bad)[0]._replace(code=None)], "s", None)  # type: ignore[arg-type]
    line = BatchQueue(store.writing)
    for each in (good[0], spoilt, good[1]):
        line.stand(each)
    assert line.take(good[0]) == 10
    assert line.take(good[1]) == 10
    with pytest.raises(ArxError):
        line.take(spoilt)
    assert store.size() == 20


def test_no_caller_is_answered_for_what_was_not_committed(store: LogStore) -> None:
    """Where the transaction ends in any other way, all that were in it are to be sent again."""
    line, both = BatchQueue(broken(store)), [Taking(some(run), Reader().read(some(run)), "s", None) for run in "ab"]
    for each in both:
        line.stand(each)
    with pytest.raises(ZeroDivisionError):
        line.take(both[0])
    for each in both:
        with pytest.raises(StoreError):
            line.take(each)
    assert store.size() == 0


def broken(store: LogStore) -> Callable[[], contextlib.AbstractContextManager[Writing]]:
    """Transactions that end before they are committed, for an unexpected reason."""

    @contextlib.contextmanager
    def writing() -> Iterator[Writing]:
        with store.writing() as log:
            yield log
            raise ZeroDivisionError

    return writing
