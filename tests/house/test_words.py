"""Source and documentation use the field's words, not those that were replaced by them."""

from __future__ import annotations

import re

import pytest

from tests.house.source import FILES, PACKAGE, definitions, first_sentences, name_of, tree_of

# Words of an earlier private dialect, each with a plain one.
REPLACED = {
    r"\bheed(s|ed)?\b": "uses, reads; of little importance",
    r"so-manieth": "rank",
    r"\bhomecoming": "results of worker processes",
    r"\bgone on with\b": "resumed",
    r"\bc[ao]me down to\b": "reached",
    r"\b(speaks?|spoken) for\b": "represents, owns",
    r"\b(is|are|was|were|be|been) told\b": "receives",
    r"\bhears?\b": "receives",
    r"\b(letter|told|hear|speaks|homecoming|so_manieth)\b": "see the names in this room",
    r"\bneighbours\b": "other callbacks",
}
# A first sentence states what the thing is or does; it is not a question turned into a clause, and tells no story.
AT_THE_BEGINNING = re.compile(r"^(what|who|whose|why|how|where|so that|and|but|or)\b", re.IGNORECASE)
# Where the package ends and its data begin: the folders whose text a user reads.
TEXTS = [*FILES, *sorted((PACKAGE.parent / "conf").rglob("*.yaml"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(PACKAGE.parent).as_posix())
def test_no_replaced_word_returns(path):
    text = path.read_text(encoding="utf-8")
    found = {found[0]: plain for word, plain in REPLACED.items() if (found := re.search(word, text, re.IGNORECASE))}
    assert not found, f"{name_of(path) if path.suffix == '.py' else path.name}: word found: plain word: {found}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_first_sentence_states_what_a_thing_is_or_does(path):
    for name, sentence in first_sentences(path):
        assert sentence[-1] in ".:?!`)", f"{name}: {sentence!r} does not end"
        assert not AT_THE_BEGINNING.match(sentence), f"{name}: {sentence!r} begins with a clause"
        assert len(sentence) <= 200, f"{name}: {sentence!r} is too long to be read at once"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_check_is_called_check_or_validate(path):
    assert not [name for name, _ in definitions(tree_of(path)) if re.search(r"(^|\.)_?refuse", name)]
