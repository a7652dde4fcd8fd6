# SPDX-License-Identifier: Apache-2.0
"""A realm's folder: made whole, closed to others, never overwritten, and refused when anything in it is wrong."""

import json
from pathlib import Path

import pytest

from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import DEFAULT_FOLDER, Realm, default_folder
from arx_caps.settings.self_registration import SelfRegistration
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx

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
        assert db.holder_keys.key_of("operator:root", operator.key.kid) is not None
    assert RootKeys.load(realm.root_path, realm="acme", passphrase=None, key_path=realm.root_key_path).names == ("k1",)
    assert {path.name for path in tmp_path.iterdir()} == {"realm"}


def test_no_other_user_can_look_in(tmp_path: Path) -> None:
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
    ("line", "message"),
    [
        (
            'login_isuer = "https://login.example"',
            "7: login_isuer: unknown key; did you mean `login_issuer`?",
        ),
        ("surprise = 1", "7: surprise: unknown key; known here: address_burst, "),
        ('console_idle = "15"', "7: console_idle: a duration is"),
    ],
)
def test_a_broken_settings_file_says_what_was_meant(tmp_path: Path, line: str, message: str) -> None:
    """The setting of several of a kind, and the one of nearly this name."""
    file = make(tmp_path / "realm").folder / "realm.toml"
    file.write_text(f"{file.read_text()}\n{line}\n")
    with pytest.raises(SettingsError) as caught:
        Realm.open(tmp_path / "realm")
    assert message in str(caught.value)


PEOPLE = 'login_issuer = "https://l.example"\nlogin_client_id = "m"\n'
TERMS = 'issuer = "https://t.example"\nclient_id = "arx"\nscopes = ["a"]\n'
CORP = f"[connection.corp]\n{TERMS}"
VIA = f'[connection.tracker]\n{TERMS}audiences = ["tracker"]\n'


@pytest.mark.spec("CONTROL 9.5")
@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (CORP, "connection.corp: expected `audiences`"),
        (VIA + 'through = "corp"\n', "connection.tracker: expected both or none: `through`, and `mode`"),
        (VIA + 'mode = "exchange"\n', "connection.tracker: expected both or none: `through`, and `mode`"),
        (VIA + 'mode = "exchange"\nthrough = "corp"\n', "through: expected a connection that people connect, got corp"),
        (VIA + 'mode = "exchange"\nthrough = "tracker"\n', "connect, got tracker"),
        (VIA + 'mode = "exchange"\nthrough = "corp"\n' + CORP, "connection.tracker: expected `upstream`, the upstream"),
        (VIA + 'mode = "id-jag"\nthrough = "corp"\n' + CORP, 'expected "openid" in `scopes` of [connection.corp]'),
        (VIA + 'mode = "jag"\n', "connection.tracker.mode: expected one of"),
    ],
)
def test_connections_that_do_not_fit_each_other_are_mistakes(tmp_path: Path, tables: str, message: str) -> None:
    """A table without consent of its own has one to go through, which people connect."""
    file = make(tmp_path / "realm").folder / "realm.toml"
    file.write_text(f"{file.read_text()}\n{PEOPLE}{tables}")
    with pytest.raises(SettingsError) as caught:
        Realm.open(tmp_path / "realm")
    assert message in str(caught.value)


