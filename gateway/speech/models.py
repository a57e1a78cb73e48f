"""Vosk models: where they are, what they can do, and the folder with our own settings that they are opened from."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import struct
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.consent.testimony import Grammar
from gateway.speech.errors import GrammarTooLarge, ModelMissing, UnknownWords

NEEDED = ("am/final.mdl", "conf/mfcc.conf", "graph/Gr.fst", "graph/HCLr.fst")
GARBAGE_WORDS = 1000
MOST_WORDS = 10_000
"""In the phrases of one grammar: a recogniser with so many takes 31 ms to make, and keeps the other calls of its process waiting."""

SHORT_LATIN = 4
_FST_MAGIC = 2125659606
_SYMBOLS_MAGIC = 2125658996
_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS = 1, 2


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is configured to come from: ``package:NAME`` (PyPI), ``vosk:NAME`` (Vosk's own download), or a folder."""

    spec: str

    def folder(self) -> Path:
        """The model's folder. Raises ModelMissing naming the mend."""
        kind, _, name = self.spec.partition(":")
        if kind == "package" and name:
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None:
                raise ModelMissing(f"model {self.spec}: pip install {name.replace('_', '-')}")
            path = Path(found.origin).parent / "model"
        elif kind == "vosk" and name:
            path = Path.home() / ".cache/vosk" / name
            if not path.is_dir():
                raise ModelMissing(f"model {self.spec}: not downloaded; run: consent-gateway models fetch {name}")
        else:
            path = Path(self.spec).expanduser()
            if not path.is_dir():
                raise ModelMissing(f"model {self.spec}: no such folder")
        return check_folder(path)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every word of a model, and -ln P of those that have a unigram."""

    words: frozenset[str]
    costs: dict[str, float]


def check_folder(path: Path) -> Path:
    """*path*, when it holds a model that takes grammars at run time. Raises ModelMissing."""
    if (path / "graph/HCLG.fst").exists():
        raise ModelMissing(
            f"model {path}: its graph is static (HCLG.fst) and takes no grammar; use one with HCLr.fst and Gr.fst"
        )
    missing = [name for name in NEEDED if not (path / name).exists()]
    if missing:
        raise ModelMissing(f"model {path}: incomplete, {', '.join(missing)} missing; install it again")
    return path


def name_of(folder: Path) -> str:
    """What the model in *folder* is called; a package keeps it in a folder ``model`` of its own."""
    return folder.parent.name if folder.name == "model" else folder.name


def model_sha256(folder: Path) -> str:
    """A hash over every file of the model, names and contents: the record says by which ears something was heard."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            whole.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def open_settings(model: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of links to *model* whose feature extraction has no dither, so that one clip is always heard alike."""
    folder = tempfile.TemporaryDirectory(prefix="consent-model-")
    root = Path(folder.name)
    for entry in model.iterdir():
        if entry.name != "conf":
            (root / entry.name).symlink_to(entry.resolve())
    (root / "conf").mkdir()
    for entry in (model / "conf").iterdir():
        if entry.name != "mfcc.conf":
            (root / "conf" / entry.name).symlink_to(entry.resolve())
    lines = [line for line in (model / "conf/mfcc.conf").read_text().splitlines() if not line.startswith("--dither")]
    (root / "conf/mfcc.conf").write_text("\n".join([*lines, "--dither=0", ""]))
    return folder


def read_vocabulary(model: Path) -> Vocabulary:
    """The words and unigram costs in ``graph/Gr.fst``, an OpenFst n-gram FST. Raises ModelMissing.

    Layout as in OpenFst's ngram-fst.h: header, symbol tables, then a LOUDS context tree whose root state comes first.
    """
    path = model / "graph/Gr.fst"
    try:
        return _read_vocabulary(path)
    except (ValueError, KeyError, struct.error) as error:
        raise ModelMissing(f"{path}: cut short or damaged ({error}); install the model again") from error


def _read_vocabulary(path: Path) -> Vocabulary:
    reader = _Reader(path.read_bytes(), path)
    if reader.number(4) != _FST_MAGIC:
        raise ModelMissing(f"{path}: not an OpenFst file")
    kind = reader.text(), reader.text()
    reader.skip(4)
    flags = reader.number(4)
    reader.skip(4 * 8)  # properties, start, states, arcs
    if kind != ("ngram", "standard") or not flags & _HAS_INPUT_SYMBOLS:
        raise ModelMissing(f"{path}: a {kind[0]} FST without words to read; this model's grammars cannot be checked")
    words = reader.symbols()
    if flags & _HAS_OUTPUT_SYMBOLS:
        reader.skip_symbols()
    ids, costs = _unigrams(reader.rest())
    return Vocabulary(frozenset(words.values()), {words[i]: cost for i, cost in zip(ids, costs, strict=True)})


