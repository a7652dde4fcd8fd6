# SPDX-License-Identifier: Apache-2.0
"""``arx audit``: the log's key, and the offline check with its three answers."""

import json
from pathlib import Path

import pytest

from arx_caps.audit.merkle import paths
from arx_caps.audit.merkle.keys import make_key, read_signer
from arx_caps.audit.merkle.note import Note
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.mint.keys.log_key import read_log_key
from arx_verifier.errors import SettingsError
from tests.audit.world import LOG, ORIGIN, STRANGER, WITNESS, Log, body, checkpoint_of, records, write
from tests.cli.helpers import arx

KEY = str(LOG.key)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log that a witness has seen."""
    made = write(tmp_path / "log", records(12))
    made.published.write_bytes(checkpoint_of(made.records, LOG, WITNESS))
    return made


def test_init_makes_the_log_s_key(tmp_path: Path) -> None:
    """One user's, named by issuer and realm or by an option; its public text is printed."""
    assert arx("init", tmp_path / "one", "--name", "acme", "--issuer", "https://mint.example").exit_code == 0
    shown = arx("audit", "key", "--realm-dir", tmp_path / "one", "--json").json
    assert shown["origin"] == "mint.example/acme/log"
    assert shown["key"].startswith("mint.example/acme/log+")
    held = tmp_path / "one" / "keys" / "log.json"
    assert held.stat().st_mode & 0o777 == 0o600
    assert json.loads(held.read_text()).keys() == {"v", "keys", "nonce", "sealed"}
    assert arx("init", tmp_path / "two", "--log-origin", "logs.example/7").exit_code == 0
    assert arx("audit", "key", "--realm-dir", tmp_path / "two").out.startswith("logs.example/7+")
    assert arx("init", tmp_path / "three", "--log-origin", "a b").exit_code == 2
    assert not (tmp_path / "three").exists()


def test_a_key_is_of_its_kind_and_its_user_s_alone(tmp_path: Path) -> None:
    """Another kind of key file, one that others can read, or none signs nothing."""
    make_key(tmp_path / "w", "w.example")
    with pytest.raises(SettingsError, match="not the sealed key of a log"):
        read_log_key(tmp_path / "w")
    KeyFile.generate("holder", "", "").save(tmp_path / "holder")
    with pytest.raises(SettingsError, match="not of a witness"):
        read_signer(tmp_path / "holder")
    assert read_signer(tmp_path / "w").key.name == "w.example"
    (tmp_path / "w").chmod(0o644)
    for path in (tmp_path / "w", tmp_path / "none"):
        with pytest.raises(SettingsError):
            read_signer(path)


def test_what_holds_is_reported_and_ends_with_0(log: Log, tmp_path: Path) -> None:
    """A folder and a proof; the key as text or in a file."""
    (tmp_path / "vkey").write_text(KEY + "\n")
    ran = arx("audit", "verify", log.folder, "--key", tmp_path / "vkey", "--witness", WITNESS.key)
    assert (ran.exit_code, ran.err) == (0, "")
    assert "HOLDS" in ran.out
    assert ORIGIN in ran.out
    assert "seen by witness.example/w1" in ran.out
    note = Note.parse(log.checkpoint)
    proof = RecordProof(log.records[3], body(3), 3, tuple(log.reader.inclusion(3)), note)
    (tmp_path / "3.tlog-proof").write_bytes(proof.encode())
    output = arx("audit", "verify", tmp_path / "3.tlog-proof", "--key", KEY, "--json").json
    assert (output["outcome"], output["kind"], output["first"], output["size"]) == ("holds", "proof", 3, 12)


def test_what_was_altered_ends_with_1_and_names_the_record(log: Log) -> None:
    """On stdout, for people and for scripts."""
    bundle = log.folder / "tile/entries/000.p/12"
    bundle.write_bytes(paths.pack_entries([*log.records[:7], b"another", *log.records[8:]]))
    ran = arx("audit", "verify", log.folder, "--key", KEY)
    assert (ran.exit_code, ran.err) == (1, "")
    assert ran.out == "TAMPERED: record 7 is not what was logged\n"
    ran = arx("audit", "verify", log.folder, "--key", KEY, "--json")
    assert (ran.exit_code, ran.json["outcome"], ran.json["first_bad"], ran.json["last_bad"]) == (1, "tampered", 7, 7)


def test_what_is_missing_ends_with_3(log: Log) -> None:
    """Records, or a witness; retention can be allowed for."""
    ran = arx("audit", "verify", log.folder, "--key", KEY, "--witness", STRANGER.key)
    assert (ran.exit_code, ran.out) == (3, "INCOMPLETE: witness.example/w2 has not cosigned this checkpoint\n")
    (log.folder / "tile/entries/000.p/12").unlink()
    assert arx("audit", "verify", log.folder, "--key", KEY, "--json").json["outcome"] == "incomplete"
    ran = arx("audit", "verify", log.folder, "--key", KEY, "--from", "12")
    assert (ran.exit_code, "records 0 to 11, as allowed" in ran.out) == (0, True)


def test_a_checkpoint_that_was_kept_finds_a_rollback(log: Log, tmp_path: Path) -> None:
    """And two histories; a checkpoint of another log is a mistake of the caller."""
    later, fork = tmp_path / "later", tmp_path / "fork"
    later.write_bytes(checkpoint_of(records(13)))
    fork.write_bytes(checkpoint_of(records(5, "other ")))
    for seen, value in ((later, "rolled back"), (fork, "two histories")):
        ran = arx("audit", "verify", log.folder, "--key", KEY, "--checkpoint", seen)
        assert (ran.exit_code, value in ran.out) == (1, True)
    later.write_bytes(b"nothing")
    assert arx("audit", "verify", log.folder, "--key", KEY, "--checkpoint", later).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--key", "no+key"), "--key: malformed verifier key: expected name+hash+base64"),
        (("--key", "/none"), "/none: No such file"),
        (("--key", str(WITNESS.key)), "expected the key of a log"),
        (("--key", KEY, "--witness", KEY), "expected the key of a witness"),
        (("--key", KEY, "--checkpoint", "/none"), "does not exist"),
        ((), "--key"),
    ],
)
def test_mistakes_of_the_caller_end_with_2(log: Log, words: tuple[str, ...], message: str) -> None:
    """They are no finding about the log."""
    ran = arx("audit", "verify", log.folder, *words)
    assert ran.exit_code == 2
    assert message in ran.err


def test_a_file_that_is_none_of_these_is_no_proof(tmp_path: Path) -> None:
    """It does not hold, whatever it is."""
    (tmp_path / "file").write_bytes(b"c2sp.org/tlog-proof@v1\nnonsense")
    assert arx("audit", "verify", tmp_path / "file", "--key", KEY).exit_code == 1