# Each line in the place of the first one that it changes, or after the last one; what its error begins with.
MISTAKES = [
    ("name = 'Acme'", 2, "name: expected a realm's name"),
    ("name = 5", 2, "name: expected text in quotes, got 5"),
    ("issuer = 'http://127.0.0.1:8700/'", 3, "issuer: expected the mint's public base URL"),
    ("listen = '127.0.0.1'", 4, "listen: expected host:port such as 127.0.0.1:8700; got \"127.0.0.1\""),
    ("listen = 8700", 4, "listen: expected text in quotes, got 8700"),
    ("store = 'mysql://u:s3cret@x'", 6, "store: expected a URL with unix:, redis: or rediss:"),
    ("store = ['redis://:s3cret@x']", 6, "store: expected text in quotes, got a list"),
    ("ledger = 'mysql://u:s3cret@x'", 6, "ledger: expected a URL with unix:, redis: or rediss:"),
    ("database = 'mysql://u:s3cret@x'", 6, "database: expected postgresql://USER@HOST/NAME; put its password in"),
    ("database = { url = 's3cret' }", 6, "database: expected text in quotes, got a table"),
    ("max_ttl = 3600", 5, "max_ttl: a duration is a whole number and a unit"),
    ("max_ttl = '1ms'", 5, "max_ttl: expected a duration, 1s to 366d, got \"1ms\""),
    ("max_ttl = '1h30m'", 5, "max_ttl: a duration is a whole number and a unit"),
    ("replicas = 17", 6, "replicas: expected an integer, 0 to 16, got 17"),
    ("replicas = true", 6, "replicas: expected an integer, 0 to 16, got true"),
    ("replicas = 1.0", 6, "replicas: expected an integer, 0 to 16, got 1.0"),
    ("on_failover = 'rotat'", 6, "on_failover: expected one of \"rotate\", \"trust\", got \"rotat\""),
    ("failover_window = '61s'", 6, "failover_window: expected a duration, 1ms to 1m, got \"61s\""),
    ("failover_window = '0s'", 6, "failover_window: expected a duration, 1ms to 1m, got \"0s\""),
    ("key_refresh = '2d'", 6, "key_refresh: expected a duration, 1s to 1d, got \"2d\""),
    ("witnesses = 'https://w.example key'", 6, "witnesses: expected a list, got \"https://w"),
    ("witnesses = [\n'https://w.example w+1+k',\n'https://w.example']", 8, "witnesses[2]: expected \"URL KEY\", with"),
    ("witnesses_required = 'yes'", 6, "witnesses_required: expected true or false, got \"yes\""),
    ("agent_rate = -1", 6, "agent_rate: expected an integer, 0 to 1000000, got -1"),
    ("agent_burst = 0", 6, "agent_burst: expected an integer, 1 to 1000000, got 0"),
    ("address_rate = '20'", 6, "address_rate: expected an integer, 0 to 1000000, got \"20\""),
    ("refusal_rate = 1000001", 6, "refusal_rate: expected an integer, 0 to 1000000, got 1000001"),
    ("proxies = ['10.0.0.1/8']", 6, "proxies[1]: expected a network such as 10.0.0.0/8; got \"10.0.0.1/8\""),
    ("proxies = ['10.0.0.0/8', '10.0.0.0/8']", 6, "proxies[2]: \"10.0.0.0/8\" is listed twice"),
    ("metrics = ':9090'", 6, "metrics: expected host:port"),
    ("ca = ''", 6, "ca: expected the path of a certification authority's PEM file; got \"\""),
    ("webhook_hosts = ['https://alerts']", 6, "webhook_hosts[1]: expected a host such as"),
    ("login_issuer = 'https://l.example'", 6, "login_issuer: needs `login_client_id`"),
    ("login_client_secret = 's3cret'", 6, "login_client_secret: expected env:NAME or file:PATH: no secret is in"),
    ("login_issuer = 'http://l.example'\nlogin_client_id = 'm'", 6, "login_issuer: expected an https: URL"),
    ("login_issuer = 'https://l.example'\nlogin_client_id = ''", 7, "login_client_id: expected text on one line"),
    ("login_scope = 'email'", 6, "login_scope: expected openid in it"),
    ("console_idle = '30s'", 6, "console_idle: expected a duration, 1m to 1d, got \"30s\""),
    ("console_idle = '9h'", 6, "console_idle: expected console_idle to be at most console_life, 8h, got 9h"),
    ("console_life = '5m'", 6, "console_life: expected console_idle to be at most console_life, 5m, got 15m"),
    ("console_lif = '5m'", 6, "console_lif: unknown key; did you mean `console_life`?"),
    ("clients_agent = 'acme/apps'", 6, "clients_agent: needs `clients_scopes`"),
    ("clients_agent = 'acme/apps'\nclients_scopes = []", 7, "clients_scopes: expected a list with 1 to 32 templates"),
    ("clients_agent = 'acme/apps'\nclients_scopes = ['a']", 6, "clients_agent: expected login_issuer beside it"),
    ("[limits]\nagent_rate = 5", 6, "limits: unknown key; known here: "),
    ("name = 'x'\nname = 'y'", 3, "name: expected the key once, got it again; line 2 has it as well"),
    ("listen = 127.0.0.1:8700", 4, "not TOML: "),
]  # fmt: skip


