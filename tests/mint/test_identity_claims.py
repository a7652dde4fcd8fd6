# SPDX-License-Identifier: Apache-2.0
"""What a policy requires of claims: a third-party caveat never fits more than it says."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.mint.policy.claims import check_claims, fits_text, keeps
from arx_caps.mint.policy.issuers import SubjectRule
from arx_caps.settings.toml_file import TomlEntry, TomlText
from arx_verifier.errors import SettingsError

MAIN = "repo:acme/shop:ref:refs/heads/main"

FITS = [
    (MAIN, MAIN),
    ("repo:acme/*:ref:refs/heads/main", MAIN),
    ("repo:acme/*:ref:refs/heads/*", MAIN),
    ("repo:acme/sh*p:ref:refs/heads/main", "repo:acme/shoop:ref:refs/heads/main"),
    ("spiffe://acme.example/ns/prod/sa/*", "spiffe://acme.example/ns/prod/sa/triage-2"),
    ("*@acme.example", "ann.lee@acme.example"),
]
FITS_NOT = [
    (MAIN, MAIN + "x"),
    (MAIN, MAIN.upper()),
    ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop/evil:ref:refs/heads/main"),
    ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop:pull_request:ref:refs/heads/main"),
    ("repo:acme/*", MAIN),
    ("repo:acme/*:ref:refs/heads/main", "repo:acme/:ref:refs/heads/main"),
    ("repo:acme/*:ref:refs/heads/main", "repo:acme/..:ref:refs/heads/main"),
    ("repo:acme/sh*p:ref:refs/heads/main", "repo:acme/shp:ref:refs/heads/main"),
    ("repo:acme/sho*op", "repo:acme/shoop"),
    ("spiffe://acme.example/*", "spiffe://acme.example/a/b"),
    ("*@acme.example", "ann@evil.example@acme.example"),
    ("*@acme.example", "ann@acme.example.evil"),
    ("a*", "aß"),
    ("a/*", "a/*"),
    ("*", ""),
    ("*", "*"),
]


@pytest.mark.parametrize(("pattern", "text"), FITS)
def test_a_text_fits(pattern: str, text: str) -> None:
    """Equal, or with one piece between separators for each star."""
    assert fits_text(pattern, text)


@pytest.mark.parametrize(("pattern", "text"), FITS_NOT)
def test_a_text_fits_not(pattern: str, text: str) -> None:
    """Nothing crosses a separator, is empty, or is another place in a path."""
    assert not fits_text(pattern, text)


pieces = st.text("ab.-", min_size=1, max_size=3)
separators = st.sampled_from("/:@ %#?*")
texts = st.lists(pieces | separators, max_size=8).map("".join)


@given(st.lists(pieces | separators.filter(lambda one: one != "*"), max_size=8), texts, st.data())
def test_a_star_changes_one_piece_alone(parts: list[str], text: str, data: st.DataObject) -> None:
    """
    What fits a pattern equals it in everything but one run of harmless characters for each star.
    """
    starred = [data.draw(st.sampled_from([part, "*"])) if part.strip("ab.-") == "" else part for part in parts]
    pattern = "".join(starred)
    if "**" in pattern:
        return
    if fits_text(pattern, text):
        assert re.fullmatch(re.escape(pattern).replace(r"\*", "[ab.-]+"), text)
    if "*" not in pattern:
        assert fits_text(pattern, text) == (pattern == text)


CLAIMS = {
    "sub": "ann",
    "groups": ["support", "refunds"],
    "email_verified": True,
    "level": 1,
    "ratio": 1.0,
    "kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "triage"}},
}
THIRD_PARTIES: list[tuple[str, bool]] = [
    ('{ groups = "support" }', True),
    ('{ groups = ["x", "refunds"] }', True),
    ('{ groups = "x" }', False),
    ('{ groups = "support", sub = "bob" }', False),
    ('{ sub = ["bob", "ann"] }', True),
    ("{ email_verified = true }", True),
    ("{ email_verified = 1 }", False),
    ('{ email_verified = "true" }', False),
    ("{ level = 1 }", True),
    ("{ level = true }", False),
    ("{ ratio = 1 }", False),
    ('{ "kubernetes.io" = { namespace = "prod" } }', True),
    ('{ "kubernetes.io" = { namespace = "prod", serviceaccount = { name = "*" } } }', True),
    ('{ "kubernetes.io" = { namespace = "test" } }', False),
    ('{ sub = { a = "b" } }', False),
    ('{ "kubernetes.io" = "prod" }', False),
    ('{ absent = "x" }', False),
]


def requires(written: str) -> dict[str, Any]:
    text = TomlText(f'issuer = "x"\nclaims = {written}', "policy.toml")
    rule: SubjectRule = TomlEntry(text).read(SubjectRule, text.document)
    check_claims(TomlEntry(text, ("claims",)), rule.claims)
    return rule.claims


@pytest.mark.parametrize(("written", "kept"), THIRD_PARTIES)
def test_every_rule_of_a_claim_must_be_kept(written: str, kept: bool) -> None:
    """A list's item may fit, one of several texts may fit, and types are never mixed up."""
    assert keeps(requires(written), CLAIMS) is kept


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{}", "at least one"),
        ('"x"', "a table"),
        ("{ a = [] }", "a list of texts"),
        ("{ a = [1] }", "a list of texts"),
        ("{ a = 1.5 }", "expected text"),
        ('{ a = "" }', "1 to 512"),
        ('{ a = "a**" }', "does not exist"),
        ('{ a = "*a*" }', "at most one"),
        ("{ a = {} }", "at least one"),
        ('{ a = { b = { c = { d = { e = "x" } } } } }', "levels"),
    ],
)
def test_what_is_no_rule_of_a_claim_is_an_error(written: str, words: str) -> None:
    """Every token would satisfy an empty require."""
    with pytest.raises(SettingsError, match=words):
        requires(written)
