# SPDX-License-Identifier: Apache-2.0
"""The pages of verifiers and keys: what is enrolled, what is present, what was used; and each page's command."""

import re
from html import unescape

import click
import pytest

from arx_caps.cli.app import cli
from arx_caps.console.menu import MENU
from tests.console.harness import operator_with, sign_in
from tests.mint.approvals import POLICY
from tests.mint.harness import AGENT, Harness


@pytest.mark.sqlite
def test_each_page_shows_a_command_that_exists(unit: Harness) -> None:
    """Its words are a command of ``arx``, and its options are that command's."""
    unit.mint.log.start()
    unit.mint.policies.settle()
    browser = sign_in(unit)
    for path in [entry.path for _, entries in MENU for entry in entries]:
        shown = re.search(r'aria-label="The same on the command line">.*<code>(.*)</code>', browser.get(path))
        assert shown is not None, path
        for line in unescape(shown[1]).split("; "):
            found: click.Command | None = cli
            for word in line.split()[1:]:
                if isinstance(found, click.Group):
                    found = found.get_command(click.Context(found), word)
                elif word.startswith("--"):
                    assert found is not None, (path, line)
                    assert word in {name for option in found.params for name in option.opts}, (path, line)
            assert found is not None, (path, line)
            assert not isinstance(found, click.Group), (path, line)


@pytest.mark.sqlite
def test_keys_show_who_used_them(unit: Harness) -> None:
    """The page marks a key that never signed; that of an operator who is signed in was used now."""
    unit.enrol(AGENT)
    page = sign_in(unit).get("/console/keys")
    assert AGENT in page
    assert "never" in page
    found = {key["holder"]: key for key in unit.operator().call("GET", "/v1/holder-keys").json()["keys"]}
    assert found[AGENT]["used_at"] is None
    assert found["operator:root"]["used_at"] > found["operator:root"]["added_at"]
    unit.open_session(unit.enrol("acme/other"))
    found = {key["holder"]: key for key in unit.operator().call("GET", "/v1/holder-keys").json()["keys"]}
    assert found["acme/other"]["used_at"] is not None


@pytest.mark.sqlite
def test_owners_and_people_come_before_digests(unit: Harness) -> None:
    """A key begins with its owner, who is a link away; a policy with who put it in force, and when."""
    unit.enrol(AGENT)
    unit.use(POLICY)
    browser = sign_in(unit)
    page = browser.get("/console/keys")
    for row in re.findall(r"<tr><td>(.*?)</td>", page.partition("Keys of agents")[2]):
        assert row.startswith('<a href="/console/find?id='), row
    assert "/console/find?id=operator%3Aroot" in page
    page = browser.get("/console/policy")
    assert page.index("<dt>By</dt><dd>") < page.index("<dt>Since</dt>") < page.index("<dt>Digest</dt>")
    digest = unit.mint.policies.loaded.digest
    row = page[page.index("<tbody>") :]
    assert row.index("<time") < row.index("in force") < row.index(digest)
    assert digest not in re.search(r"<h1>(.*?)</h1>", browser.get(f"/console/policy/{digest}"))[1]  # type: ignore[index]


@pytest.mark.sqlite
def test_what_is_not_found_leads_to_its_list(unit: Harness) -> None:
    """The link names the list that the address is below, if the operator may read it."""
    browser = sign_in(unit)
    for path, label in (("sessions/s-aaaaaaaaaaaaaaaa", "sessions"), ("agents/acme/none", "agents")):
        page = browser.get(f"/console/{path}")
        assert browser.status == 404
        assert f'<a href="/console/{label}">List of {label}</a>' in page
    assert "List of" not in browser.get("/console/nowhere")
    assert browser.status == 404
    reader = sign_in(unit, operator_with(unit, "kim", "kill-only"))
    assert "List of" not in reader.get("/console/sessions/s-aaaaaaaaaaaaaaaa")


@pytest.mark.sqlite
def test_a_chosen_time_stays(unit: Harness) -> None:
    """One choice is that of *Now*, *Top* and the search from the menu; a link's filters have no other time."""
    unit.mint.log.start()
    browser = sign_in(unit)
    chosen = re.compile(r'<option value="(\w+)" selected|since=(\w+)" aria-current')

    def times() -> list[str]:
        pages = browser.get("/console/now"), browser.get("/console/top")
        return [found[1] or found[2] for page in pages if (found := chosen.search(page))]

    assert times() == ["1h", "1h"]
    browser.get("/console/top?since=7d")
    assert times() == ["7d", "7d"]
    page = browser.get("/console/search")
    assert str(browser.page.url).endswith("?since=7d")  # type: ignore[union-attr]
    assert 'name="since" value="7d"' in page
    assert 'name="since" value=""' in browser.get("/console/search?session=s-1")
    browser.get("/console/now?since=24h")
    assert times() == ["24h", "24h"]
    # A time between two dates, or an age that is no choice, is for one look.
    for once in ("since=2026-01-31&until=2026-02-01", "since=2h"):
        browser.get(f"/console/top?{once}")
        assert browser.status == 200, once
    browser.get("/console/now?since=junk")
    assert browser.status == 400
    assert times() == ["24h", "24h"]
    browser.get("/console/search?since=")
    browser.get("/console/search")
    assert "since" not in str(browser.page.url)  # type: ignore[union-attr]
    browser.client.cookies.set("arx-range", "<b>", domain="mint.example")
    assert "<b>" not in browser.get("/console/now")
    assert browser.status == 200


@pytest.mark.sqlite
def test_keys_have_pages(unit: Harness) -> None:
    """A page has at most as many keys as asked for, and leads to the next."""
    names = [f"acme/a{number}" for number in range(5)]
    for name in names:
        unit.enrol(name)
    holders, after = list[str](), {}
    while True:
        answer = unit.operator().call("GET", "/v1/holder-keys", limit="2", **after).json()
        holders += [key["holder"] for key in answer["keys"]]
        if "next" not in answer:
            break
        after = {"after": answer["next"]}
    assert holders == sorted([*names, "operator:root"])


@pytest.mark.servers
@pytest.mark.sqlite
def test_verifiers_stand_beside_their_services(live: Harness) -> None:
    """An enrolled service without a process is never seen and stands first; the mint's own verifier is live."""
    live.operator().call("PUT", "/v1/services/orders")
    page = sign_in(live).get("/console/verifiers")
    assert page.index("never seen") < page.index("arx.mint")
    assert page.index("orders") < page.index("arx.mint")
    assert "1 enrolled service" in page


@pytest.mark.servers
@pytest.mark.sqlite
def test_a_service_that_no_process_runs_stays_on_now(live: Harness) -> None:
    """A process that was replaced leaves the page after a minute; the last one of a service does not."""
    store = live.mint.store
    client, now = store.exchange.client, store.header().at_ms
    for name, age_ms in (("orders-7-0a0a0a", 120_000), ("mail-7-0a0a0a", 120_000), ("mail-8-0b0b0b", 0)):
        client.zadd(store.keys.registry[0], {name: now - age_ms})
        client.zadd(store.keys.registry[1], {name: 0})
    page = sign_in(live).get("/console/now")
    shown = [name for name in ("orders-7-0a0a0a", "mail-7-0a0a0a", "mail-8-0b0b0b") if name in page]
    assert shown == ["orders-7-0a0a0a", "mail-8-0b0b0b"]
    assert "1 gone" in page
