"""Captions of parts: whole without a source of randomness, a pure function of it otherwise."""

from __future__ import annotations

from random import Random

import pytest

from training.data.captions import caption, with_article
from training.randomness import BatchRandom

APPLE = ("red apple", ("fruit", "red", "ripe", "diet"), "noto-v1")


def drawn(count: int) -> list[str]:
    return [caption(*APPLE, Random(seed)) for seed in range(count)]


def test_without_randomness_it_is_name_and_style() -> None:
    assert caption(*APPLE) == "a red apple, noto v1 style"


def test_the_random_source_alone_decides() -> None:
    assert drawn(50) == drawn(50) and len(set(drawn(200))) > 20
    shuffled = (APPLE[0], tuple(reversed(APPLE[1])), APPLE[2])
    assert [caption(*shuffled, Random(seed)) for seed in range(50)] == drawn(50), "the order of the tags is no matter"


def test_parts_are_left_out_as_often_as_it_says() -> None:
    captions = drawn(4000)
    assert all(text and not text.startswith(",") for text in captions)
    styled = sum(text.endswith("noto v1 style") for text in captions) / 4000
    named = sum("red apple" in text for text in captions) / 4000
    with_article = sum("a red apple" in text for text in captions) / 4000
    tagged = sum(any(tag in text.split(", ") for tag in APPLE[1]) for text in captions) / 4000
    assert styled == pytest.approx(0.7, abs=0.03) and named == pytest.approx(0.9, abs=0.02)
    assert with_article == pytest.approx(0.63, abs=0.03) and tagged == pytest.approx(0.1 + 0.9 * 0.25, abs=0.03)


def test_an_emoji_without_tags_keeps_its_name() -> None:
    captions = {caption("ghost", (), "noto", Random(seed)) for seed in range(200)}
    assert captions == {"a ghost", "ghost", "a ghost, noto style", "ghost, noto style"}


def test_an_example_has_the_same_caption_on_any_number_of_processes() -> None:
    def captions(start: int, count: int) -> list[str]:
        numbers = BatchRandom(0, 7, start, count, total=8).uniform("caption")
        return [caption(*APPLE, Random(number)) for number in numbers.tolist()]

    assert captions(0, 8) == captions(0, 4) + captions(4, 4) and len(set(captions(0, 8))) > 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("red apple", "a red apple"),
        ("anchor", "an anchor"),
        ("OK hand", "an OK hand"),
        ("euro banknote", "a euro banknote"),
        ("hourglass done", "an hourglass done"),
        ("Mount Fuji", "Mount Fuji"),
        ("clinking glasses", "clinking glasses"),
        ("glass of milk", "a glass of milk"),
        ("woman with bunny ears", "a woman with bunny ears"),
        ("person lifting weights", "a person lifting weights"),
        ("people hugging", "people hugging"),
        ("cactus", "a cactus"),
        ("1st place medal", "1st place medal"),
    ],
)
def test_articles(name: str, said: str) -> None:
    assert with_article(name) == said