def check_words(grammars: Iterable[Grammar], known: frozenset[str]) -> None:
    """No grammar is too large, and every token of every phrase is in the vocabulary. Raises GrammarTooLarge, or UnknownWords
    naming phrase and likely spellings.
    """
    grammars = tuple(grammars)
    for grammar in grammars:
        count = sum(len(phrase.split()) for phrase in grammar.phrases)
        if count > MOST_WORDS:
            raise GrammarTooLarge(
                f"grammar {grammar.name}: {count:,} words in its phrases; at most {MOST_WORDS:,} can be listened for"
            )
    owners = {phrase: grammar.name for grammar in grammars for phrase in grammar.phrases}
    owners |= {
        phrase: grammar.name for grammar in grammars for phrase in grammar.affirm
    }  # a yes belongs to its question
    unknown = dict.fromkeys(token for phrase in owners for token in phrase.split() if token not in known)
    hints = {
        token: " + ".join(_segment(token, known)) or ", ".join(_alike(token, known)) or "another word"
        for token in unknown
    }
    faults = [
        f"grammar {owner}: {phrase!r} has {token!r}, which the model lacks; try {hints[token]}"
        for phrase, owner in owners.items()
        for token in phrase.split()
        if token in hints
    ]
    if faults:
        raise UnknownWords(faults)


def runtime_grammar(grammar: Grammar, vocabulary: Vocabulary) -> str:
    """What Vosk is given: every phrase and the garbage words, as JSON in plain UTF-8 (it reads no escapes)."""
    return json.dumps([*grammar.phrases, *garbage_words(grammar, vocabulary)], ensure_ascii=False)


def garbage_words(grammar: Grammar, vocabulary: Vocabulary, count: int = GARBAGE_WORDS) -> tuple[str, ...]:
    """The most frequent short words that are in no phrase: what is not a phrase must have somewhere to go (DESIGN §6)."""
    used = {token for phrase in grammar.phrases for token in phrase.split()}
    scripts = {_script(token[0]) for token in used}
    short = [w for w in vocabulary.costs if _is_short(w) and w not in used and w.isalpha() and _script(w[0]) in scripts]
    short.sort(key=lambda word: (vocabulary.costs[word], word))
    return tuple(short[:count])


def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0]


def _is_short(word: str) -> bool:
    return len(word) == 1 or (word.isascii() and len(word) <= SHORT_LATIN)


def _alike(token: str, known: frozenset[str]) -> list[str]:
    candidates = [word for word in known if word and word[0] == token[0] and abs(len(word) - len(token)) <= 1]
    return difflib.get_close_matches(token, candidates, n=3, cutoff=0.5)


def _segment(token: str, known: frozenset[str]) -> list[str]:
    """*token* cut into the fewest known words; empty when it cannot be."""
    best: list[list[str] | None] = [[]] + [None] * len(token)
    for end in range(1, len(token) + 1):
        for start in range(end):
            before = best[start]
            if before is not None and token[start:end] in known:
                candidate = [*before, token[start:end]]
                current = best[end]
                if current is None or len(candidate) < len(current):
                    best[end] = candidate
    return best[-1] or []


class _Reader:
    """Reads the head of an OpenFst file, little-endian."""

    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._at, self._path = data, 0, path
        self._table: tuple[int, int] = 0, 0

    def number(self, octets: int) -> int:
        self._at += octets
        return int.from_bytes(self._data[self._at - octets : self._at], "little")

    def text(self) -> str:
        size = self.number(4)
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def skip(self, octets: int) -> None:
        self._at += octets

    def rest(self) -> memoryview:
        return memoryview(self._data)[self._at :]

    def symbols(self) -> dict[int, str]:
        """The symbol table that follows: number to word."""
        start = self._at
        if self.number(4) != _SYMBOLS_MAGIC:
            raise ModelMissing(f"{self._path}: holds no symbol table where one is announced")
        self.text()
        self.skip(8)
        data, at, table = self._data, self._at + 8, {}
        for _ in range(self.number(8)):
            size, at = int.from_bytes(data[at : at + 4], "little"), at + 4
            word, at = data[at : at + size], at + size
            table[int.from_bytes(data[at : at + 8], "little")] = word.decode()
            at += 8
        self._at = at
        self._table = start, at
        return table

    def skip_symbols(self) -> None:
        """Pass over a second table, which in Vosk's models repeats the first to the octet."""
        start, end = self._table
        size = end - start
        if self._data[self._at : self._at + size] == self._data[start:end]:
            self._at += size
        else:
            self.symbols()


def _unigrams(block: memoryview) -> tuple[list[int], list[float]]:
    """The word numbers and costs of the root state's arcs."""

    def octets(bits: int) -> int:
        return (bits + 63) // 64 * 8

    states, futures, finals = struct.unpack_from("<QQQ", block)
    future_bits = 24 + octets(2 * states + 1)
    final_bits = future_bits + octets(futures + states + 1)
    future_words = final_bits + octets(states) + 4 * (states + 1)
    future_costs = future_words + 4 * futures + 4 * (states + 1) + 4 * finals
    bits = np.unpackbits(np.frombuffer(block, np.uint8, final_bits - future_bits, future_bits), bitorder="little")
    count = int(np.flatnonzero(bits == 0)[1]) - 1
    ids = np.frombuffer(block, "<i4", count, future_words)
    costs = np.frombuffer(block, "<f4", count, future_costs)
    return ids.tolist(), costs.tolist()
