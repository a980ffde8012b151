"""Which tokens a word of a prompt became. Text and tokenizer only; it knows no attention.

`locate` is what users mean by a word; `reference_indices` reproduces the reference implementation's look-up.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

# A run of letters, one digit, a run of anything else, or the letters of an English contraction, wherever they stand
# ("o's" in "o'sullivan"): as CLIP splits text.
PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)
# Apostrophes and hyphens that people and their keyboards do not tell apart.
ALIKE = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-"})


@dataclass(frozen=True)
class Piece:
    """A word, digit or run of punctuation: folded text, its tokens [start, end), the word it belongs to."""

    text: str
    start: int
    end: int
    word: int


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt: `ids` with start and end token but no padding, `words` split at white space."""

    text: str
    ids: tuple[int, ...]
    words: tuple[str, ...]
    pieces: tuple[Piece, ...]

    def word_tokens(self, word: int) -> tuple[list[int], list[int], list[int]]:
        """Return the token positions of one white-space separated word: punctuation before it, itself, and after.

        A word of punctuation alone ("&") is the word itself.
        """
        pieces = [piece for piece in self.pieces if piece.word == word]
        spoken = [i for i, piece in enumerate(pieces) if not is_punctuation(piece.text)]
        first, last = (spoken[0], spoken[-1] + 1) if spoken else (0, len(pieces))
        parts = pieces[:first], pieces[first:last], pieces[last:]
        before, itself, after = ([t for piece in part for t in range(piece.start, piece.end)] for part in parts)
        return before, itself, after


def read_prompt(tokenizer: Any, text: str) -> Prompt:
    """Tokenise a prompt word by word.

    Raises ValueError for a prompt that does not fit the model's positions (77 with CLIP): cut tokens would
    silently be neither drawn nor edited.
    """
    ids = tuple(encode(tokenizer, text))
    longest = tokenizer.model_max_length
    if len(ids) > longest:
        raise ValueError(
            f"the prompt {text!r} has {len(ids)} tokens with start and end; the model reads {longest}. Shorten it."
        )
    words, pieces, position = tuple(composed(text).split()), [], 1
    alone = ids_alone(tokenizer, words)
    for index, word in enumerate(words):
        for part in _parts(word, alone):
            length = len(alone[part])
            pieces.append(Piece(folded(part), position, position + length, index))
            position += length
    if position != len(ids) - 1:
        raise ValueError(f"cannot tell which tokens the words of {text!r} became; use plain words.")
    return Prompt(text, ids, words, tuple(pieces))


def ids_alone(tokenizer: Any, words: Sequence[str]) -> dict[str, list[int]]:
    """Return the tokens of each word, and of each piece of it, on its own; one call of the tokenizer."""
    texts = list(dict.fromkeys([*words, *(part for word in words for part in PIECE.findall(word))]))
    if not texts:
        return {}
    encoded = tokenizer(texts, truncation=False, verbose=False).input_ids
    return {text: list(ids[1:-1]) for text, ids in zip(texts, encoded, strict=True)}


def _parts(word: str, alone: Mapping[str, list[int]]) -> list[str]:
    """Return the pieces of a word, or the whole word where they do not become the same tokens."""
    parts = PIECE.findall(word)
    return parts if [i for part in parts for i in alone[part]] == alone[word] else [word]


class RememberingTokenizer:
    """A tokenizer that answers texts it has seen from memory; it lives as long as one context."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.model_max_length = tokenizer, tokenizer.model_max_length
        self.ids: dict[str, list[int]] = {}
        self.texts: dict[tuple[int, ...], str] = {}

    def __call__(self, text: str | list[str], **_: Any) -> SimpleNamespace:
        texts = [text] if isinstance(text, str) else text
        new = [one for one in texts if one not in self.ids]
        if new:
            encoded = self.tokenizer(new, truncation=False, verbose=False).input_ids
            self.ids.update(zip(new, encoded, strict=True))
        found = [self.ids[one] for one in texts]
        return SimpleNamespace(input_ids=found[0] if isinstance(text, str) else found)

    def decode(self, ids: list[int]) -> str:
        key = tuple(ids)
        if key not in self.texts:
            self.texts[key] = self.tokenizer.decode(ids)
        return self.texts[key]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return token ids with start and end token, not cut."""
    return list(tokenizer(text, truncation=False, verbose=False).input_ids)


