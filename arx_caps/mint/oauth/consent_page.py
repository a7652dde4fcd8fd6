# SPDX-License-Identifier: Apache-2.0
"""The page that asks a person for consent, in plain HTML without scripts, and the page of an error.  CONTROL 5.8."""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from arx_caps.mint.html.render import load_templates
from arx_caps.mint.oauth.authorization_code import Consent
from arx_caps.mint.policy.tables import Template
from arx_caps.mint.policy.templates import SUBJECT, overlap
from arx_caps.mint.tasks.sessions import within_login
from arx_caps.settings.durations import format_duration
from arx_caps.settings.realm import LOOPBACK
from arx_verifier.clock import now_ms
from arx_verifier.constraints.constraint import kinds_of
from arx_verifier.constraints.scalars import TEXTS
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
_PAGES: Final = load_templates("arx_caps.mint.oauth")
# As ``page.html`` has it: browsers compare it with the policy.
_STYLE: Final = f"\n{_PAGES.get_template('page.css').render()}\n"
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


class ShownCode(NamedTuple):
    """A name or a value between the words of a phrase."""

    text: str


Phrase: TypeAlias = tuple[str | ShownCode, ...]
Limits: TypeAlias = tuple[tuple[str, Phrase], ...] | None


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
    return _PAGES.get_template("consent.html").render(
        title="Do you allow this?",
        consent=consent,
        client=consent.client,
        row=consent.row,
        at_home=urlsplit(consent.row.redirect).hostname in LOOPBACK,
        life=format_duration(_life_ms(consent)),
        states=_STATES,
        several=len(consent.templates) > 1,
        first=consent.templates[0],
        tools_of=functools.partial(_tools, consent),
        fields_of=functools.partial(_fields, consent),
        choice_of=_choice,
        typed=typed,
        wrong=wrong,
        action=action,
        token=token,
    )


def _tools(consent: Consent, template: Template) -> dict[tuple[str, Limits], list[str]]:
    """Return the tools of a template, by their service and the limits of their arguments; None of these for any."""
    known: dict[str, Any] = {name: _Parameter(name, "what you write as ") for name in _missing(consent, template)}
    known |= {SUBJECT: consent.subject.name}
    for name, value in consent.params_of(template.name).items():
        known[name] = value if len(str(value)) <= MAX_INLINE_CHARS else _Parameter(name, after=" as shown above")
    rules = list(template.rules)  # at all services: an access token may be exchanged for one for another service
    if consent.tools is not None:
        rules = [rule for rule in rules if any(overlap(tool, rule.tool) for tool in consent.tools)]
    alike: dict[tuple[str, Limits], list[str]] = {}
    for rule in rules:
        shown = rule.shown(known)
        limits = None if shown is None else tuple((name, _limit(limit)) for name, limit in shown.items())
        alike.setdefault((rule.at, limits), []).append(rule.tool)
    return alike


def error_page(text: str, back: str | None = None) -> str:
    """Return the page of an error: why there is no login or consent.

    Args:
        text: Why.
        back: The URL that takes this answer to the program; None for a program that is not known.
    """
    return _PAGES.get_template("error.html").render(
        title="Nothing was allowed", text=text[:1].upper() + text[1:], back=back
    )


def read_choice(consent: Consent, form: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the scope that the person chose, and all parameters: those of the program, and those that it left out.

    Raises:
        GrantError: ``bad_parameters``: no task was chosen; or a parameter is missing, or of another kind.
    """
    chosen = [each for each in consent.templates if len(consent.templates) == 1 or _choice(each) in form]
    if not chosen:
        raise GrantError("choose at least one task", code="bad_parameters")
    params = {each.name: consent.params_of(each.name) | _written(consent, each, form) for each in chosen}
    return " ".join(params), params if len(params) > 1 else params[chosen[0].name]


def _written(consent: Consent, template: Template, form: Mapping[str, str]) -> dict[str, Any]:
    fields = _fields(consent, template)
    return {name: _value(template, name, form.get(field, "")) for name, field in fields.items()}


def _missing(consent: Consent, template: Template) -> list[str]:
    given = consent.params_of(template.name)
    return [name for name in template.params if name not in given]


def _choice(template: Template) -> str:
    """Return the field that chooses one of several templates."""
    return TASK + template.name


def _fields(consent: Consent, template: Template) -> dict[str, str]:
    """Return the field of each parameter that the person writes."""
    before = f"{PARAM}{template.name}." if len(consent.templates) > 1 else PARAM
    return {name: before + name for name in _missing(consent, template)}


def _life_ms(consent: Consent) -> int:
    """Return how long the session lives at most, ms, in whole minutes: the program can go on with it."""
    now = now_ms()
    life_ms = within_login(consent.terms, consent.row.subject_until, now + consent.terms.ttl_ms) - now
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


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter in place of its value, with words before and after its name."""

    name: str
    before: str = ""
    after: str = ""


def _limit(limit: Any) -> Phrase:
    """Return the limit of an argument in words."""
    if not isinstance(limit, dict):
        return _operand(limit)
    return _joined(_limit_in_words(name, operand) for name, operand in limit.items())


def _limit_in_words(name: str, operand: Any) -> Phrase:
    if name == "range" and isinstance(operand, list) and len(operand) == 2:
        return (*_operand(operand[0]), " to ", *_operand(operand[1]))
    if operand is True and name in ("any", "optional"):
        return ("any value" if name == "any" else "may be left out",)
    before, after = _WORDS[name].split("{}") if name in _WORDS else (f"{name} ", "")
    return (before, *_operand(operand), after)


def _operand(operand: Any) -> Phrase:
    if isinstance(operand, _Parameter):
        return (operand.before, ShownCode(operand.name), operand.after)
    if isinstance(operand, list) and operand and not any(isinstance(each, list | dict) for each in operand):
        return _joined(map(_operand, operand))
    return (ShownCode(json.dumps(operand, ensure_ascii=True, default=_named)),)


def _joined(phrases: Iterable[Phrase]) -> Phrase:
    return tuple(part for phrase in phrases for part in (", ", *phrase))[1:]


def _named(value: Any) -> str:
    return f"${value.name}" if isinstance(value, _Parameter) else str(value)


def _place(redirect: str) -> str:
    parts = urlsplit(redirect)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def _exact(value: Any) -> str:
    # In ASCII: a mark that turns the direction of writing could show another text.
    return json.dumps(value, ensure_ascii=True, default=str)


def _plain(text: str) -> str:
    return text if text.isascii() and text.isprintable() else _exact(text)


PAGE_FILTERS: Final = {"exact": _exact, "plain": _plain, "place": _place}
_PAGES.filters |= PAGE_FILTERS
