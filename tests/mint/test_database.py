# SPDX-License-Identifier: Apache-2.0
"""Which database a mint uses, how an operator names it, and that its password stays secret."""

import traceback
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.database.engines import open_engine
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import Realm, without_password
from arx_verifier.errors import ArxError, SettingsError, StoreError
from tests.cli.helpers import arx
from tests.mint.harness import ISSUER, make_realm
from tests.postgres import Postgres

SECRET = "hunter2-hunter2"
ELSEWHERE = f"postgresql://arx:{SECRET}@127.0.0.1:1/arx"


def test_a_password_is_in_no_error_and_no_repr(tmp_path: Path) -> None:
    """A database that does not answer is named by its place alone, in the error, its traceback and every repr."""
    with (
        MintDatabase(ELSEWHERE) as db,
        pytest.raises(StoreError, match=r"postgresql\+psycopg://arx:\*\*\*@127\.0\.0\.1:1/arx") as caught,
    ):
        db.create()
    shown = [
        *traceback.format_exception(caught.value),
        repr(db),
        repr(Realm.plan(tmp_path, name="a", issuer=ISSUER)),
    ]
    shown.append(repr(Realm.plan(tmp_path, name="acme", issuer=ISSUER, database=ELSEWHERE)))
    shown.append(repr(MintDatabase(f"postgresql://arx@127.0.0.1:1/arx?password={SECRET}")))
    assert not [text for text in shown if SECRET in text]


def test_a_password_may_come_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable fills in what the URL leaves out; what the URL says, wins."""
    monkeypatch.setenv("ARX_DATABASE_PASSWORD", SECRET)
    assert open_engine("postgresql://arx@db.example/arx").url.password == SECRET
    assert open_engine("postgresql://arx:other@db.example/arx").url.password == "other"


@pytest.mark.parametrize("words", [("init",), ("mint", "serve"), ("mint", "migrate")])
@pytest.mark.parametrize("url", [ELSEWHERE, f"postgresql://arx@127.0.0.1:1/arx?password={SECRET}"])
def test_no_password_on_a_command_line(words: tuple[str, ...], url: str) -> None:
    """A URL with a password is refused before it is used, where every user of the machine could have read it."""
    ran = arx(*words, "--database", url)
    assert (ran.exit_code, "ARX_DATABASE" in ran.err, SECRET in ran.out + ran.err) == (exit_codes.USAGE, True, False)


@pytest.mark.parametrize("url", ["mysql://u:p@h/n", "postgresql+psycopg2://h/n", "mint.db", "postgresql//h/n", ""])
def test_what_is_no_database_is_refused(url: str) -> None:
    """Another system, another driver or no URL at all: the error says what one is, and not what came."""
    with pytest.raises(SettingsError, match="is a URL: sqlite:///PATH or postgresql://") as caught:
        MintDatabase(url)
    assert url == "" or url not in str(caught.value)


@pytest.mark.servers
def test_a_realm_keeps_its_database_and_not_its_password(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``realm.toml`` names the database that the realm was made with; the variable wins over it."""
    url = postgres.database(template="made")
    monkeypatch.setenv("ARX_DATABASE_PASSWORD", SECRET)
    realm = init_realm(
        tmp_path / "realm", name="acme", issuer=ISSUER, database=url.replace("postgres@", f"postgres:{SECRET}@")
    )
    assert SECRET not in (realm.folder / "realm.toml").read_text()
    assert not realm.database_path.exists()
    assert Realm.open(realm.folder).database_url == url
    assert {check["name"] for check in arx("doctor", "--realm-dir", realm.folder, "--json").json["checks"]} >= {"mint"}
    monkeypatch.setenv("ARX_DATABASE", "sqlite:////elsewhere/mint.db")
    assert Realm.open(realm.folder).database_url == "sqlite:////elsewhere/mint.db"
    monkeypatch.delenv("ARX_DATABASE")
    with MintDatabase(Realm.open(realm.folder).database_url) as db:
        assert db.operators.exist()
    with pytest.raises(SettingsError, match="has a realm already"):
        make_realm(tmp_path / "second", database=url)
    assert not (tmp_path / "second").exists()
    postgres.drop(url)


def test_a_setting_that_is_no_database_stops_the_start(tmp_path: Path) -> None:
    """The error for a wrong ``database`` in ``realm.toml`` names the expected form."""
    realm = make_realm(tmp_path / "realm")
    with (realm.folder / "realm.toml").open("a") as file:
        file.write('database = "redis://here"\n')
    with pytest.raises(ArxError, match="postgresql://USER@HOST/NAME"):
        Realm.open(realm.folder)


def test_a_url_is_written_without_its_password() -> None:
    """Only the password goes."""
    assert without_password(ELSEWHERE) == "postgresql://arx@127.0.0.1:1/arx"
    assert without_password("postgresql:///arx?host=/run/pg") == "postgresql:///arx?host=/run/pg"
    assert without_password("sqlite:////srv/mint.db") == "sqlite:////srv/mint.db"
    for url in (f"a@h/n?sslmode=require&password={SECRET}", f"a:?{SECRET}@h/n", f"a:/{SECRET}@h/n", f"a:@{SECRET}@h/n"):
        assert SECRET not in without_password(f"postgresql://{url}")
