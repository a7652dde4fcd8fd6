# SPDX-License-Identifier: Apache-2.0
"""Vectors of bytes and text, identifier and chain (SPEC 2 to 5 and 9)."""

from typing import Any

from tests.vectors.second import (
    ANYTHING,
    AT,
    KEY,
    OTHER_KEY,
    Third,
    Token,
    canonical,
    identifier,
    mint,
    packet,
    step,
    text,
)

Vectors = dict[str, dict[str, Any]]


def vector(spec: str, expect: str, token: Token | str | bytes, comment: str, **more: Any) -> dict[str, Any]:
    """One vector; bytes are written as text first."""
    if isinstance(token, bytes):
        token = "arx1_" + text(token)
    return {"spec": spec, "expect": expect, "token": token, "comment": comment} | more


def vectors() -> Vectors:
    """All of this file."""
    return texts() | packets() | identifiers() | chains()


def texts() -> Vectors:
    """SPEC 2.2 and 2.3."""
    token = mint()
    good = token.text()
    # A token whose text does not end on a whole group has bits to spare in its last character.
    loose = next(t.text() for n in range(3) if len((t := mint(model="m" * (n + 1))).raw()) % 3 == 1)
    bumped = loose[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[loose[-1]]
    return {
        "text-empty": vector("2.2", "malformed", "", "no text at all"),
        "text-prefix-alone": vector("2.2", "malformed", "arx1_", "the prefix and nothing behind it"),
        "text-no-prefix": vector("2.2", "malformed", good[5:], "base64url without the prefix"),
        "text-other-version": vector("2.2", "malformed", "arx2_" + good[5:], "a version that does not exist"),
        "text-upper-case-prefix": vector("2.2", "malformed", "ARX1_" + good[5:], "the prefix has one spelling"),
        "text-padding": vector("2.2", "malformed", loose + "==", "padding is another spelling of the same bytes"),
        "text-trailing-bits": vector("2.2", "malformed", bumped, "bits after the last byte are another spelling"),
        "text-standard-alphabet": vector(
            "2.2", "malformed", plus_and_slash(), "+ and / belong to the other base64 alphabet"
        ),
        "text-white-space": vector("2.2", "malformed", good[:50] + "\n" + good[50:], "a line break inside"),
        "text-trailing-space": vector("2.2", "malformed", good + " ", "a space behind"),
        "text-too-long": vector("2.2", "malformed", "arx1_" + "A" * 7164, "7 169 characters"),
        "text-cut-short": vector("2.2", "malformed", good[:-4], "the last three bytes are missing"),
        "text-bundle": vector("2.3", "malformed", "arxb1_" + good[5:], "a verifier never accepts a bundle"),
        "text-access-token": vector("2.2", "malformed", access_token(), "a token of OAuth carries no authority"),
        "text-two-tokens": vector(
            "2.3", "malformed", good + "~" + good, "what stands behind the joint is a token and no discharge"
        ),
    }


def access_token() -> str:
    """A text in the form of a JWT, as RFC 9068 has it."""
    head = canonical({"alg": "ES256", "kid": "k", "typ": "at+jwt"})
    claims = canonical({"aud": "https://tools.example/orders", "exp": AT // 1000 + 60, "iss": "https://mint.example"})
    return ".".join((text(head), text(claims), text(bytes(64))))


def plus_and_slash() -> str:
    """A token in the alphabet that is not for URLs."""
    for number in range(200):
        found = mint(model=f"m{number}").text()
        if "-" in found and "_" in found[5:]:
            return "arx1_" + found[5:].replace("-", "+").replace("_", "/")
    raise AssertionError("no such token")


def packets() -> Vectors:
    """SPEC 2.1 and 2.4."""
    token = mint()
    raw, body = token.raw(), token.raw()[:-35]
    head = b"\x02" + packet(1, b"acme")
    named = packet(2, token.identifier)
    first = packet(2, canonical(ANYTHING))
    end = b"\0" + packet(6, token.signature)
    minimal, doubled = packet(1, b"acme"), b"\x01\x84\x00acme"
    many = mint(ANYTHING, *({"exp": AT + 1000 + n} for n in range(64)))
    return {
        "bytes-version-1": vector("2.1", "malformed", b"\x01" + raw[1:], "not a macaroon of version 2"),
        "bytes-trailing-byte": vector("2.1", "malformed", raw + b"\0", "a byte after the signature"),
        "bytes-long-length": vector(
            "2.1", "malformed", raw.replace(minimal, doubled, 1), "a length below 128 written in two bytes"
        ),
        "bytes-signature-31": vector(
            "2.1", "malformed", body + b"\0" + packet(6, token.signature[:31]), "a signature of 31 bytes"
        ),
        "bytes-signature-33": vector(
            "2.1", "malformed", body + b"\0" + packet(6, token.signature + b"x"), "a signature of 33 bytes"
        ),
        "bytes-no-signature": vector("2.1", "malformed", body, "nothing behind the last caveat"),
        "bytes-no-location": vector("2.4", "malformed", b"\x02" + named + b"\0" + first + b"\0" + end, "no location"),
        "bytes-no-identifier": vector("2.1", "malformed", head + b"\0" + first + b"\0" + end, "no identifier"),
        "bytes-caveat-location": vector(
            "2.1",
            "malformed",
            head + named + b"\0" + packet(1, b"here") + first + b"\0" + end,
            "a first-party caveat with a location",
        ),
        "bytes-open-caveat": vector(
            "2.1", "malformed", head + named + b"\0" + first + end, "a caveat that is not closed"
        ),
        "bytes-other-field": vector(
            "2.1",
            "malformed",
            head + named + b"\0" + first + packet(5, b"x") + b"\0" + end,
            "a field that does not exist",
        ),
        "bytes-65-caveats": vector("2.1", "malformed", many, "65 caveats, rightly signed"),
        "location-of-another-realm": vector(
            "2.4", "malformed", mint(location=b"acme2"), "the location is another realm"
        ),
    }


def identifiers() -> Vectors:
    """SPEC 4 and 9."""
    good = canonical(identifier())
    reordered = b'{"aud":"orders","agent":"acme/support"' + good[len(b'{"agent":"acme/support","aud":"orders"') :]
    operator = canonical(
        {"aud": "orders", "exp": AT + 1, "iat": AT, "id": "A" * 22, "kid": "k1.0", "operator": "o", "v": 1}
    )
    return {
        "identifier-no-exp": vector("4.1", "malformed", mint(exp=None), "a token without an end"),
        "identifier-unknown-member": vector("4.1", "malformed", mint(admin=True), "a member that is not in the table"),
        "identifier-version-2": vector("4.1", "malformed", mint(v=2), "a version of this document that does not exist"),
        "identifier-depth-as-text": vector("4.1", "malformed", mint(depth="4"), "a number written as text"),
        "identifier-fraction": vector("3.1", "malformed", mint(raw=good.replace(b":4,", b":4.0,")), "a fraction"),
        "identifier-reordered": vector("3.2", "malformed", mint(raw=reordered), "members out of order"),
        "identifier-doubled": vector("3.2", "malformed", mint(raw=good[:-1] + b',"v":1}'), "a member said twice"),
        "identifier-escaped": vector(
            "3.2", "malformed", mint(raw=good.replace(b"acme/support", b"acme\\/support")), "an escape without need"
        ),
        "identifier-spaced": vector("3.1", "malformed", mint(raw=good + b" "), "white space behind"),
        "identifier-meta-empty": vector("4.1", "malformed", mint(meta=[]), "a list that says nothing"),
        "identifier-meta-long": vector("4.1", "malformed", mint(meta=["m" * 65]), "one character too many"),
        "identifier-no-task": vector("4.1", "malformed", mint(task=None), "a tool service's token has a task"),
        "identifier-lives-too-long": vector("4.2", "malformed", mint(exp=AT + 86_400_001, iat=AT), "24 h and 1 ms"),
        "identifier-ends-first": vector("4.2", "malformed", mint(exp=AT, iat=AT), "it ends when it begins"),
        "identifier-iat-ahead": vector(
            "4.2", "not_yet_valid", mint(iat=AT + 60_001), "minted further ahead than two clocks differ"
        ),
        "identifier-agent-upper-case": vector("4.4", "malformed", mint(agent="Acme/support"), "no agent path"),
        "identifier-session-other-form": vector("4.4", "malformed", mint(session="s 1"), "a space"),
        "identifier-session-line-end": vector(
            "4.4", "malformed", mint(session="s-aaaabbbbccccdddd\n"), "a line end behind"
        ),
        "identifier-task-other-form": vector("4.4", "malformed", mint(task="t" * 65), "too long"),
        "identifier-policy-other-form": vector("4.4", "malformed", mint(policy="p p"), "no base64url"),
        "identifier-operator": vector("4.3", "malformed", mint(raw=operator), "an operator's token is for the mint"),
        "identifier-expired": vector("4.2", "expired", mint(exp=AT), "exp is exclusive"),
        "identifier-other-audience": vector("4.1", "wrong_audience", mint(aud="billing"), "for another service"),
        "key-unknown": vector("9", "unknown_key", mint(kid="k2.0", key=OTHER_KEY), "a key id that the service has not"),
        "key-other": vector("9", "bad_signature", mint(key=OTHER_KEY), "the right key id, another key"),
        "identifier-iat-early": vector("4.2", "grant", mint(iat=AT + 60_000), "as far ahead as two clocks differ"),
        "identifier-lives-longest": vector(
            "4.2", "grant", mint(exp=AT + 86_400_000, iat=AT), "24 h to the millisecond"
        ),
        "identifier-all-members": vector(
            "4.1",
            "grant",
            mint(meta=["2", "", "triage"], model="m-1", subject=["https://idp.example", "ann"]),
            "every optional member",
        ),
        "identifier-non-ascii": vector("3.1", "grant", mint(subject=['é\u001f"\\', "\U0001f600"]), "escapes and UTF-8"),
    }


def chains() -> Vectors:
    """SPEC 5.1: what is signed cannot be changed."""
    one, two = canonical({"exp": AT + 1000}), canonical({"task": "t-sub"})
    token = mint(ANYTHING, one, two)
    root, first, second = token.caveats
    third = Third(b"https://approve.example", b"who", b"v" * 48)
    bad = bytes([token.signature[0] ^ 1]) + token.signature[1:]
    return {
        "chain-removed-last": vector(
            "5.1", "bad_signature", token._replace(caveats=(root, first)), "the last one is gone"
        ),
        "chain-removed-first": vector(
            "5.1", "bad_signature", token._replace(caveats=(first, second)), "the first is gone"
        ),
        "chain-removed-all": vector("5.1", "bad_signature", token._replace(caveats=()), "all caveats are gone"),
        "chain-reordered": vector(
            "5.1", "bad_signature", token._replace(caveats=(root, second, first)), "two changed places"
        ),
        "chain-doubled": vector(
            "5.1", "bad_signature", token._replace(caveats=(root, first, first, second)), "one twice"
        ),
        "chain-added-unsigned": vector(
            "5.1",
            "bad_signature",
            token._replace(caveats=(*token.caveats, canonical({"nbf": 1}))),
            "one more, not folded in",
        ),
        "chain-altered": vector(
            "5.1", "bad_signature", token._replace(caveats=(root, canonical({"exp": AT + 9000}), second)), "a later end"
        ),
        "chain-altered-identifier": vector(
            "5.1",
            "bad_signature",
            token._replace(identifier=canonical(identifier(agent="acme/root"))),
            "another agent under the same signature",
        ),
        "chain-signature-bit": vector(
            "5.1", "bad_signature", token._replace(signature=bad), "one bit of the signature"
        ),
        "chain-zero-signature": vector("5.1", "bad_signature", token._replace(signature=bytes(32)), "no signature"),
        "chain-key-not-derived": vector(
            "5.1", "bad_signature", underived(), "folded with the key itself, without the key generator"
        ),
        "chain-third-party": vector("6.4", "unknown_caveat", mint(ANYTHING, third), "what it asks for is unknown"),
        "chain-bare": vector("5.1", "grant", mint(), "one caveat that allows anything"),
        "chain-64-caveats": vector(
            "2.1",
            "grant",
            mint(ANYTHING, *({"exp": AT + 1000 + n} for n in range(63))),
            "as many caveats as there may be",
        ),
        "chain-long-lengths": vector(
            "2.1",
            "grant",
            mint({"allow": [{"args": {"x": {"max_length": 5}, "y": "y" * 300}, "open": True, "tool": "*"}]}),
            "lengths of two bytes",
            request={"args": {"x": "short", "y": "y" * 300}},
        ),
    }


def underived() -> Token:
    """A chain that starts from the key as it is."""
    named = canonical(identifier())
    return Token(b"acme", named, (), step(KEY, named)).with_caveats(ANYTHING)
