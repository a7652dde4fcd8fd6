# SPDX-License-Identifier: Apache-2.0
"""Check where people log in, and the accounts that they have connected at upstreams.

The login has an issuer, and the mint as its client.  CONTROL 5.8, 9, OpenID Connect Discovery 4.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import httpx
import msgspec

from arx_caps.cli.commands.doctor.check import Check, ask_database, load_policy
from arx_caps.cli.commands.doctor.oauth import TIMEOUT_S, check_clock
from arx_caps.credentials.secret_source import read_secret
from arx_caps.http.client import no_answer, open_client
from arx_caps.settings.durations import show_span
from arx_caps.settings.realm import Login, Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError

if TYPE_CHECKING:
    from arx_caps.mint.policy.model import Policy

NAME: Final = "login"
CONNECTIONS: Final = "connections"
IDLE_MS: Final = 30 * 86_400_000  # of a connection without a call


class _Metadata(msgspec.Struct):
    issuer: str
    authorization_endpoint: str
    device_authorization_endpoint: str = ""
    claims_supported: tuple[str, ...] | None = None


def check_login(realm: Realm) -> Iterator[Check]:
    """Check the login's settings, as the mint and a browser use them; yield nothing without a login.

    Args:
        realm: The realm.
    """
    login = realm.login
    if login is None:
        return
    yield _secret(login, realm)
    policy = load_policy(realm)
    yield _trust(login, policy)
    if policy is not None:
        yield from _clients(realm, policy)
    url = f"{login.issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        with open_client(url, timeout=TIMEOUT_S, ca=realm.ca, proxy=url.startswith("https:")) as client:
            answer = client.get(url)
            yield check_clock("login's clock", url, answer)
            metadata = msgspec.json.decode(answer.content, type=_Metadata)
            if metadata.issuer != login.issuer:
                found = f"the issuer at {login.issuer} calls itself {metadata.issuer}"
                yield Check(NAME, False, found, "write `login_issuer` in realm.toml as the issuer does, byte for byte")
                return
            if policy is not None and policy.operators:
                yield from _operators(login, policy, metadata)
            yield _registration(login, realm, client, metadata.authorization_endpoint)
    except msgspec.MsgspecError:
        found = f"{url} answers {answer.status_code}: expected the metadata of an issuer"
        yield Check(NAME, False, found, "correct `login_issuer` in realm.toml")
    except (httpx.HTTPError, httpx.InvalidURL, SettingsError) as error:
        found = f"{login.issuer} did not answer ({no_answer(error, url)})"
        yield Check(NAME, False, found, "start the issuer, let this machine reach it, or correct `login_issuer`")


def _secret(login: Login, realm: Realm) -> Check:
    name, source = "login's secret", login.client_secret
    if source is None:
        return Check(name, True, "none: the mint is a public client")
    fault = _fault_of(realm, source)
    if fault is None:
        return Check(name, True, f"in {source}")
    if source.startswith("env:"):
        return Check(name, None, f"{fault}: here", "run it with the mint's environment")
    return Check(name, False, fault, "correct the file, or `login_client_secret` in realm.toml")


def _trust(login: Login, policy: "Policy | None") -> Check:
    name = "login's issuer"
    if policy is None:
        return Check(name, None, "the policy cannot be read", "correct the policy first")
    if login.issuer not in [issuer.url for issuer in policy.issuers.values()]:
        found = f"the policy has no [issuer] with the URL {login.issuer}"
        return Check(name, False, found, "write one, byte for byte, with `jwks` and `algorithms` (docs/oauth.md)")
    return Check(name, True, f"the policy trusts {login.issuer}")


def _clients(realm: Realm, policy: "Policy") -> Iterator[Check]:
    if realm.clients is None:
        return
    scopes, templates = realm.clients.scopes, policy.templates
    useless = [name for name in scopes if name not in templates or templates[name].bearer_terms == "refuse"]
    if useless:
        found = f"the policy has no task {' and no task '.join(useless)} for access tokens"
        yield Check("clients", False, found, "correct `clients_scopes` in realm.toml, or the policy")
    else:
        yield Check("clients", True, f"{realm.clients.agent}, for {', '.join(scopes)}")


def _operators(login: Login, policy: "Policy", metadata: _Metadata) -> Iterator[Check]:
    """Check what operators by login need, if the policy makes any."""
    name = "operators"
    theirs = [rule for rule in policy.operators if policy.issuers[rule.issuer].url == login.issuer]
    if len(theirs) < len(policy.operators):
        found = "an [[operator]] of the policy names another issuer than `login_issuer`"
        yield Check(name, False, found, "name the issuer of `login_issuer`, or remove the entry: no login fits it")
    else:
        roles = ", ".join(dict.fromkeys(rule.role for rule in theirs))
        yield Check(name, True, f"the policy makes people operators: {roles}")
    if metadata.claims_supported is not None and "auth_time" not in metadata.claims_supported:
        found = f"{login.issuer} lists no claim auth_time, so no login there is recent enough to grant rights"
        yield Check(name, None, found, "approve, thaw and load policies after `arx console open`")
    if login.device_client_id is not None and not metadata.device_authorization_endpoint:
        found = f"{login.issuer} knows no device codes"
        yield Check(name, False, found, "remove `login_device_client_id`, or switch them on there")


def _registration(login: Login, realm: Realm, client: httpx.Client, endpoint: str) -> Check:
    from arx_caps.mint.login.issuer_client import challenge_of
    from arx_caps.mint.login.oidc import CALLBACK

    redirect = realm.issuer + CALLBACK
    query = {"response_type": "code", "client_id": login.client_id, "redirect_uri": redirect, "scope": login.scope}
    query |= {"state": NAME, "nonce": NAME, "code_challenge": challenge_of(NAME), "code_challenge_method": "S256"}
    # Without a login: an issuer that knows the mint sends the browser back, or shows a form.
    url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query | {'prompt': 'none'})}"
    answer = client.get(url)
    if answer.status_code >= 400:
        found = f"{endpoint} answers {answer.status_code} to the client {login.client_id}"
        return Check(NAME, False, found, f"register the client there, with the redirect URI {redirect}")
    location = httpx.URL(answer.headers.get("location", ""))
    error = location.params.get("error") if str(location).startswith(redirect) else None
    if error is not None and not error.endswith(("_required", "access_denied")):
        found = f"{endpoint} answers {error:.60} to the client {login.client_id} with the scope {login.scope}"
        return Check(NAME, False, found, "correct `login_scope` in realm.toml, or what the client may do there")
    return Check(NAME, True, f"{login.issuer} takes the client {login.client_id} with {redirect}")


def check_connections(realm: Realm) -> Iterator[Check]:
    """Check each connection that the settings or the mint's database name; yield nothing without one.

    Args:
        realm: The realm.
    """
    before = now_ms() - IDLE_MS
    rows = ask_database(realm, lambda db: db.connections.list_open()) or ()
    for name in sorted({*realm.connection, *(row.name for row in rows)}):
        terms, its = realm.connection.get(name), [row for row in rows if row.name == name]
        own = [row for row in its if terms is not None and row.issuer == terms.issuer]
        sources = () if terms is None else (terms.client_secret, terms.client_secret_next)
        # A variable is of the mint's environment, which may be another one.
        files = (source for source in sources if source is not None and source.startswith("file:"))
        fault = next(filter(None, (_fault_of(realm, source) for source in files)), None)
        if fault is not None:
            yield Check(CONNECTIONS, False, f"{name}: {fault}", f"correct the client's secret in [connection.{name}]")
            continue
        unclear = sum(row.refresher is not None and row.refresh_until == 0 for row in own)
        idle, foreign = sum((row.used_at or row.created_at) < before for row in own), len(its) - len(own)
        through = None if terms is None else terms.through
        found = f"{name}: {len(own)} open" if through is None else f"{name}: through {through}"
        found += f", {unclear} unclear: the next call of each tries its refresh token once more" if unclear else ""
        found += f", {idle} without a call for {show_span(IDLE_MS)}" if idle else ""
        found += (
            f", {foreign} of an issuer that realm.toml does not name: their people connect again" if foreign else ""
        )
        mend = f"end what is not used: `arx connection list --name {name}`, `arx connection end`"
        yield Check(CONNECTIONS, True, found, mend if idle or foreign else "")


def _fault_of(realm: Realm, source: str) -> str | None:
    """Return why a client's secret cannot be read; None if it can."""
    try:
        read_secret(source, realm.folder)
    except SettingsError as error:
        return str(error)
    return None
