# SPDX-License-Identifier: Apache-2.0
"""A sender finds a log that went back or shows another history than before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.audit.merkle.note import Signer
from arx_caps.audit.shipping import fork_detection
from arx_caps.audit.shipping.fork_detection import FORK_FILE, KEPT_FILE, Seen
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG, OTHER

pytestmark = pytest.mark.spec("LOG 2.5")


class Log:
    """A log with its publisher."""

    def __init__(self, folder: Path, name: str, signer: Signer = LOG) -> None:
        self.store = LogStore(f"sqlite:///{folder}/{name}.db")
        self.store.create()
        self.publisher = Publisher(self.store, signer, folder / name)

    def grow(self, count: int, code: str = "ok") -> None:
        size = self.store.size()
        self.store.take(batch_of([decision(n, facts(), code) for n in range(count)], size + 1), "s")
        self.publisher.step()

    def answer(self, seen: Seen) -> str | None:
        """Answer what it asks; return its alarm."""
        size = seen.asks()
        assert size is not None
        word = self.publisher.word(size)
        assert word is not None
        seen.take(word)
        return seen.alarm


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A log of ten records."""
    monkeypatch.setattr(fork_detection, "EVERY_S", 0.0)
    made = Log(tmp_path, "log")
    made.grow(10)
    yield made
    made.store.close()


def test_a_log_that_grows_is_no_alarm(log: Log, tmp_path: Path) -> None:
    """Each checkpoint continues the one before, also after a restart of the sender that keeps them."""
    seen = Seen(tmp_path)
    for count in (0, 1, 300):
        if count:
            log.grow(count)
        assert log.answer(seen) is None
    again = Seen(tmp_path)
    assert again.asks() == 311
    assert log.answer(again) is None


@pytest.mark.parametrize("size", [5, 10, 400])
def test_another_history_is_an_alarm_and_both_words_are_kept(log: Log, tmp_path: Path, size: int) -> None:
    """Shorter, as long or longer, signed with the log's own key: it is found, and what was seen first stays."""
    seen = Seen(tmp_path)
    log.answer(seen)
    kept = (tmp_path / KEPT_FILE).read_bytes()
    other = Log(tmp_path, "other")
    other.grow(size, "revoked")
    assert other.answer(seen)
    assert (tmp_path / KEPT_FILE).read_bytes() == kept
    assert (tmp_path / FORK_FILE).exists()
    log.grow(1)
    assert log.answer(seen) is None
    other.store.close()


def test_another_key_is_an_alarm(log: Log, tmp_path: Path) -> None:
    """The first word is believed; from then on it is one key."""
    seen = Seen(tmp_path)
    log.answer(seen)
    other = Log(tmp_path, "other", OTHER)
    other.grow(20)
    assert "another key" in str(other.answer(seen))
    other.store.close()
    (tmp_path / KEPT_FILE).write_bytes(b"{}")
    again = Seen(tmp_path)
    again.asks()
    assert "cannot be read" in str(again.alarm)
