# SPDX-License-Identifier: Apache-2.0
"""The small pieces of HTML of all pages: what holders wrote in them is text, and what is HTML stays so."""

import pytest

from arx_caps.console.render import badge, short, short_id, target_link, time_of

HOSTILE = "<b>&\"'"
TEXT = "&lt;b&gt;&amp;&#34;&#39;"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            target_link("agent:acme/a"),
            '<a href="/console/agents?under=acme%2Fa"><code class="id">agent:acme/a</code></a>',
        ),
        (target_link(f"key:{HOSTILE}"), f'<code class="id">key:{TEXT}</code>'),
        (
            target_link(f"agent:{HOSTILE}"),
            f'<a href="/console/agents?under=%3Cb%3E%26%22%27"><code class="id">agent:{TEXT}</code></a>',
        ),
        (short_id("abcdefghij", 5), '<code class="id" title="abcdefghij">ab…ij</code>'),
        (short_id(HOSTILE), f'<code class="id">{TEXT}</code>'),
        (short(f"{HOSTILE}abc", 7), f'<span title="{TEXT}abc">{TEXT}…</span>'),
        (badge(HOSTILE), f'<span class="badge quiet">{TEXT}</span>'),
        (time_of(None, HOSTILE), f'<span class="absent">{TEXT}</span>'),
    ],
)
def test_values_are_text_and_html_stays_html(made: str, expected: str) -> None:
    """No value ends an element or an attribute, and none is escaped twice."""
    assert made == expected
