# SPDX-License-Identifier: Apache-2.0
"""A log with witnesses: cosigned checkpoints are published, and a missing witness stops nothing but what it must."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.keys import make_key
from arx_caps.audit.merkle.verification import Trust, verify
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.witness import cosigners
from arx_caps.audit.witness.cosigners import Asked, Witnesses
from arx_caps.audit.witness.server import create_app
from arx_caps.audit.witness.witness import KEY_FILE, Witness
from arx_verifier.errors import SettingsError
from tests.audit.batches import batch_of, decision, facts
from tests.audit.world import LOG, ORIGIN
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("LOG 1.8")]


class Served:
    """A witness at an address that stays, which can be away."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.key = make_key(folder / KEY_FILE, "witness.example/w1")
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = create_app(Witness(self._folder, [LOG.key]))
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_config=None, lifespan="off", ws="none"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A witness that serves."""
    monkeypatch.setattr(cosigners, "PAUSE_S", 0.0)
    made = Served(tmp_path / "witness")
    made.start()
    yield made
    made.stop()


def grow(store: LogStore, count: int) -> None:
    """Add records."""
    size = store.size()
    store.take(batch_of([decision(n, facts()) for n in range(count)], size + 1), "s")


def seen(folder: Path, witness: Served) -> tuple[int, bool]:
    """The published size, and whether the witness has cosigned it."""
    signed = open_checkpoint((folder / "checkpoint").read_bytes(), LOG.key, [witness.key])
    return signed.checkpoint.size, witness.key in signed.seen


@pytest.mark.parametrize("required", [False, True])
def test_a_missing_witness_is_an_alarm_or_what_the_realm_says(
    store: LogStore, witness: Served, tmp_path: Path, required: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Checkpoints are cosigned; while it is away they are published without, or held back; then it catches up."""
    folder = tmp_path / "log"
    publisher = Publisher(store, LOG, folder, Witnesses([Asked(witness.url, witness.key)], required=required))
    for count in (1, 9, 300):
        grow(store, count)
        publisher.step()
        assert seen(folder, witness) == (store.size(), True)
    assert verify(folder, Trust(LOG.key, [witness.key])).records == 310
    witness.stop()
    grow(store, 5)
    publisher.step()
    assert seen(folder, witness) == ((310, True) if required else (315, False))
    assert "does not answer" in (publisher.witnesses.failing or "")
    assert "witnesses" in caplog.text
    assert publisher.halted is None
    witness.start()
    publisher.step()
    assert seen(folder, witness) == (315, True)
    assert publisher.witnesses.failing is None


@pytest.mark.spec("LOG 1.2")
def test_a_witness_that_saw_more_is_an_alarm(store: LogStore, witness: Served, tmp_path: Path) -> None:
    """Database and files were both put back: the witness saw more, cosigns nothing, and the mint says why."""
    asked = [Asked(witness.url, witness.key)]
    grow(store, 10)
    Publisher(store, LOG, tmp_path / "log", Witnesses(asked)).step()
    with LogStore(f"sqlite:///{tmp_path}/older.db") as older:
        older.create()
        grow(older, 5)
        publisher = Publisher(older, LOG, tmp_path / "older", Witnesses(asked, required=True))
        publisher.step()
        assert "was rolled back" in (publisher.witnesses.failing or "")
        assert not (tmp_path / "older" / "checkpoint").exists()


@pytest.mark.parametrize(
    "message", ["http://w.example", f"http://w.example {LOG.key}", f"http://w.example {ORIGIN}+0+0"]
)
def test_what_names_no_witness_is_refused(message: str) -> None:
    """A start fails with what is wrong, and not a checkpoint later."""
    with pytest.raises(SettingsError, match="witness"):
        Witnesses.of([message])
