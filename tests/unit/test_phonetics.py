"""How alike two texts sound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent.phonetics import phonetic_distance, sounds

TARGET = "네 동의 합니다"


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("", ""),
        ("", " .,!? 123"),
        ("ne", "네"),
        ("ne", "내"),
        ("hamnida", "합니다"),
        ("hamnida", "함니다"),
        ("doNnyo", "독뇨"),
        ("a", "아"),
        ("iagree", "I agree"),
        ("uber", "über"),
        ("我同意开通", "我 同意 开通"),
    ],
)
def test_the_sounds_of(expected: str, text: str) -> None:
    assert expected == sounds(text)


def test_spelling_does_not_decide() -> None:
    assert 0.0 == phonetic_distance("네 동의 함니다", TARGET)


def test_spaces_do_not_decide() -> None:
    assert 0.0 == phonetic_distance("네동의합니다", TARGET)


def test_sounds_of_one_class_are_half_a_step_apart() -> None:
    assert 0.5 / len(sounds("나무")) == phonetic_distance("라무", "나무")


def test_other_sounds_are_a_whole_step_apart() -> None:
    assert 1.0 / len(sounds("나무")) == phonetic_distance("가무", "나무")


@pytest.mark.parametrize(
    ("one", "other"),
    [("가", "카"), ("다", "타"), ("바", "파"), ("사", "자"), ("나", "마"), ("이", "에"), ("오", "우"), ("어", "오")],
)
def test_the_sounds_of_one_class_are_those_that_a_telephone_blurs(one: str, other: str) -> None:
    assert 0.5 == len(sounds(other)) * phonetic_distance(one, other)


def test_silence_is_nothing_like_the_target() -> None:
    assert 1.0 == phonetic_distance("", TARGET)


@pytest.mark.parametrize("heard", ["음", "네", "네 네", "여보세요", "지금 바빠 요", "싫어요"])
def test_fillers_and_refusals_are_far_from_the_target(heard: str) -> None:
    assert phonetic_distance(heard, TARGET) > 0.45


@pytest.mark.parametrize("heard", ["네 동이 합니다", "내 동의 합니다", "네 동의 압니다"])
def test_what_a_bad_line_makes_of_the_target_is_near(heard: str) -> None:
    assert phonetic_distance(heard, TARGET) < 0.2


def test_a_target_without_a_sound_is_refused() -> None:
    with pytest.raises(ValueError, match="has no sound to compare with"):
        phonetic_distance("네", "123")


@given(st.text(min_size=1).filter(sounds))
def test_a_text_is_no_way_from_itself(text: str) -> None:
    assert 0.0 == phonetic_distance(text, text)


@given(st.text(), st.text().filter(sounds))
def test_a_distance_is_never_negative_and_zero_only_for_the_same_sounds(heard: str, target: str) -> None:
    distance = phonetic_distance(heard, target)
    assert distance >= 0
    assert (distance == 0) is (sounds(heard) == sounds(target))


@given(st.text())
def test_sounds_hold_no_spaces(text: str) -> None:
    assert not any(character.isspace() for character in sounds(text))
