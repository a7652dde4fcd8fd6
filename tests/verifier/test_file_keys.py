# SPDX-License-Identifier: Apache-2.0
"""A verifier that was opened from a file takes the file's keys when they change, and never loses those it has."""

import json
from pathlib import Path

import pytest

from arx_verifier.errors import SettingsError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.service import FileKeys, open_verifier
from arx_verifier.token import wire
from arx_verifier.verification.verifier import Verifier
from tests.support import INCARNATION, KEY, OTHER_KEY, REALM, access, mint

pytestmark = pytest.mark.spec("15.2")


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arx_verifier.service.LOOK_NS", 0)


def write(path: Path, keys: dict[str, bytes], realm: str = REALM) -> None:
    content = {"v": 1, "realm": realm, "audience": "orders", "max_ttl_ms": 86_400_000, "issuer": "https://mint"}
    content |= {"keys": {kid: wire.text_of(key) for kid, key in keys.items()}, "key_file": "orders.key"}
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.chmod(0o600)
    beside.replace(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "orders.json"
    write(path, {"k1.0": KEY})
    return path


def opened(file: Path) -> Verifier:
    return open_verifier(file, epochs=UnsafeLocalEpochs(INCARNATION), decisions=InMemoryDecisions())


def test_a_new_key_is_known_as_soon_as_the_file_has_it(file: Path) -> None:
    """The first call by a new key is allowed, those by the old one still are, and a key that went is unknown."""
    verifier = opened(file)
    old, new = mint(key=KEY).encode(), mint(kid="k2.0", key=OTHER_KEY).encode()
    assert [verifier.decide(token, access()).code for token in (old, new)] == ["ok", "unknown_key"]
    before = verifier.keys.get("k1.0")
    write(file, {"k1.0": KEY, "k2.0": OTHER_KEY})
    assert [verifier.decide(token, access()).code for token in (new, old)] == ["ok", "ok"]
    assert verifier.keys.get("k1.0") is before  # what was proven with it stays proven
    write(file, {"k2.0": OTHER_KEY})
    assert verifier.decide(mint(kid="k3.0", key=KEY).encode(), access()).code == "unknown_key"
    assert [verifier.decide(token, access()).code for token in (new, old)] == ["ok", "unknown_key"]


def test_a_file_that_cannot_be_used_changes_nothing(file: Path) -> None:
    """Gone, damaged, without a key, open to others, of another realm: the verifier goes on with what it has."""
    verifier = opened(file)
    token, unknown = mint(key=KEY).encode(), mint(kid="k9.0", key=KEY).encode()

    def still() -> None:
        assert verifier.decide(unknown, access()).code == "unknown_key"
        assert verifier.decide(token, access()).code == "ok"

    write(file, {})
    still()
    write(file, {"k1.0": b"short"})
    still()
    write(file, {"k2.0": OTHER_KEY}, realm="elsewhere")
    still()
    file.write_text("{")
    still()
    write(file, {"k2.0": OTHER_KEY})
    file.chmod(0o644)
    still()
    file.unlink()
    still()
    write(file, {"k9.0": KEY})
    assert verifier.decide(unknown, access()).code == "ok"


def test_strangers_key_ids_cost_no_reading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks nothing touches the disk, whatever key ids come."""
    keys = FileKeys(file)
    monkeypatch.setattr("arx_verifier.service.LOOK_NS", 10**12)
    looked = []
    monkeypatch.setattr("arx_verifier.service.identify_file", lambda path: looked.append(path))
    assert all(keys.get(f"k{n}.0") is None for n in range(2, 100))
    assert looked == []


def test_with_no_key_nothing_starts(file: Path) -> None:
    """Neither without a file nor with one that has no key."""
    write(file, {})
    with pytest.raises(SettingsError, match="at least one"):
        opened(file)
    file.unlink()
    with pytest.raises(SettingsError, match="arx service enrol"):
        opened(file)
