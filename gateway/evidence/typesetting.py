"""One page of text in Korean, Chinese and English: embedded fonts, each character in one that has it, shrunk until all fits.

The fonts are Noto Sans KR and SC (SIL Open Font License), cut down by ``tests/evidence/make_fonts.py``. What neither has is written as
``[U+1F600]`` and named to the caller: a box in an agreement would prove nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, Table, TableStyle

from gateway.consent.order import Language
from gateway.evidence.errors import BadTypesetting

FOLDER = Path(__file__).parent / "fonts"
KOREAN, CHINESE = "NotoSansKR", "NotoSansSC"
FIRST_CHOICE: dict[Language, tuple[str, str]] = {
    "ko": (KOREAN, CHINESE),
    "zh-CN": (CHINESE, KOREAN),
    "en": (KOREAN, CHINESE),
}
MARGIN = 16 * mm
LABEL_WIDTH = 36 * mm
SIZES = (9.5, 9.0, 8.5, 8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0, 4.5, 4.0, 3.5, 3.0)
"""Points; the first at which everything fits."""

GREY, LINE = HexColor(0x666666), HexColor(0xCCCCCC)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it: label and text by turns."""

    heading: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Page:
    """The PDF, and the characters that no font has, such as ``U+1F600``."""

    pdf: bytes
    uncovered: tuple[str, ...]


def set_page(title: str, subtitle: str, sections: Sequence[Section], language: Language) -> Page:
    """All of it on one page of A4. The same input gives the same octets. Raises BadTypesetting."""
    fonts = [_font(name) for name in FIRST_CHOICE[language]]
    setter = _Setter(fonts, language)
    width, height = A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN
    for size in SIZES:
        flow = setter.flow(title, subtitle, sections, size)
        heights = [part.wrap(width, height)[1] for part in flow]
        if sum(heights) <= height:
            break
    else:
        raise BadTypesetting(f"the agreement does not fit on one page at {SIZES[-1]} points: its terms are too long")
    sheet = BytesIO()
    canvas = Canvas(sheet, pagesize=A4, invariant=1, lang=language)
    canvas.setTitle(title)
    canvas.setSubject(subtitle)
    canvas.setCreator("consent-gateway")
    top = A4[1] - MARGIN
    for part, used in zip(flow, heights, strict=True):
        top -= used
        part.drawOn(canvas, MARGIN, top)
    canvas.showPage()
    canvas.save()
    return Page(sheet.getvalue(), tuple(sorted(setter.uncovered)))


@cache
def _font(name: str) -> TTFont:
    path = FOLDER / f"{name}-Regular.ttf"
    try:
        font = TTFont(name, path)
    except (TTFError, OSError) as error:
        raise BadTypesetting(f"{path}: {error}; install consent-gateway again") from error
    pdfmetrics.registerFont(font)
    return font


class _Setter:
    """Makes paragraphs of texts, each run of characters in the first font that has them."""

    def __init__(self, fonts: Sequence[TTFont], language: Language) -> None:
        self._fonts = fonts
        self._wrap = "CJK" if language == "zh-CN" else None
        self.uncovered: set[str] = set()

    def flow(self, title: str, subtitle: str, sections: Sequence[Section], size: float) -> list[Flowable]:
        flow: list[Flowable] = [
            self._paragraph(title, size * 1.8, space=size * 0.4),
            self._paragraph(subtitle, size * 1.1, space=size * 0.6),
        ]
        for section in sections:
            flow.append(self._paragraph(section.heading, size * 1.15, space=size * 0.3, before=size * 0.7))
            rows = [
                (self._paragraph(label, size, colour=GREY), self._paragraph(text, size)) for label, text in section.rows
            ]
            table = Table(rows, colWidths=(LABEL_WIDTH, A4[0] - 2 * MARGIN - LABEL_WIDTH))
            table.setStyle(
                TableStyle([
                    ("VALIGN", (0, 0), (-1, -1), "TOP"), ("LINEABOVE", (0, 0), (-1, -1), 0.3, LINE),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), size * 0.4),
                    ("TOPPADDING", (0, 0), (-1, -1), size * 0.15), ("BOTTOMPADDING", (0, 0), (-1, -1), size * 0.3),
                ])
            )  # fmt: skip
            flow.append(table)
        return flow

    def _paragraph(
        self, text: str, size: float, *, space: float = 0.0, before: float = 0.0, colour: HexColor | None = None
    ) -> Paragraph:
        style = ParagraphStyle(
            "text", fontName=self._fonts[0].fontName, fontSize=size, leading=size * 1.32, wordWrap=self._wrap,
            spaceBefore=before, spaceAfter=space, splitLongWords=1, textColor=colour or HexColor(0),
        )  # fmt: skip
        return _Spaced(self._runs(text), style)

    def _runs(self, text: str) -> str:
        """*text* as reportlab's markup. Composed (NFC): fonts have syllables, and not every way to put them together."""
        composed = unicodedata.normalize("NFC", text)
        shown = "".join(mark if self._place(mark) is not None else self._name(mark) for mark in composed)
        parts = groupby(shown, lambda mark: self._place(mark) or 0)
        runs = [(place, escape("".join(marks))) for place, marks in parts]
        return "".join(f'<font name="{self._fonts[place].fontName}">{marks}</font>' for place, marks in runs)

    def _place(self, mark: str) -> int | None:
        """Which font has *mark*."""
        code = ord(mark)
        return next((place for place, font in enumerate(self._fonts) if code in font.face.charToGlyph), None)

    def _name(self, mark: str) -> str:
        self.uncovered.add(f"U+{ord(mark):04X}")
        return f"[U+{ord(mark):04X}]"


class _Spaced(Paragraph):  # type: ignore[misc]
    """A paragraph whose space before and after is part of its height: nothing else keeps it here."""

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        used_width, used = super().wrap(width, height)
        return used_width, used + self.style.spaceBefore + self.style.spaceAfter

    def drawOn(self, canvas: Canvas, x: float, y: float, _sW: float = 0) -> None:  # noqa: N802, N803 - reportlab's names
        super().drawOn(canvas, x, y + self.style.spaceAfter, _sW)
