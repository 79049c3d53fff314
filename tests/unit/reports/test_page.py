"""Every part of a page escapes its texts, and the page needs no other file."""

import pytest
from markupsafe import Markup

from evermodel.reports import page

TEXT = '<script>alert("x")</script>'
PARTS = [
    page.heading(TEXT, TEXT, page.code(TEXT)),
    page.section(TEXT, page.table((TEXT,), [(TEXT,)])),
    page.notice(TEXT, TEXT, [TEXT]),
    page.tiles([(TEXT, TEXT)]),
    page.pictures({TEXT: "<svg/>"}, whole=TEXT),
]


@pytest.mark.parametrize("part", PARTS)
def test_every_text_is_escaped(part: Markup) -> None:
    assert "<script" not in part
    assert "&lt;script&gt;alert(&#34;x&#34;)" in part


def test_a_page_holds_its_style_and_its_title() -> None:
    text = page.render_page(TEXT, PARTS)
    assert page.stylesheet() in text
    assert "<script" not in text
    assert "<title>&lt;script&gt;" in text


def test_numbers_are_aligned_to_the_right_and_status_words_are_tags() -> None:
    table = page.table(("check", "outcome", "rows"), [("auc", "failed", "12")], numbers_from=2)
    assert '<td><span class="tag bad">failed</span></td><td class="number">12</td>' in table
    assert '<th>outcome</th><th class="number">rows</th>' in table


def test_a_text_with_braces_is_only_text() -> None:
    assert "{0} {missing}" in page.heading("{0} {missing}")
