# SPDX-License-Identifier: Apache-2.0
"""A realm's folder: made whole, closed to others, never overwritten, and refused when anything in it is wrong."""

from pathlib import Path

import pytest

from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import DEFAULT_FOLDER, Realm, default_folder
from arx_caps.settings.self_registration import read_self_registration
from arx_verifier.errors import SettingsError

ISSUER = "http://127.0.0.1:8700"


def make(folder: Path, **settings: str) -> Realm:
    return init_realm(folder, **{"name": "acme", "issuer": ISSUER, **settings})


def test_init_makes_everything_and_open_finds_it(tmp_path: Path) -> None:
    """The folder holds settings, policy, sealed root key, operator and database, and reads back as it was made."""
    realm = make(tmp_path / "realm", listen="127.0.0.1:9999", store="redis://127.0.0.1:1/0")
    assert Realm.open(tmp_path / "realm") == realm
    assert realm.host_and_port == ("127.0.0.1", 9999)
    assert Policy.load(realm.policy_path).templates
    operator = KeyFile.load(realm.operator_key_path)
    assert (operator.role, operator.name, operator.issuer) == ("operator", "root", ISSUER)
    with MintDatabase(realm.database_url) as db:
        assert db.holder_keys.find("operator:root", operator.key.kid) is not None
    assert RootKeys.load(realm.root_path, realm="acme", passphrase=None, key_path=realm.root_key_path).names == ("k1",)
    assert {path.name for path in tmp_path.iterdir()} == {"realm"}


def test_nobody_else_can_look_in(tmp_path: Path) -> None:
    """Folder and secrets are for one user."""
    realm = make(tmp_path / "realm")
    assert realm.folder.stat().st_mode & 0o777 == 0o700
    for path in (realm.root_path, realm.root_key_path, realm.operator_key_path):
        assert path.stat().st_mode & 0o777 == 0o600
    for path in (realm.valkey_dir, realm.journals_dir, realm.services_dir, realm.root_path.parent):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_realm_is_never_overwritten(tmp_path: Path) -> None:
    """A folder that holds anything is refused and left as it was; an empty one is taken."""
    realm = make(tmp_path / "realm")
    before = realm.root_path.read_bytes()
    with pytest.raises(SettingsError, match="not overwritten"):
        make(tmp_path / "realm")
    assert realm.root_path.read_bytes() == before
    (tmp_path / "other").mkdir()
    assert make(tmp_path / "other").folder.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="not overwritten"):
        make(tmp_path / "file")


def test_a_failed_init_leaves_nothing(tmp_path: Path) -> None:
    """An empty passphrase is refused, and no half-made folder stays behind."""
    with pytest.raises(SettingsError, match="passphrase"):
        make(tmp_path / "realm", passphrase="")
    assert list(tmp_path.iterdir()) == []


def test_without_its_key_a_realm_does_not_open(tmp_path: Path) -> None:
    """No key file, another one, or one that others can read: no root key, so no start."""
    realm = make(tmp_path / "realm")
    other = make(tmp_path / "other")

    def load() -> RootKeys:
        return RootKeys.load(realm.root_path, realm="acme", passphrase=None, key_path=realm.root_key_path)

    realm.root_key_path.write_bytes(other.root_key_path.read_bytes())
    with pytest.raises(SettingsError, match="does not open"):
        load()
    realm.root_key_path.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        load()
    realm.root_key_path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        load()


def test_a_passphrase_seals_the_root_key(tmp_path: Path) -> None:
    """With a passphrase there is no key file, and only the passphrase opens the key."""
    realm = make(tmp_path / "realm", passphrase="correct horse")
    assert not realm.root_key_path.exists()

    def load(passphrase: str | None) -> RootKeys:
        return RootKeys.load(realm.root_path, realm="acme", passphrase=passphrase, key_path=realm.root_key_path)

    assert load("correct horse").mint_key("k1") == load("correct horse").mint_key("k1")
    with pytest.raises(SettingsError, match="does not open"):
        load("correct horsf")
    with pytest.raises(SettingsError, match="ARX_ROOT_PASSPHRASE"):
        load(None)


BAD_SETTINGS = {
    "capital name": {"name": "Acme"},
    "no name": {"name": ""},
    "issuer with a path": {"issuer": "http://127.0.0.1:8700/"},
    "issuer without scheme": {"issuer": "127.0.0.1:8700"},
    "issuer of another scheme": {"issuer": "ftp://127.0.0.1"},
    "issuer with a user": {"issuer": "http://me@127.0.0.1"},
    "issuer with a bad port": {"issuer": "http://127.0.0.1:99999"},
    "issuer with a query": {"issuer": "http://127.0.0.1?x"},
    "issuer with a line break": {"issuer": "http://127.0.0.1\n"},
    "listen without port": {"listen": "127.0.0.1"},
    "listen with a bad port": {"listen": "127.0.0.1:70000"},
    "store of another kind": {"store": "mysql://x"},
}