@pytest.mark.parametrize(("line", "number", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_a_mistake_has_its_line_and_key(tmp_path: Path, line: str, number: int, message: str) -> None:
    """And no error shows a secret."""
    file = make(tmp_path / "realm").folder / "realm.toml"
    lines = file.read_text().splitlines()
    key = line.partition(" ")[0]
    at = next((at for at, written in enumerate(lines) if written.startswith(f"{key} ")), len(lines))
    lines[at : at + 1] = [line]
    file.write_text("\n".join(lines))
    with pytest.raises(SettingsError) as caught:
        Realm.open(tmp_path / "realm")
    assert str(caught.value).startswith(f"{file}:{number}: {message}")
    assert "s3cret" not in str(caught.value)


def test_all_mistakes_of_a_realm_are_printed_at_once(tmp_path: Path) -> None:
    """Each on a line, in their order, and with ``--json`` as ``further``."""
    file = make(tmp_path / "realm").folder / "realm.toml"
    text = file.read_text() + "replicas = 17\nagent_rat = 5\nstore = 's3cret'\n"
    file.write_text(text.replace('name = "acme"', 'name = "Acme"'))
    ran = arx("mint", "serve", "--realm-dir", tmp_path / "realm", "--json")
    assert ran.exit_code == 2
    lines = ran.err.splitlines()
    assert [line.removeprefix(f"arx: {file}:").partition(": ")[0] for line in lines] == ["2", "6", "7", "8"]
    assert [f"arx: {text}" for text in (ran.json["error"], *ran.json["further"])] == lines
    assert "s3cret" not in ran.err
    checks = arx("doctor", "--realm-dir", tmp_path / "realm", "--json").json["checks"]
    assert [f"arx: {check['found']}" for check in checks if check["name"] == "realm"] == lines


def test_a_database_of_the_environment_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as a setting of the file; its URL is not shown."""
    make(tmp_path / "realm")
    monkeypatch.setenv("ARX_DATABASE", "mysql://u:s3cret@x")
    with pytest.raises(SettingsError, match="invalid ARX_DATABASE: expected postgresql://USER@HOST/NAME") as caught:
        Realm.open(tmp_path / "realm")
    assert "s3cret" not in str(caught.value)


def test_the_first_policy_is_for_agents_of_the_realms_name(tmp_path: Path) -> None:
    """An agent below the realm's name can open a session at once, and start the tasks of the sample."""
    policy = Policy.load(init_realm(tmp_path / "realm", name="newc", issuer=ISSUER).policy_path)
    assert policy.may_open("newc/support/triage").name == "default"
    assert policy.grant("lookup", "newc/support/triage", {"order_id": "o-1"}).delegate_to == ("newc/**",)
    assert "acme" not in policy.text.source


def test_the_environment_names_the_default_folder() -> None:
    """``ARX_HOME`` names the folder, else it is ``./.arx``."""
    assert default_folder({"ARX_HOME": "/srv/arx"}) == Path("/srv/arx")
    assert default_folder({}) == default_folder({"ARX_HOME": ""}) == Path(DEFAULT_FOLDER)


LOGIN = {"login_issuer": "https://login.example", "login_client_id": "mint"}
CLIENTS = {"clients_agent": "acme/apps", "clients_scopes": ["lookup"], **LOGIN}
BAD_CLIENTS: dict[str, dict[str, object]] = {
    "no login": dict.fromkeys(LOGIN),
    "no issuer of the login": {"login_issuer": None},
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


def clients(tmp_path: Path, written: dict[str, object]) -> SelfRegistration | None:
    """Return the settings of clients of a realm."""
    file = make(tmp_path / "realm").folder / "realm.toml"
    # A JSON text, a list of them, a number and a flag are written as in TOML.
    file.write_text(file.read_text() + "".join(f"{name} = {json.dumps(value)}\n" for name, value in written.items()))
    return Realm.open(tmp_path / "realm").clients


@pytest.mark.parametrize("changed", BAD_CLIENTS.values(), ids=BAD_CLIENTS.keys())
def test_bad_settings_of_clients_are_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    """A mistake must not let in clients that the operator has not meant."""
    written = {name: value for name, value in (CLIENTS | changed).items() if value is not None}
    with pytest.raises(SettingsError, match=r"realm\.toml:\d+: (clients|login)_"):
        clients(tmp_path, written)


def test_settings_of_clients(tmp_path: Path) -> None:
    """Off without any; what is left out has its default."""
    assert clients(tmp_path / "without", LOGIN) is None
    hosts = ["app.example", "app.example:8443"]
    terms = clients(tmp_path / "with", CLIENTS | {"clients_hosts": hosts, "clients_unused": "7d"})
    assert terms is not None
    assert (terms.register, terms.most, terms.hosts) == (False, 1000, tuple(hosts))
    assert terms.unused_ms == 7 * 24 * 3_600_000
