# SPDX-License-Identifier: Apache-2.0
"""Clients that a document describes: a person consents, and a real HTTPS server has the document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from arx_caps.http.public_fetch import FetchedDocument, FetchError
from arx_caps.mint.documents import FAILED_S, MAX_DOCUMENTS, MAX_FRESH_S, MIN_FRESH_S
from tests.mint.documents import PATH, DocumentServer, document_server, send
from tests.mint.harness import AGENT, Harness
from tests.mint.login import Flow, claims_of
from tests.mint.oauth import Client, assertion
from tests.mint.test_registration import set_clients

pytestmark = pytest.mark.spec("CONTROL 5.13")

KEY = ECKey.generate_key("P-256", {"kid": "k"}, private=True)
JWKS = {"keys": [KEY.as_dict(private=False)]}
BAD: dict[str, dict[str, Any]] = {
    "another client's": {"client_id": "https://app.example/oauth/client.json"},
    "a secret": {"client_secret": "x"},
    "a secret's end": {"client_secret_expires_at": 0},
    "a shared secret": {"token_endpoint_auth_method": "client_secret_post"},
    "keys elsewhere": {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://app.example/keys"},
    "a private key": {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [KEY.as_dict(private=True)]}},
    "no redirect": {"redirect_uris": []},
    "a redirect elsewhere": {"redirect_uris": ["http://app.example/callback"]},
    "no code": {"grant_types": ["client_credentials"]},
    "no object": {"redirect_uris": "https://app.example/callback"},
}


class Described(Client):
    """A client that a document describes.

    Args:
        harness: The realm.
        url: Where the document is.
    """

    def __init__(self, harness: Harness, url: str) -> None:
        self.harness, self.secret, self.id = harness, "", url


@pytest.fixture
def site(flow: Flow, tmp_path: Path) -> Iterator[DocumentServer]:
    """A server whose documents the mint takes."""
    with document_server(tmp_path / "site") as made:
        made.show()
        set_clients(flow.harness, hosts=(made.netloc,))
        flow.harness.mint.client_documents = made.documents()
        yield made


@pytest.fixture
def stranger(flow: Flow, site: DocumentServer) -> Flow:
    """A client that a document describes, and the browser of a person who uses it."""
    return Flow(flow.harness, Described(flow.harness, site.url))


def test_a_person_consents_and_a_kill_of_the_agent_ends_it(stranger: Flow, site: DocumentServer) -> None:
    """The page shows where the document is; its URL is the client in the token; a kill of the agent ends it."""
    harness, url = stranger.harness, site.url
    shown = harness.client.get("/.well-known/oauth-authorization-server").json()
    assert shown["client_id_metadata_document_supported"] is True
    page = stranger.page()
    assert "No operator has registered this program" in page.text
    assert f"<code>https://{site.netloc}</code>" in page.text
    assert "which calls itself <code>Orders of Acme</code>" in page.text
    body = stranger.token()
    claims = claims_of(harness, body["access_token"])
    assert (claims.sub, claims.client_id) == (f"agent:{AGENT}", url)
    again = stranger.refresh(body["refresh_token"])
    assert again.status_code == 200, again.text
    assert site.asked == [PATH]  # once for all of it
    (row,) = [row for row in harness.operator().call("GET", "/v1/clients").json()["clients"] if row["url"] == url]
    assert (row["by"], row["agent"], row["scopes"]) == ("self", AGENT, ["lookup", "status"])
    assert row["used_at"] is not None
    assert stranger.begin(client_id=row["id"]).status_code == 400
    harness.epochs.kill(f"agent:{AGENT}")
    assert stranger.refresh(again.json()["refresh_token"]).json()["code"] == "revoked"


@pytest.mark.sqlite
def test_one_with_keys_proves_them(stranger: Flow, site: DocumentServer) -> None:
    """With the keys in its document; and with them too, it gets nothing but what a person consents to."""
    site.show(token_endpoint_auth_method="private_key_jwt", jwks=JWKS)

    def ask(key: ECKey = KEY, **form: str) -> dict[str, Any]:
        answer = stranger.client.post("/oauth/token", {}, **assertion(site.url, key, "ES256"), **form)
        return {"status": answer.status_code, **answer.json()}

    form = {"grant_type": "authorization_code", "code": stranger.code(), "redirect_uri": stranger.redirect}
    form["code_verifier"] = "v" * 43
    assert stranger.client.post("/oauth/token", {}, client_id=site.url, **form).json()["error"] == "invalid_client"
    other = ECKey.generate_key("P-256", {"kid": "k"}, private=True)
    assert ask(other, **form)["error"] == "invalid_client"
    body = ask(**form)
    assert body["status"] == 200, body
    assert ask(grant_type="client_credentials", scope="lookup")["error"] == "unauthorized_client"
    assert ask(grant_type="refresh_token", refresh_token=body["refresh_token"])["status"] == 200


@pytest.mark.sqlite
@pytest.mark.parametrize("about", BAD.values(), ids=BAD.keys())
def test_a_bad_document_is_refused(stranger: Flow, site: DocumentServer, about: dict[str, Any]) -> None:
    """On a page, without a redirect."""
    site.show(**about)
    answer = stranger.begin()
    assert (answer.status_code, "location" in answer.headers) == (400, False)
    assert "The document of the client" in answer.text


@pytest.mark.sqlite
def test_only_a_person_makes_a_row(stranger: Flow, site: DocumentServer) -> None:
    """An unknown URL is not even fetched for the token endpoint; a redirect is judged by the document as it is now."""
    db = stranger.harness.mint.db
    assert stranger.refresh("arxr1_x").json()["error"] == "invalid_client"
    assert site.asked == []
    assert stranger.begin().status_code == 303
    assert db.oauth_clients.by_url(site.url, AGENT) is None
    refused = stranger.begin(redirect_uri="https://evil.example/")
    assert (refused.status_code, site.url in refused.text) == (400, True)
    stranger.page()
    stranger.page()
    assert db.oauth_clients.by_url(site.url, AGENT) is not None


@pytest.mark.sqlite
def test_an_operator_removes_one_for_good(stranger: Flow, site: DocumentServer) -> None:
    """Its document is not asked any more, and its row stays."""
    stranger.page()
    db = stranger.harness.mint.db.oauth_clients
    row = db.by_url(site.url, AGENT)
    assert row is not None
    assert stranger.harness.operator().call("DELETE", f"/v1/clients/{row.id}").status_code == 200
    asked = len(site.asked)
    assert stranger.begin().status_code == 400
    assert len(site.asked) == asked
    db.prune(1)
    assert db.by_url(site.url, AGENT) is not None


@pytest.mark.sqlite
def test_a_host_that_is_not_listed_is_not_asked(stranger: Flow, site: DocumentServer) -> None:
    """Nor any host, if the settings list none."""
    assert stranger.begin(client_id=f"https://app.example{PATH}").status_code == 400
    assert stranger.begin(client_id=f"https://other.example:{site.port}{PATH}").status_code == 400
    assert site.asked == []
    set_clients(stranger.harness, hosts=())
    assert (
        "client_id_metadata_document_supported"
        not in stranger.harness.client.get("/.well-known/oauth-authorization-server").json()
    )


@pytest.mark.sqlite
def test_a_host_that_does_not_answer(stranger: Flow, site: DocumentServer) -> None:
    """A client that is known gets 503 and may try again, for its refresh token is still good."""
    body = stranger.token()
    site.answers[PATH] = lambda handler: send(handler, body=b"", status=502)
    stranger.harness.mint.client_documents = site.documents()
    answer = stranger.refresh(body["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    site.show()
    stranger.harness.mint.client_documents = site.documents()
    assert stranger.refresh(body["refresh_token"]).status_code == 200


@pytest.mark.parametrize(
    ("max_age", "fresh_s"),
    [(None, 300), ("max-age=0", MIN_FRESH_S), ("no-store", MIN_FRESH_S), ("public, max-age=900", 900),
     ("max-age=999999999", MAX_FRESH_S)],
)  # fmt: skip
def test_a_document_is_kept_within_limits(tmp_path: Path, max_age: str | None, fresh_s: int) -> None:
    """As long as its server says, a minute at least and an hour at most."""
    now = [0.0]
    with document_server(tmp_path / "site") as site:
        site.show(headers={} if max_age is None else {"Cache-Control": max_age})
        documents = site.documents(clock=lambda: now[0])
        documents.find(site.url)
        now[0] = fresh_s - 1
        documents.find(site.url)
        assert len(site.asked) == 1
        now[0] = fresh_s
        documents.find(site.url)
        assert len(site.asked) == 2


def test_a_failure_is_kept_too(tmp_path: Path) -> None:
    """For a while, apart from documents, and no more of them than a number."""
    now = [0.0]
    with document_server(tmp_path / "site") as site:
        site.show()
        fetched: list[str] = []

        def fetch(url: str) -> FetchedDocument:
            fetched.append(url)
            return site.fetch(url) if url == site.url else fail()

        def fail() -> FetchedDocument:
            raise FetchError("no")

        documents = site.documents(clock=lambda: now[0])
        documents._fetch = fetch
        documents.find(site.url)
        for n in range(MAX_DOCUMENTS + 1):
            with pytest.raises(FetchError):
                documents.find(f"{site.url}/{n}")
        count = len(fetched)
        documents.find(site.url)
        with pytest.raises(FetchError):
            documents.find(f"{site.url}/{MAX_DOCUMENTS}")
        assert len(fetched) == count
        now[0] = FAILED_S
        with pytest.raises(FetchError):
            documents.find(f"{site.url}/{MAX_DOCUMENTS}")
        assert len(fetched) == count + 1
        assert len(documents._failures) == MAX_DOCUMENTS
