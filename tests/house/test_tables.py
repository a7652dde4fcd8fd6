# SPDX-License-Identifier: Apache-2.0
"""The tables of the pages are what code says."""

from tests.house.tables import TABLES, pages


def test_each_table_is_what_code_says() -> None:
    """``python -m tests.house.tables`` would change no page, and every table stands on one."""
    made = pages()
    assert {path.name: path.read_text(encoding="utf-8") for path in made} == {
        path.name: text for path, text in made.items()
    }
    for name in TABLES:
        assert any(f"<!-- table: {name} -->\n| " in text for text in made.values()), name
