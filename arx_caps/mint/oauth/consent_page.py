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
from arx_caps.mint.policy.tables import Template
from arx_caps.mint.policy.templates import SUBJECT, overlap
from arx_caps.mint.tasks.sessions import within_login
from arx_caps.realm import LOOPBACK
from arx_verifier.constraints import TEXTS, kinds_of
from arx_verifier.errors import GrantError

PARAM: Final = "param."  # before a parameter's name in the form; with several tasks, before the task's, and a dot
TASK: Final = "task."  # before the name of one of several tasks that the person chooses
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; color: #111; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .9em; overflow-wrap: anywhere; } [role=alert] { color: #a00; }
label { display: block; margin: .6rem 0; } input { font: inherit; width: 100%; box-sizing: border-box; }
input[type=checkbox] { width: auto; } fieldset { margin: 1rem 0; }
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
        typed: The fields of the form as the person sent it before.
        wrong: Why these were refused.
    """
    row, several = consent.row, len(consent.templates) > 1
    facts = {
        "Agent": _code(consent.client.agent),
        "Program": _program(consent),
        "Task": None if several else _code(consent.templates[0].name),
        "At": _code(row["resource"]),
        "On behalf of": f"{_code(consent.subject.name)} of {_code(consent.subject.issuer)}",
        "Chosen by the program": _code(_as_ascii(consent.params)) if consent.params else "nothing",
        "Tools of the program's choice": None if consent.tools is None else ", ".join(map(_code, consent.tools)),
        "May be delegated": None if several else _delegations(consent, consent.templates[0]),
        "For at most": format_duration(_life_ms(consent)),
        "You return to": _code(_place(row["redirect"])),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text is not None)
    alert = f'<p role="alert">{escape(wrong)}</p>' if wrong else ""
    if several:
        about = "<p>It asks for several tasks. It may call the tools of those that you choose:</p>"
        choices = "".join(_choice(consent, template, typed) for template in consent.templates)
    else:
        (template,) = consent.templates
        about = f"<p>It may call these tools:</p>{_tools(consent, template)}"
        inputs = _inputs(consent, template, typed)
        choices = f"<p>Choose:</p>{inputs}" if inputs else ""
    return _html_page(
        "Do you allow this?",
        f"{_stranger(consent)}<dl>{listed}</dl>{about}{alert}"
        f'<form method="post" action="{escape(action)}"><input type="hidden" name="token" value="{escape(token)}">'
        f'{choices}<button name="answer" value="allow">Allow</button>'
        '<button name="answer" value="deny" formnovalidate>Deny</button></form>',
    )


def _tools(consent: Consent, template: Template) -> str:
    known = {SUBJECT: consent.subject.name, **consent.params_of(template.name)}
    rules = list(template.rules)  # at all services: an access token may be exchanged for one for another service
    if consent.tools is not None:
        rules = [rule for rule in rules if any(overlap(tool, rule.tool) for tool in consent.tools)]
    listed = (f"<li>{_code(rule.tool)} at {_code(rule.at)} with {_arguments(rule.shown(known))}</li>" for rule in rules)
    return f"<ul>{''.join(listed)}</ul>"


def _inputs(consent: Consent, template: Template, typed: Mapping[str, str]) -> str:
    fields = {_field(consent, template, name): name for name in _missing(consent, template)}
    # Not required beside a task that may be left out.
    required = "" if len(consent.templates) > 1 else " required"
    return "".join(
        f'<label>{_code(name)} <input name="{escape(field)}" value="{escape(typed.get(field, ""))}"{required} '
        f'autocomplete="off" maxlength="1024"></label>'
        for field, name in fields.items()
    )


def _choice(consent: Consent, template: Template, typed: Mapping[str, str]) -> str:
    # None is chosen before: a click must not grant all that a client can think of.
    field = TASK + template.name
    chosen = " checked" if field in typed else ""
    delegated = _delegations(consent, template)
    return (
        f'<fieldset><label><input type="checkbox" name="{escape(field)}" value="yes"{chosen}> {_code(template.name)}'
        f"</label>{_tools(consent, template)}"
        f"{f'<p>May be delegated, if it is chosen alone: {delegated}</p>' if delegated else ''}"
        f"{_inputs(consent, template, typed)}</fieldset>"
    )


def error_page(text: str) -> str:
    """Return a page that says why there is no login or consent."""
    return _html_page(
        "This does not go on", f"<p>{escape(text)}</p><p>Start again in the program that sent you here.</p>"
    )


def read_choice(consent: Consent, form: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the scope that the person chose, and all parameters: those of the program, and those that it left out.

    Raises:
        GrantError: ``bad_parameters``: no task was chosen; or a parameter is missing, or of another kind.
    """
    chosen = [each for each in consent.templates if len(consent.templates) == 1 or TASK + each.name in form]
    if not chosen:
        raise GrantError("choose at least one task", code="bad_parameters")
    params = {each.name: consent.params_of(each.name) | _written(consent, each, form) for each in chosen}
    return " ".join(params), params if len(params) > 1 else params[chosen[0].name]


def _written(consent: Consent, template: Template, form: Mapping[str, str]) -> dict[str, Any]:
    fields = {name: _field(consent, template, name) for name in _missing(consent, template)}
    return {name: _value(template, name, form.get(field, "")) for name, field in fields.items()}


def _missing(consent: Consent, template: Template) -> list[str]:
    given = consent.params_of(template.name)
    return [name for name in template.params if name not in given]


def _field(consent: Consent, template: Template, name: str) -> str:
    return PARAM + (f"{template.name}.{name}" if len(consent.templates) > 1 else name)


def _program(consent: Consent) -> str:
    client = consent.client
    if not client.self_registered:
        return _code(client.id)
    return f"{_code(client.id)}, which calls itself {_code(client.name)}" if client.name else _code(client.id)


def _stranger(consent: Consent) -> str:
    """Return the warning at a program that no operator has registered."""
    if not consent.client.self_registered:
        return ""
    return (
        "<p><strong>This program has registered itself, and this server does not know whose it is.</strong> Its name "
        f"proves nothing. Your consent goes to {_code(_place(consent.row['redirect']))}{_at_home(consent)}. "
        "Allow it only if you started this just now, in a program that you trust.</p>"
    )


def _at_home(consent: Consent) -> str:
    host = urlsplit(consent.row["redirect"]).hostname
    return ", a program on the machine of this browser" if host in LOOPBACK else ""


def _life_ms(consent: Consent) -> int:
    """Return how long the session lives at most, ms, in whole minutes: the program can go on with it."""
    now = now_ms()
    life_ms = within_login(consent.terms, consent.row["subject_until"], now + consent.terms.ttl_ms) - now
    return max(-(-life_ms // 60_000), 1) * 60_000


def _value(template: Template, name: str, text: str) -> Any:
    kinds = kinds_of(template.params[name])
    if kinds & TEXTS:
        return text
    if "flag" in kinds and text in ("true", "false"):
        return text == "true"
    try:
        return int(text[:20])
    except ValueError:
        raise GrantError(f"{name}: expected {' or '.join(sorted(kinds))}", code="bad_parameters") from None


def _delegations(consent: Consent, template: Template) -> str | None:
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
