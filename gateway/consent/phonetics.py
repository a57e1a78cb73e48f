"""How alike two texts sound: the second pass mishears spelling, not sound, so spelling must not decide.

Hangul is taken apart into its sounds (jamo, silent ㅇ dropped, ㅂ and ㄱ nasal before ㄴ and ㅁ as they are spoken); other scripts
stand for themselves, without accents. Sounds of one class (nasals and liquids; the stops of one place; front vowels) are half
a step apart, all others a whole one.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

_INITIAL, _VOWEL, _FINAL = 0x1100, 0x1161, 0x11A8
_INITIALS = ("g", "gg", "n", "d", "dd", "l", "m", "b", "bb", "s", "ss", "", "j", "jj", "c", "k", "t", "p", "h")
_VOWELS = (
    "a", "e", "ya", "ye", "v", "e", "yv", "ye", "o", "wa", "we", "we", "yo", "u", "wv", "we", "wi", "yu", "x", "xi", "i",
)  # fmt: skip
_FINALS = (
    "g", "g", "g", "n", "n", "n", "d", "l", "g", "m", "b", "l", "l", "b", "l", "m", "b", "b", "d", "d", "N", "d", "d", "g", "d", "b", "d",
)  # fmt: skip
_NASAL = {"b": "m", "g": "N", "d": "n"}
_CLASSES = ("nlmN", "gk", "dt", "bp", "sjc", "iey", "ouwv", "ax")
_CLASS = {sound: number for number, members in enumerate(_CLASSES) for sound in members}
HALF = 0.5


@cache
def sounds(text: str) -> str:
    """The sounds of *text*, one character each, spaces and signs left out."""
    found: list[str] = []
    for character in unicodedata.normalize("NFKD", text.casefold()):
        code = ord(character)
        if 0 <= code - _INITIAL < len(_INITIALS):
            sound = _INITIALS[code - _INITIAL]
            if sound in ("n", "m") and found and found[-1] in _NASAL:
                found[-1] = _NASAL[found[-1]]
            found += sound[:1]
        elif 0 <= code - _VOWEL < len(_VOWELS):
            found += _VOWELS[code - _VOWEL]
        elif 0 <= code - _FINAL < len(_FINALS):
            found += _FINALS[code - _FINAL]
        elif character.isalpha():
            found += character
    return "".join(found)


@lru_cache(maxsize=4096)
def phonetic_distance(heard: str, target: str) -> float:
    """Weighted Levenshtein distance over :func:`sounds`, divided by the target's length: 0 is the same, 1 nothing alike.

    Raises ValueError for a target without a sound.
    """
    a, b = sounds(heard), sounds(target)
    if not b:
        raise ValueError(f"{target!r} has no sound to compare with")
    row = [float(j) for j in range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], float(i)
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + _step(x, y))
    return row[-1] / len(b)


def _step(x: str, y: str) -> float:
    if x == y:
        return 0.0
    return HALF if x in _CLASS and _CLASS.get(x) == _CLASS.get(y) else 1.0
