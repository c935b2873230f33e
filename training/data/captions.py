"""Captions made of parts: what an image shows, words for it, and whose style it is in.

In training parts are left out at random, so that a model also follows a prompt of a few words. A prompt that says
nothing at all, for guidance, is not a matter of captions: the objective replaces those.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from random import Random

WITHOUT_NAME = 0.1  # of the captions that could have tags instead
WITHOUT_ARTICLE = 0.3
WITH_TAGS = 0.25  # beside the name
MOST_TAGS = 3
WITHOUT_STYLE = 0.3
NO_ARTICLE = {"people", "men", "women", "no", "non-potable", "potable"}  # first words; plurals are found by their s
ENDS_A_NOUN = {"with", "of", "on", "in", "at", "and", "behind", "without"}  # and what someone is doing
VOWEL = re.compile(r"(?!eu|uni|one)[aeiou]|hour", re.IGNORECASE)


def caption(name: str, tags: Sequence[str], vendor: str, rng: Random | None = None) -> str:
    """ "a red apple, noto style"; with `rng`, which alone decides, parts of it, and some of the tags.

    Every caption keeps the name or a tag."""
    style = f"{vendor.replace('-', ' ')} style"
    if rng is None:
        return f"{with_article(name)}, {style}"
    by_name, by_article, by_tags, by_style = (rng.random() for _ in range(4))  # always four: one part moves no other
    chosen = rng.sample(sorted(tags), min(len(tags), rng.randint(1, MOST_TAGS)))
    parts = []
    if by_name >= WITHOUT_NAME or not chosen:
        parts.append(name if by_article < WITHOUT_ARTICLE else with_article(name))
    if not parts or by_tags < WITH_TAGS:
        parts += chosen
    if by_style >= WITHOUT_STYLE:
        parts.append(style)
    return ", ".join(parts)


def with_article(name: str) -> str:
    """ "a red apple", "an anchor"; names of places and plurals stay as they are: "Mount Fuji", "clinking glasses"."""
    words = name.split()
    ends = (i for i, word in enumerate(words) if i and (word in ENDS_A_NOUN or word.endswith("ing")))
    noun = words[next(ends, len(words)) - 1].rstrip(":")
    plural = noun.endswith("s") and not noun.endswith(("ss", "us", "'s"))
    proper = words[0][0].isupper() and not words[0].isupper()
    if plural or proper or words[0] in NO_ARTICLE or not words[0][0].isalpha():
        return name
    return f"{'an' if VOWEL.match(words[0]) else 'a'} {name}"


def trigger_words(captions: Sequence[str | Sequence[str]]) -> list[str]:
    """The words that call up what captions have in common: the ending after the last comma, where half of them have
    one, or else the words of the first that are in all of them; none for captions that share nothing."""
    whole = [caption if isinstance(caption, str) else caption[0] for caption in captions]
    endings = Counter(caption.rpartition(",")[2].strip() for caption in whole if "," in caption)
    often = [ending for ending, count in endings.most_common() if ending and 2 * count >= max(len(whole), 2)]
    if often or not whole:
        return often
    shared = set.intersection(*(set(caption.split()) for caption in whole))
    return [" ".join(dict.fromkeys(word for word in whole[0].split() if word in shared))] if shared else []
