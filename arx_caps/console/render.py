# SPDX-License-Identifier: Apache-2.0
"""Render the console's templates, with the filters that all its pages share.

Times are shown relative to now, with the exact time in UTC as the title, which a touch screen shows beside them.
Long ids are shortened in the middle.
"""

import json
import time
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup, escape

from arx_caps.mint.html.render import load_templates, spell
from arx_caps.settings.durations import format_duration, show_time
from arx_caps.text.record_text import shorten_middle
from arx_verifier.clock import now_ms

MAX_ID_CHARS: Final = 24
MAX_TARGET_CHARS: Final = 72
DASH: Final = "\u2013"  # in place of a value that is not known
_TARGET_PAGES: Final = {
    "session": "sessions/",
    "agent": "agents?under=",  # the agent and those below it, as the target means
    "task": "search?task=",
    "link": "search?link=",
    "subject": "search?person=subject:",
}
_TIME: Final = '<time datetime="{}" title="{}">{}</time>'
_AGO: Final = '<time class="ago" datetime="{}" title="{}">{}</time>'
_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
# How a state looks; the word itself is always shown as well.
_TONES: Final = {
    **dict.fromkeys(("active", "open", "live", "allow", "ok", "approved", "confirmed", "in force", "granted"), "ok"),
    **dict.fromkeys(("late", "waiting", "partial", "expiring", "unconfirmed", "never seen"), "warn"),
    **dict.fromkeys(
        ("frozen", "revoked", "killed", "deny", "gone", "denied", "halted", "unknown", "refused", "failed", "dead"),
        "bad",
    ),
    # Of a check of the log.
    "holds": "ok",
    "running": "warn",
    "tampered": "bad",
}


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template.

    Args:
        template: Its file name in ``templates``.
        **values: What it shows.
    """
    return _ENVIRONMENT.get_template(template).render(**values)


def render_part(template: str, **values: Any) -> Markup:
    """Return the HTML of a template, as a value of another one."""
    return Markup(render(template, **values))  # noqa: S704 - it has escaped its values


def time_of(at_ms: int | None, absent: str = DASH) -> Markup:
    """Return a time relative to now, as ``3 min ago``, with the exact one as the title.

    Args:
        at_ms: Milliseconds since the Unix epoch, or None.
        absent: What None shows.
    """
    if at_ms is None:
        return _fill('<span class="absent">{}</span>', absent)
    away = at_ms - now_ms()
    text = f"in {_rough(away)}" if away > 0 else f"{_rough(-away)} ago" if away < -_SECOND else "now"
    return _fill(_AGO, *_exact(at_ms), text)


def clock(at_ms: int) -> Markup:
    """Return a time of day in UTC with its milliseconds, and the date if it is another day's, for lists of records."""
    at = time.gmtime(at_ms / 1000)
    form = "%H:%M:%S" if at[:3] == time.gmtime()[:3] else "%m-%d %H:%M:%S"
    return _fill(_TIME, *_exact(at_ms), f"{time.strftime(form, at)}.{at_ms % 1000:03}")


def short_id(text: str, longest: int = MAX_ID_CHARS) -> Markup:
    """Return an id, shortened in its middle if it is long, with the whole id as the title."""
    if len(text) <= longest:
        return _fill('<code class="id">{}</code>', text)
    return _fill('<code class="id" title="{}">{}</code>', text, shorten_middle(text, longest))


def target_link(target: str, longest: int = MAX_TARGET_CHARS) -> Markup:
    """Return a revocation target, with a link to the page that shows what it names, if there is one."""
    kind, _, name = target.partition(":")
    page = _TARGET_PAGES.get(kind)
    shown = short_id(target, longest)
    return shown if page is None else _fill('<a href="/console/{}{}">{}</a>', page, quote(name, safe=""), shown)


def short(text: str, longest: int = MAX_ID_CHARS) -> Markup:
    """Return a text, shortened at its end if it is long, with the whole text as the title."""
    if len(text) <= longest:
        return escape(spell(text))
    return _fill('<span title="{}">{}…</span>', text, text[: longest - 1])


def exact(value: Any) -> str:
    """Return a JSON value on one line, in ASCII: no letter can look like another, and no mark turn the direction."""
    return json.dumps(value, ensure_ascii=True)


def in_ascii(text: str) -> str:
    """Return a name in ASCII: as ``exact``, without the quotes."""
    return json.dumps(text, ensure_ascii=True)[1:-1]


def badge(word: str, tone: str | None = None) -> Markup:
    """Return a state as a badge: its word, and the colour of its tone (``ok``, ``warn``, ``bad`` or ``quiet``)."""
    return _fill('<span class="badge {}">{}</span>', tone or _TONES.get(word, "quiet"), word)


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with a thin space between thousands; None as a dash."""
    return DASH if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def share(percent: float) -> str:
    """Return a share of a whole, such as ``12 %``; one that is neither none nor all is never shown as either."""
    if 0 < percent < 1 or 99 < percent < 100:
        return "< 1 %" if percent < 1 else "> 99 %"
    return f"{percent:.0f} %"


def span(ms: float | None) -> str:
    """Return a duration as text, such as ``340 ms`` or ``2 h``; None as a dash."""
    if ms is None:
        return DASH
    return f"{ms:.0f} ms" if ms < _SECOND else _rough(ms)


def _rough(ms: float) -> str:
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (_SECOND, "s")):
        if ms >= unit:
            return f"{ms // unit:.0f} {name}"
    return "1 s"


def _exact(at_ms: int) -> tuple[str, str]:
    """Return a time for programs and for people."""
    exact = show_time(at_ms)
    return exact.replace(" ", "T"), exact


def _fill(element: str, *values: str) -> Markup:
    """Return HTML with values, each escaped unless it is HTML already, in place of its ``{}``."""
    # Not with ``Markup.format``, which takes three times longer: a page has hundreds of times and names.
    return Markup(element.format(*(escape(spell(value)) for value in values)))  # noqa: S704


_ENVIRONMENT: Final = load_templates("arx_caps.console")
_ENVIRONMENT.filters |= {
    "time": time_of,
    "clock": clock,
    "id": short_id,
    "short": short,
    "exact": exact,
    "in_ascii": in_ascii,
    "badge": badge,
    "number": number,
    "share": share,
    "span": span,
    "target": target_link,
    "duration": format_duration,
    "moment": show_time,
}
