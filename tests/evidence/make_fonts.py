"""Makes the two fonts of the agreement from Noto Sans KR and Noto Sans SC: ``python tests/evidence/make_fonts.py``.

Wants fontTools and the wheel ``justmytype-intl-cjk`` (SIL Open Font License 1.1), which has both as variable TrueType fonts; neither
is needed to run the gateway. reportlab embeds TrueType outlines only, so the OpenType (CFF) builds of Noto will not do.

Each is fixed at weight 400 and cut down: Korean to every modern syllable and KS X 1001, Chinese to GB 2312, both with Latin,
punctuation, currency signs and full-width forms. What makes text flow (GSUB, GPOS) and hinting are left out: reportlab uses neither.
"""

from __future__ import annotations

import itertools
import sys
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from fontTools.varLib.instancer import instantiateVariableFont

FOLDER = Path(__file__).parents[2] / "gateway" / "evidence" / "fonts"
WEIGHT = 400
SHARED = (
    range(0x20, 0x7F), range(0xA0, 0x180), range(0x2010, 0x2028), range(0x2030, 0x205F), range(0x20A0, 0x20C1),
    range(0x2100, 0x2200), range(0x2460, 0x2500), range(0x25A0, 0x2670), range(0x3000, 0x3040), range(0xFF01, 0xFFEF),
)  # fmt: skip


def characters(codec: str) -> Iterator[int]:
    """Every character that the double-octet part of *codec* (``euc_kr``, ``gb2312``) can write."""
    for pair in itertools.product(range(0xA1, 0xFF), repeat=2):
        try:
            mark = bytes(pair).decode(codec)
            yield from {ord(mark), ord(unicodedata.normalize("NFC", mark))}
        except UnicodeDecodeError:
            continue


def make(folder: str, name: str, wanted: set[int]) -> None:
    source = files("justmytype_intl_cjk") / "fonts" / "ofl" / folder / f"{name}[wght].ttf"
    font = instantiateVariableFont(TTFont(str(source), recalcTimestamp=False), {"wght": WEIGHT}, updateFontNames=True)
    options = Options(
        layout_features=[], hinting=False, notdef_outline=True, drop_tables=["GSUB", "GPOS", "GDEF", "BASE", "STAT", "vhea", "vmtx", "VORG"],
        name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14], glyph_names=False,
    )  # fmt: skip
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=wanted)
    subsetter.subset(font)
    target = FOLDER / f"{name}-Regular.ttf"
    font.save(target)
    sys.stdout.write(f"{target.name}: {len(font.getBestCmap())} characters, {target.stat().st_size / 1e6:.1f} MB\n")


def main() -> None:
    shared = set(itertools.chain(*SHARED))
    make(
        "notosanskr",
        "NotoSansKR",
        shared | set(range(0xAC00, 0xD7A4)) | set(range(0x3131, 0x318F)) | set(characters("euc_kr")),
    )
    make("notosanssc", "NotoSansSC", shared | set(characters("gb2312")))


if __name__ == "__main__":
    main()
