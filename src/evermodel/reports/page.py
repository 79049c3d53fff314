"""One look for every HTML page: the stylesheet, and the parts that a report is built from.

A page needs no script and no other file: style and pictures are inside it. Every text is escaped, because it may come
from data.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from markupsafe import Markup, escape

Rows = Sequence[Sequence[str]]
Kind = Literal["good", "warn", "bad"]

#: Words that a table cell shows as a coloured tag.
WORD_KINDS: Final[Mapping[str, Kind]] = {
    "promote": "good",
    "hold": "warn",
    "reject": "bad",
    "passed": "good",
    "warning": "warn",
    "failed": "bad",
}

_PAGE: Final = Markup(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<title>{title}</title>\n<style>\n{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
)


@cache
def stylesheet() -> str:
    """The CSS of every page. The web UI serves it, too, with rules of its own after it."""
    return files(__package__).joinpath("style.css").read_text("utf-8")


def render_page(title: str, parts: Iterable[Markup]) -> str:
    """A whole HTML page."""
    return str(_PAGE.format(title=title, style=Markup(stylesheet()), body=_join(parts, "\n")))


def heading(text: str, *details: str | Markup) -> Markup:
    """The page's title with a line of details below it."""
    return Markup('<div class="head"><div><h1>{}</h1><div class="muted">{}</div></div></div>').format(
        text, _join(details)
    )


def section(title: str, content: Markup) -> Markup:
    """A card with a title."""
    return Markup('<section class="card"><h2>{}</h2>{}</section>').format(title, content)


def notice(word: str, text: str, reasons: Iterable[str]) -> Markup:
    """A verdict: the word as a tag, what it means, and its reasons."""
    items = _join(Markup("<li>{}</li>").format(reason) for reason in reasons)
    return Markup('<section class="card">{} {}<ul>{}</ul></section>').format(tag(word), text, items)


def tiles(facts: Iterable[tuple[str, str]]) -> Markup:
    """Named figures in one row."""
    tile = Markup('<div class="tile"><span class="label">{}</span><strong>{}</strong></div>')
    return Markup('<div class="tiles">{}</div>').format(_join(tile.format(name, value) for name, value in facts))


def table(heads: Sequence[str], rows: Rows, *, numbers_from: int | None = None) -> Markup:
    """A table of texts. The columns from `numbers_from` on hold numbers and are aligned to the right."""

    def attribute(column: int) -> Markup:
        is_number = numbers_from is not None and column >= numbers_from
        return Markup(' class="number"') if is_number else Markup("")

    head = _join(Markup("<th{}>{}</th>").format(attribute(n), text) for n, text in enumerate(heads))
    body = _join(
        Markup("<tr>{}</tr>\n").format(
            _join(Markup("<td{}>{}</td>").format(attribute(n), tag(cell)) for n, cell in enumerate(row))
        )
        for row in rows
    )
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>').format(
        head, body
    )


def pictures(drawn: Mapping[str, str], *, whole: str | None = None) -> Markup:
    """SVG texts by title, in two columns. The one with the title `whole` has the page's full width."""
    figure = Markup('<figure{}><figcaption>{}</figcaption><img alt="{}" src="{}"></figure>\n')
    return Markup('<div class="pictures">{}</div>').format(
        _join(
            figure.format(Markup(' class="whole"') if title == whole else Markup(""), title, title, _data_uri(svg))
            for title, svg in drawn.items()
        )
    )


def code(text: str) -> Markup:
    """An id in the typewriter face."""
    return Markup("<code>{}</code>").format(text)


def tag(text: str) -> Markup:
    """A coloured tag if the text is a word of `WORD_KINDS`; the plain text otherwise."""
    kind = WORD_KINDS.get(text)
    return escape(text) if kind is None else Markup('<span class="tag {}">{}</span>').format(kind, text)


def _join(parts: Iterable[str | Markup], separator: str = "") -> Markup:
    return Markup(separator).join(parts)


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
