# SPDX-License-Identifier: Apache-2.0
"""What a policy may name of issuers, workloads and subjects; each mistake has its line and key."""

import pytest

from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import Policy
from arx_verifier.constraints.rule import compile_rule, permits
from arx_verifier.errors import SettingsError

BASE = """\
[issuer.corp]
url = "https://idp.example"
jwks = "https://idp.example/keys"
audience = ["https://mint.example"]
algorithms = ["RS256"]

[[workload]]
issuer = "corp"
claims = { sub = "build" }
agent = "acme/ci"

[audience.orders]
origins = ["http://127.0.0.1:9001"]

[session]
agents = ["acme/**"]
ttl = "8h"
subject = "allowed"
subjects = [ { issuer = "corp", claims = { groups = "a" } } ]

[task.own]
agents = ["**"]
subjects = [ { issuer = "corp" } ]
ttl = "10m"
audience = ["orders"]
allow = [ { tool = "orders.list", args = { of = "$subject" } } ]
"""

MISTAKES: list[tuple[str, str, int, str]] = [
    ('url = "https://idp.example"', 'url = ""', 2, "iss"),
    ('url = "https://idp.example"', 'url = "https://idp.example /"', 2, "without spaces"),
    ('url = "https://idp.example"', 'url = "spiffe://acme.example/x"', 2, "trust domain"),
    ('url = "https://idp.example"\n', "", 1, "needs `url`"),
    ('jwks = "https://idp.example/keys"', 'jwks = "http://idp.example/keys"', 3, "an https: URL"),
    ('jwks = "https://idp.example/keys"', 'jwks = "http://127.0.0.1.evil.example/keys"', 3, "an https: URL"),
    ('jwks = "https://idp.example/keys"', 'jwks = "file:///etc/keys"', 3, "a URL such as"),
    ('jwks = "https://idp.example/keys"', 'jwks = "ftp://idp.example/keys"', 3, "an https: URL"),
    ('jwks = "https://idp.example/keys"', 'jwks = "https://ann:secret@idp.example/keys"', 3, "without a login"),
    ('jwks = "https://idp.example/keys"', 'jwks = "https://[::1/keys"', 3, "a URL such as"),
    ('jwks = "https://idp.example/keys"', 'jwks = ""', 3, "the name of a file"),
    ('audience = ["https://mint.example"]', "audience = []", 4, "at least one"),
    ('audience = ["https://mint.example"]', 'audience = [""]', 4, "audience[1]: expected text that is not empty"),
    ('algorithms = ["RS256"]', "algorithms = []", 5, "at least one algorithm"),
    ('algorithms = ["RS256"]', 'algorithms = ["HS256"]', 5, "algorithms[1]: expected one of "),
    ('algorithms = ["RS256"]', 'algorithms = ["none"]', 5, "algorithms[1]: expected one of "),
    ('algorithms = ["RS256"]', 'algorithms = ["RS256"]\nleeway = "5m"', 6, "unknown key"),
    ("[issuer.corp]", "[issuer.Corp]", 1, "issuer.Corp: expected a name"),
    ('issuer = "corp"\nclaims', 'issuer = "ci"\nclaims', 8, "the issuers (corp), got"),
    ('{ sub = "build" }', "{}", 9, "at least one claim"),
    ('{ sub = "build" }', '{ sub = "*" }', 9, "needs `sub`"),
    ('{ sub = "build" }', '{ sub = ["build", "*"] }', 9, "needs `sub`"),
    ('{ sub = "build" }', '{ iss = "https://idp.example" }', 9, "needs `sub`"),
    ('{ sub = "build" }', '{ sub = "build**" }', 9, "`**` does not exist"),
    ('agent = "acme/ci"', 'agent = "acme/*"', 10, "expected an agent path"),
    ('agent = "acme/ci"', 'agent = "acme/ci"\nttl = "1h"', 11, "unknown key"),
    ("[[workload]]", "[workload]", 7, "[[workload]]"),
    ('subject = "allowed"', 'subject = "maybe"', 18, 'one of "allowed", "none", "required", got "maybe"'),
    ('subject = "allowed"\n', "", 15, "are for sessions with"),
    ('subject = "allowed"\n', 'subject_outlives = "1h"\n', 15, "are for sessions with"),
    ('\nsubjects = [ { issuer = "corp", claims = { groups = "a" } } ]', "", 18, "needs `subjects`"),
    ('[ { issuer = "corp", claims = { groups = "a" } } ]', "[]", 19, "at least one subject"),
    ('[ { issuer = "corp", claims = { groups = "a" } } ]', '[ "corp" ]', 19, "expected a table"),
    ('claims = { groups = "a" }', "claims = {}", 19, "at least one claim"),
    ('claims = { groups = "a" }', 'claim = { groups = "a" }', 19, "unknown key"),
    ('subjects = [ { issuer = "corp" } ]\n', "", 25, "needs `subjects` of one issuer"),
    ('of = "$subject"', 'of = "a$subject"', 26, "a parameter alone"),
    ('of = "$subject"', 'of = { range = [0, "$subject"] }', 26, "must be"),
    ('of = "$subject"', 'of = { glob = "$subject" }', 26, "a parameter alone"),
    ('"$subject"', '"$subjects"', 26, "$subject, the session's subject"),
]


@pytest.mark.parametrize(("was", "becomes", "line", "words"), MISTAKES, ids=[mistake[1][:50] for mistake in MISTAKES])
def test_a_mistake_is_reported_with_its_line(was: str, becomes: str, line: int, words: str) -> None:
    """A rule that would trust others, or more people than it names, is refused when the policy is loaded."""
    assert was in BASE
    with pytest.raises(SettingsError) as caught:
        Policy.parse(BASE.replace(was, becomes, 1), "policy.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("policy.toml:")
    assert abs(int(str(caught.value).split(":")[1]) - line) <= 1


def test_two_issuers_have_two_urls() -> None:
    """A token of one of two with one URL would be checked by whichever stands first."""
    other = (
        BASE + '\n[issuer.again]\nurl = "https://idp.example"\njwks = "k"\naudience = ["x"]\nalgorithms = ["RS256"]\n'
    )
    with pytest.raises(SettingsError, match="got that of corp"):
        Policy.parse(other, "policy.toml")


def test_what_is_written_counts_in_the_digest() -> None:
    """Another audience of an issuer is another policy."""
    changed = BASE.replace("https://mint.example", "https://other.example")
    assert Policy.parse(BASE, "a").digest != Policy.parse(changed, "a").digest


@pytest.mark.parametrize("name", ["ann", "$", "$$", "$subject", "*", "5", "a b", "é", '"'])
def test_a_subjects_name_is_one_value(name: str) -> None:
    """
    Whatever an issuer calls a person, the rule permits that very text and nothing else.
    """
    subject = Subject("https://idp.example", name, {})
    [rule] = Policy.parse(BASE, "a").grant("own", "acme/x", {}, subject=subject).rules["orders"]
    compiled = compile_rule(rule)
    assert permits(compiled, {"of": name})
    for other in ("", "ann2", "$subject$", 5, True, None, [name]):
        assert not permits(compiled, {"of": other})