@pytest.mark.parametrize("settings", BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_bad_settings_are_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    """A setting that could not work is refused before anything is made."""
    with pytest.raises(SettingsError):
        make(tmp_path / "realm", **settings)
    assert list(tmp_path.iterdir()) == []


BAD_LINES = {
    "no TOML": "nonsense",
    "a setting twice": 'name = "x"',
    "an unknown setting": "surprise = 1",
    "an unknown unit": 'max_ttl = "1y"',
    "too short": 'max_ttl = "1ms"',
    "more digits than Python converts": "max_ttl = " + "1" * 5000,
    "deeper than Python reads": "max_ttl = " + "[" * 5000,
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_broken_settings_file_is_refused(tmp_path: Path, line: str) -> None:
    """Unknown settings, bad values and bad TOML are errors, and so is no realm at all."""
    realm = make(tmp_path / "realm")
    file = realm.folder / "realm.toml"
    kept = [kept for kept in file.read_text().splitlines() if not kept.startswith("max_ttl")]
    file.write_text("\n".join([*kept, line]))
    with pytest.raises(SettingsError):
        Realm.open(realm.folder)
    with pytest.raises(SettingsError, match="there is no realm in") as caught:
        Realm.open(tmp_path / "nowhere")
    assert "`arx init`" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('login_isuer = "https://login.example"', "did you mean login_issuer?"),
        ("surprise = 1", "docs/settings.md has each setting"),
        ('console_idle = "15"', "invalid console_idle: a duration is"),
    ],
)
def test_a_broken_settings_file_says_what_was_meant(tmp_path: Path, line: str, told: str) -> None:
    """The setting of several of a kind, and the one of nearly this name."""
    file = make(tmp_path / "realm").folder / "realm.toml"
    file.write_text(f"{file.read_text()}\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        Realm.open(tmp_path / "realm")
    assert told in f"{caught.value} {caught.value.hint}"


def test_the_first_policy_is_for_agents_of_the_realms_name(tmp_path: Path) -> None:
    """An agent below the realm's name can open a session at once, and start the tasks of the sample."""
    policy = Policy.load(init_realm(tmp_path / "realm", name="newc", issuer=ISSUER).policy_path)
    assert policy.may_open("newc/support/triage").name == "default"
    assert policy.grant("lookup", "newc/support/triage", {"order_id": "o-1"}).delegate_to == ("newc/**",)
    assert "acme" not in policy.text.source


def test_the_default_folder_is_said_by_the_environment() -> None:
    """``ARX_HOME`` names the folder, else it is ``./.arx``."""
    assert default_folder({"ARX_HOME": "/srv/arx"}) == Path("/srv/arx")
    assert default_folder({}) == default_folder({"ARX_HOME": ""}) == Path(DEFAULT_FOLDER)


CLIENTS = {"clients_agent": "acme/apps", "clients_scopes": ["lookup"], "login_issuer": "https://login.example"}
BAD_CLIENTS: dict[str, dict[str, object]] = {
    "no login": {"login_issuer": None},
    "no agent": {"clients_agent": None},
    "agent of another form": {"clients_agent": "acme/*"},
    "no scopes": {"clients_scopes": None},
    "empty scopes": {"clients_scopes": []},
    "a scope of two": {"clients_scopes": ["a b"]},
    "no switch": {"clients_register": "yes"},
    "none at most": {"clients_most": 0},
    "true at most": {"clients_most": True},
    "unused too short": {"clients_unused": "1h"},
    "unused of another form": {"clients_unused": 30},
    "hosts as text": {"clients_hosts": "app.example"},
    **{
        f"host {host!r}": {"clients_hosts": [host]}
        for host in ("127.0.0.1", "[::1]", "localhost", "10.1", "app", "*.example", "App.example", "app.example:0", "")
    },
}


@pytest.mark.parametrize("changed", BAD_CLIENTS.values(), ids=BAD_CLIENTS.keys())
def test_bad_settings_of_clients_are_refused(changed: dict[str, object]) -> None:
    """A mistake must not let in clients that the operator has not meant."""
    written = {name: value for name, value in (CLIENTS | changed).items() if value is not None}
    with pytest.raises(SettingsError):
        read_self_registration(written)


def test_settings_of_clients() -> None:
    """Off without any; what is left out has its default."""
    assert read_self_registration({"login_issuer": "https://login.example"}) is None
    terms = read_self_registration(
        CLIENTS | {"clients_hosts": ["app.example", "app.example:8443"], "clients_unused": "7d"}
    )
    assert terms is not None
    assert (terms.register, terms.most, terms.hosts) == (False, 1000, ("app.example", "app.example:8443"))
    assert terms.unused_ms == 7 * 24 * 3_600_000