def composed(text: str) -> str:
    """Return the text with each letter and its accent as one character, as CLIP reads it."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Return the text as it is compared: case, the form of accents and of apostrophes do not matter."""
    return composed(text).casefold().translate(ALIKE)


def is_punctuation(text: str) -> bool:
    """Say whether a text holds nothing but punctuation; an emoji is none."""
    return all(c in string.punctuation or unicodedata.category(c).startswith("P") for c in text)


def bare(phrase: str) -> str:
    """Return a phrase without the punctuation and spaces around it; "" if there is nothing else."""
    kept = [i for i, character in enumerate(phrase) if not (character.isspace() or is_punctuation(character))]
    return phrase[kept[0] : kept[-1] + 1] if kept else ""


def locate(prompt: Prompt, phrase: str) -> list[int]:
    """Return the token positions of every occurrence of a word or phrase, [] if there is none.

    Neither case matters, nor how accents and apostrophes are written, nor punctuation around the phrase; a phrase
    may span words ("keanu reeves"). Punctuation that belongs to a token, as in an added "<toy>", is looked for too.
    """
    as_given = " ".join(folded(phrase).split())
    if any(piece.text == as_given for piece in prompt.pieces):
        return _occurrences(prompt, as_given)
    return _occurrences(prompt, bare(as_given)) or _occurrences(prompt, as_given)


def holds(text: str, phrase: str) -> bool:
    """Say whether a prompt holds a word or phrase, as `locate` finds it but without a tokenizer."""
    words = tuple(composed(text).split())
    parts = [(folded(part), number) for number, word in enumerate(words) for part in PIECE.findall(word)]
    pieces = tuple(Piece(part, at, at + 1, number) for at, (part, number) in enumerate(parts))
    return bool(locate(Prompt(text, (), words, pieces), phrase))


def _occurrences(prompt: Prompt, wanted: str) -> list[int]:
    """Return the token positions of a folded text wherever it begins and ends with a piece."""
    text, starts, ends = "", {}, {}
    for index, piece in enumerate(prompt.pieces):
        text += " " if index and piece.word != prompt.pieces[index - 1].word else ""
        starts[len(text)] = piece.start
        text += piece.text
        ends[len(text)] = piece.end
    found: set[int] = set()
    at = text.find(wanted) if wanted else -1
    while at >= 0:
        if at in starts and at + len(wanted) in ends:
            found.update(range(starts[at], ends[at + len(wanted)]))
        at = text.find(wanted, at + 1)
    return sorted(found)


def need(prompt: Prompt, phrase: str, purpose: str) -> list[int]:
    """Return the positions of a phrase that has to be there; raises ValueError naming prompt and purpose."""
    positions = locate(prompt, phrase)
    if not positions:
        raise ValueError(
            f"{phrase!r} ({purpose}) is not in the prompt {prompt.text!r}. Its words: {', '.join(prompt.words)}."
        )
    return positions


def reference_indices(tokenizer: Any, text: str, place: str | int) -> list[int]:
    """Return token positions as the reference does: by counting characters of decoded tokens.

    `place` is a space-separated word, matched exactly, or its index. [] if absent; double spaces and tokens
    whose text differs from the prompt's shift the count, as they do there. Raises ValueError where the count
    runs past the last word, an IndexError there.
    """
    words = text.split(" ")
    places = [place] if isinstance(place, int) else [i for i, word in enumerate(words) if word == place]
    if not places:
        return []
    tokens = [tokenizer.decode([i]).strip().strip("#") for i in encode(tokenizer, text)[1:-1]]
    found, word, length = [], 0, 0
    for position, token in enumerate(tokens, start=1):
        length += len(token)
        if word in places:
            found.append(position)
        if word == len(words):
            raise ValueError(
                f"the reference cannot look up {place!r} in {text!r}: it counts characters, and the tokens have more "
                "than the prompt. Use behaviour=corrected."
            )
        if length >= len(words[word]):
            word, length = word + 1, 0
    return found


def reference_positions(tokenizer: Any, text: str, word: str) -> list[int]:
    """Return `reference_indices`; raises ValueError for a word that lies behind the model's last position."""
    positions = reference_indices(tokenizer, text, word)
    if positions and positions[-1] >= tokenizer.model_max_length:
        raise ValueError(
            f"{word!r} stands at token {positions[-1]} of {text!r}; the model reads {tokenizer.model_max_length}."
        )
    return positions
