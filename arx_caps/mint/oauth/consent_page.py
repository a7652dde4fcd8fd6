# SPDX-License-Identifier: Apache-2.0
"""The page that asks a person for consent, in plain HTML without scripts, and the page of an error.  CONTROL 5.8."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from arx_caps.durations import format_duration
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.oauth.authorization_code import Consent
from arx_caps.mint.policy.tables import Template
from arx_caps.mint.policy.templates import SUBJECT, overlap
from arx_caps.mint.tasks.sessions import within_login
from arx_caps.realm import LOOPBACK
from arx_verifier.constraints import TEXTS, kinds_of
from arx_verifier.errors import GrantError

_INTEGER: Final = re.compile(r"-?[0-9]{1,16}")  # no rule allows one of more digits (RFC 8785)
MAX_INLINE_CHARS: Final = 40  # of a parameter's value at each tool; a longer one is shown once
# How a limit reads; others are shown as the policy writes them.
_WORDS: Final = {
    "max_length": "at most {} characters",
    "min_length": "at least {} characters",
    "one_of": "one of {}",
    "max": "at most {}",
    "min": "at least {}",
    "prefix": "begins with {}",
    "suffix": "ends with {}",
    "glob": "like {}",
    "subpath": "a path below {}",
}
_STATES: Final = {"waiting": "not approved yet", "approved": "approved"}
PARAM: Final = "param."  # before a parameter's name in the form; with several tasks, before the task's, and a dot
TASK: Final = "task."  # before the name of one of several tasks that the person chooses
# Both buttons look alike: which one is right, the person knows.
_STYLE: Final = """
:root { color-scheme: light dark; --soft: #f2f3f5; --line: #767a80; --alert: #a40000; --focus: #0b57d0; }
@media (prefers-color-scheme: dark) {
:root { --soft: #2a2c30; --line: #92969d; --alert: #ffb4ab; --focus: #a8c7fa; } }
html { background: Canvas; color: CanvasText; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin: 1.8rem 0 .6rem; }
main { overflow-wrap: anywhere; } code { font-size: .9em; }
dl { display: grid; grid-template-columns: 9rem minmax(0, 1fr); gap: .4rem 1rem; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; }
ul { list-style: none; margin: 0; padding: 0; }
li { background: var(--soft); border-radius: .5rem; padding: .6rem .9rem; margin: .6rem 0; }
li > p { margin: 0 0 .2rem; } li dl { gap: .1rem 1rem; } li dt { font-weight: 400; }
.warning, [role=alert] { border-left: .3rem solid var(--alert); padding: .4rem .9rem; }
[role=alert] { color: var(--alert); }
fieldset { margin: 1.2rem 0; padding: .4rem .9rem .9rem; border: 1px solid var(--line); border-radius: .5rem; }
label { display: block; margin: .8rem 0; } fieldset > label:first-child { padding: .3rem 0; margin: 0; }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .5rem; }
input, button { border: 1px solid var(--line); border-radius: .4rem; background: Canvas; color: CanvasText; }
input[type=checkbox] { width: 1.2rem; height: 1.2rem; vertical-align: -.2rem; margin-right: .4rem; }
button { font: inherit; font-weight: 600; min-width: 8rem; padding: .7rem 1.4rem; margin: 1rem 1rem 0 0; }
button:hover { background: var(--soft); cursor: pointer; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
@media (max-width: 34rem) { dl { display: block; } dt { margin-top: .6rem; }
li dl { display: grid; grid-template-columns: 6rem minmax(0, 1fr); } li dt { margin: 0; }
button { width: 100%; margin-right: 0; } }
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
        "Chosen by the program": _code(_as_ascii(consent.params)) if consent.params else None,
        "Tools of the program's choice": None if consent.tools is None else ", ".join(map(_code, consent.tools)),
        "May be delegated": None if several else _delegations(consent, consent.templates[0]),
        "For at most": format_duration(_life_ms(consent)),
        "You return to": _code(_place(row["redirect"])) + _at_home(consent),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text is not None)
    alert = f'<p role="alert">Not allowed: {escape(wrong)}</p>' if wrong else ""
    if several:
        about = "<h2>Choose what it may do</h2><p>It may call the tools of the tasks that you choose.</p>"
        choices = "".join(_choice(consent, template, typed) for template in consent.templates)
    else:
        (template,) = consent.templates
        about = f"<h2>It may call these tools</h2>{_tools(consent, template)}"
        inputs = _inputs(consent, template, typed)
        choices = f"<h2>You write</h2>{inputs}" if inputs else ""
    return _html_page(
        "Do you allow this?",
        f"{_stranger(consent)}<p>The program at {_code(_place(row['redirect']))} asks to act on your behalf.</p>"
        f"<dl>{listed}</dl>{_calls(consent)}"
        f"{about}{alert}"
        f'<form method="post" action="{escape(action)}"><input type="hidden" name="token" value="{escape(token)}">'
        f'{choices}<button name="answer" value="allow">Allow</button>'
        '<button name="answer" value="deny" formnovalidate>Deny</button></form>',
    )


def _tools(consent: Consent, template: Template) -> str:
    known: dict[str, Any] = {name: _Parameter(name, "what you write as {}") for name in _missing(consent, template)}
    known |= {SUBJECT: consent.subject.name}
    for name, value in consent.params_of(template.name).items():
        known[name] = value if len(str(value)) <= MAX_INLINE_CHARS else _Parameter(name, "{} as shown above")
    rules = list(template.rules)  # at all services: an access token may be exchanged for one for another service
    if consent.tools is not None:
        rules = [rule for rule in rules if any(overlap(tool, rule.tool) for tool in consent.tools)]
    alike: dict[str, list[str]] = {}
    for rule in rules:
        limits = f" at {_code(rule.at)}</p>{_arguments(rule.shown(known))}"
        alike.setdefault(limits, []).append(f"<strong>{_code(rule.tool)}</strong>")
    items = (f"<li><p>{', '.join(tools)}{limits}</li>" for limits, tools in alike.items())
    return f"<ul>{''.join(items)}</ul>"


def _calls(consent: Consent) -> str:
    """Return what waits for an operator: a program may ask for consent only because one of its calls waits."""
    items = "".join(
        f"<li><p><strong>{_code(row['tool'])}</strong>: {_STATES[state]} ({_code(row['id'])})</p>"
        f"<dl>{''.join(f'<dt>{_code(name)}</dt><dd>{_value_of(value)}</dd>' for name, value in _args(row))}</dl></li>"
        for row, state in consent.calls
    )
    if not items:
        return ""
    return (
        f"<h2>It waits for these calls</h2><ul>{items}</ul><p>An operator has to approve each of them; your consent "
        "does not. Load this page again to see whether one did. The program can then make its call again.</p>"
    )


def _args(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return msgspec.json.decode(row["args"], type=dict[str, Any]).items()


def _value_of(value: Any) -> str:
    return f"<code>{escape(_as_ascii(value))}</code>"


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


def error_page(text: str, back: str | None = None) -> str:
    """Return the page of an error: why there is no login or consent.

    Args:
        text: Why.
        back: The URL that takes this answer to the program; None for a program that is not known.
    """
    link = f'<p><a href="{escape(back)}">Return to the program at {_code(_place(back))}</a></p>' if back else ""
    return _html_page(
        "Nothing was allowed",
        f"<p>{escape(text[:1].upper() + text[1:])}.</p><p>Start again in the program that sent you here.</p>{link}",
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
    called = f", which calls itself {_code(client.name)}" if client.self_registered and client.name else ""
    return _code(client.client_id) + called


def _stranger(consent: Consent) -> str:
    """Return the warning at a program that no operator has registered."""
    client = consent.client
    if not client.self_registered:
        return ""
    known = (
        "This program has registered itself, and this server does not know whose it is."
        if client.url is None
        else f"No operator has registered this program. It is described at {_code(_place(client.url))}."
    )
    return (
        f'<p class="warning"><strong>{known}</strong> Its name proves nothing. '
        f"Your consent goes to {_code(_place(consent.row['redirect']))}{_at_home(consent)}. "
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
    if not _INTEGER.fullmatch(text.strip(" ")):
        raise GrantError(f"{name}: expected {' or '.join(sorted(kinds))}", code="bad_parameters")
    return int(text)


def _delegations(consent: Consent, template: Template) -> str | None:
    if not template.depth:
        return None
    times = "once" if template.depth == 1 else f"{template.depth} times in a row"
    agents = ", ".join(map(_code, template.receivers(consent.client.agent)))
    return f"to the agents {agents}, {times} at most"


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter in place of its value."""

    name: str
    words: str


def _arguments(shown: dict[str, Any] | None) -> str:
    if shown is None:
        return "<strong>with any arguments</strong>"
    if not shown:
        return "without arguments"
    return f"<dl>{''.join(f'<dt>{_code(name)}</dt><dd>{_limit(limit)}</dd>' for name, limit in shown.items())}</dl>"


def _limit(limit: Any) -> str:
    """Return the limit of an argument in words."""
    if not isinstance(limit, dict):
        return _operand(limit)
    return ", ".join(_limit_in_words(name, operand) for name, operand in limit.items())


def _limit_in_words(name: str, operand: Any) -> str:
    if name == "range" and isinstance(operand, list) and len(operand) == 2:
        return f"{_operand(operand[0])} to {_operand(operand[1])}"
    if operand is True and name in ("any", "optional"):
        return "any value" if name == "any" else "may be left out"
    return _WORDS.get(name, f"{escape(name)} {{}}").format(_operand(operand))


def _operand(operand: Any) -> str:
    if isinstance(operand, _Parameter):
        return operand.words.format(_code(operand.name))
    if isinstance(operand, list) and operand and not any(isinstance(each, list | dict) for each in operand):
        return ", ".join(map(_operand, operand))
    return f"<code>{escape(json.dumps(operand, ensure_ascii=True, default=_named))}</code>"


def _named(value: Any) -> str:
    return f"${value.name}" if isinstance(value, _Parameter) else str(value)


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
