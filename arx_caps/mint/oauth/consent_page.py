# SPDX-License-Identifier: Apache-2.0
"""The page that asks a person for consent, in plain HTML without scripts, and the page of an error.  CONTROL 5.8."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final
from urllib.parse import urlsplit

from arx_caps.durations import format_duration
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.oauth.authorization_code import Consent
from arx_caps.mint.policy.templates import SUBJECT, overlap
from arx_caps.mint.tasks.sessions import within_login
from arx_verifier.constraints import TEXTS, kinds_of
from arx_verifier.errors import GrantError

PARAM: Final = "param."  # before a parameter's name in the form
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; color: #111; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .9em; overflow-wrap: anywhere; } [role=alert] { color: #a00; }
label { display: block; margin: .6rem 0; } input { font: inherit; width: 100%; box-sizing: border-box; }
button { font: inherit; padding: .5rem 1.2rem; margin: 1rem 1rem 0 0; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def headers_of(forms_to: Iterable[str] = ()) -> dict[str, str]:
    """Return the headers of a page: no cache keeps it, no script runs in it, and no other page frames it.

    Args:
        forms_to: The schemes to which the answer to its form may redirect.
    """
    # Browsers judge by ``form-action`` each redirect after a form as well, so it needs the client's scheme.
    actions = " ".join(["'self'", *(f"{scheme}:" for scheme in forms_to)])
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {actions}; "
        "frame-ancestors 'none'; base-uri 'none'",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }


def consent_page(consent: Consent, action: str, token: str, *, typed: Mapping[str, str], wrong: str = "") -> str:
    """Return the page that asks.

    Args:
        consent: What the person is asked.
        action: The path to which the form goes.
        token: Proves that the answer is from this page.
        typed: The parameters that the person wrote before, by name.
        wrong: Why these were refused.
    """
    row, template = consent.row, consent.template
    known = {SUBJECT: consent.subject.name, **consent.params}
    rules = list(template.rules)  # at all services: an access token may be exchanged for one for another service
    if consent.tools is not None:
        rules = [rule for rule in rules if any(overlap(tool, rule.tool) for tool in consent.tools)]
    facts = {
        "Agent": _code(consent.client.agent),
        "Program": _code(consent.client.id),
        "Task": _code(template.name),
        "At": _code(row["resource"]),
        "On behalf of": f"{_code(consent.subject.name)} of {_code(consent.subject.issuer)}",
        "Chosen by the program": _code(_as_ascii(consent.params)) if consent.params else "nothing",
        "Tools of the program's choice": None if consent.tools is None else ", ".join(map(_code, consent.tools)),
        "May be delegated": _delegations(consent),
        "For at most": format_duration(_life_ms(consent)),
        "You return to": _code(_place(row["redirect"])),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text is not None)
    tools = "".join(
        f"<li>{_code(rule.tool)} at {_code(rule.at)} with {_arguments(rule.shown(known))}</li>" for rule in rules
    )
    inputs = "".join(
        f'<label>{_code(name)} <input name="{PARAM}{escape(name)}" value="{escape(typed.get(name, ""))}" required '
        f'autocomplete="off" maxlength="1024"></label>'
        for name in missing(consent)
    )
    alert = f'<p role="alert">{escape(wrong)}</p>' if wrong else ""
    chosen = f"<p>Choose:</p>{inputs}" if inputs else ""
    return _html_page(
        "Do you allow this?",
        f"<dl>{listed}</dl><p>It may call these tools:</p><ul>{tools}</ul>{alert}"
        f'<form method="post" action="{escape(action)}"><input type="hidden" name="token" value="{escape(token)}">'
        f'{chosen}<button name="answer" value="allow">Allow</button>'
        '<button name="answer" value="deny" formnovalidate>Deny</button></form>',
    )


def error_page(text: str) -> str:
    """Return a page that says why there is no login or consent."""
    return _html_page(
        "This does not go on", f"<p>{escape(text)}</p><p>Start again in the program that sent you here.</p>"
    )


def missing(consent: Consent) -> list[str]:
    """Return the parameters that the program left to the person."""
    return [name for name in consent.template.params if name not in consent.params]


def read_params(consent: Consent, form: Mapping[str, str]) -> dict[str, Any]:
    """Return all parameters: those of the program, and those that the person wrote.

    Raises:
        GrantError: ``bad_parameters``: one is missing, or of another kind.
    """
    written = {name: _value(consent, name, form.get(PARAM + name, "")) for name in missing(consent)}
    return consent.params | written


def _life_ms(consent: Consent) -> int:
    """Return how long the session lives at most, ms, in whole minutes: the program can go on with it."""
    now = now_ms()
    life_ms = within_login(consent.terms, consent.row["subject_until"], now + consent.terms.ttl_ms) - now
    return max(-(-life_ms // 60_000), 1) * 60_000


def _value(consent: Consent, name: str, text: str) -> Any:
    kinds = kinds_of(consent.template.params[name])
    if kinds & TEXTS:
        return text
    if "flag" in kinds and text in ("true", "false"):
        return text == "true"
    try:
        return int(text[:20])
    except ValueError:
        raise GrantError(f"{name}: expected {' or '.join(sorted(kinds))}", code="bad_parameters") from None


def _delegations(consent: Consent) -> str | None:
    template = consent.template
    if not template.depth:
        return None
    times = "once" if template.depth == 1 else f"{template.depth} times in a row"
    agents = ", ".join(map(_code, template.receivers(consent.client.agent)))
    return f"to the agents {agents}, {times} at most"


def _arguments(shown: dict[str, Any] | None) -> str:
    if shown is None:
        return "<strong>any arguments</strong>"
    return _code(_as_ascii(shown)) if shown else "no arguments"


def _place(redirect: str) -> str:
    parts = urlsplit(redirect)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def _as_ascii(value: Any) -> str:
    # In ASCII: a mark that turns the direction of writing could show another text.
    return json.dumps(value, ensure_ascii=True, default=str)


def _code(text: str) -> str:
    return f"<code>{escape(text if text.isascii() and text.isprintable() else _as_ascii(text))}</code>"


def _html_page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )
