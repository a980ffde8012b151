"""Which source token each target token takes its attention map from (Hertz et al. 2022, sec. 3.2).

`replace_mapper` is the paper's word swap, `refine_mapper` its prompt refinement. Both know text only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from likeness.prompt_to_prompt.words import encode, read_prompt, reference_indices

BEHAVIOURS = ("corrected", "reference_stable", "reference_null")
GAP, MATCH, MISMATCH = 0, 1, -1


def replace_mapper(tokenizer: Any, source: str, target: str, behaviour: str = "corrected") -> Tensor:
    """Return M (77, 77), source token by target token, for prompts with equally many words.

    A swapped word of n tokens hands its maps to a word of m tokens: one to one where n = m, else every target
    token takes 1/m of the sum. Rows sum to 1. Punctuation before and after a word goes to punctuation: a new mark
    takes nothing (its column is 0), a dropped one's map goes to the word. The reference behaviours count marks among
    the word's tokens, and misplace all tokens after the last swapped word when n differs from m. Raises ValueError
    for different word counts.
    """
    positions = tokenizer.model_max_length
    if behaviour != "corrected":
        return _reference_replace_mapper(tokenizer, source, target, positions)
    a, b = read_prompt(tokenizer, source), read_prompt(tokenizer, target)
    _check_counts(a.words, b.words, source, target)
    mapper = torch.zeros(positions, positions)
    mapper[0, 0] = 1
    for word in range(len(a.words)):
        _hand_over_word(mapper, a.word_tokens(word), b.word_tokens(word))
    mapper[len(a.ids) - 1, len(b.ids) - 1] = 1
    hand_over_padding(mapper, len(a.ids), len(b.ids))
    return mapper


def _check_counts(a: Sequence[str], b: Sequence[str], source: str, target: str) -> None:
    if len(a) != len(b):
        raise ValueError(
            f"Replace needs prompts with the same number of words: source has {len(a)} ({source!r}), "
            f"target has {len(b)} ({target!r}). Use Refine (edit.operator=refine)."
        )


def _hand_over_word(mapper: Tensor, source: Sequence[list[int]], target: Sequence[list[int]]) -> None:
    """Hand over a word's maps apart from those of the marks around it; both as (before, itself, after)."""
    (before, old, after), (new_before, new, new_after) = source, target
    hand_over(mapper, old, new)
    for marks, new_marks in ((before, new_before), (after, new_after)):
        if marks and new_marks:
            hand_over(mapper, marks, new_marks)
        for mark in [] if new_marks else marks:
            mapper[mark, new] = 1 / len(new)


def hand_over(mapper: Tensor, source: list[int], target: list[int]) -> None:
    """Let the target tokens take the source tokens' maps: one to one, or equal shares of their sum."""
    if len(source) == len(target):
        mapper[source, target] = 1
    else:
        for token in target:
            mapper[source, token] = 1 / len(target)


def hand_over_padding(mapper: Tensor, source: int, target: int) -> None:
    """Pair the padding behind two prompts of these lengths one to one; what is left over joins the last pair."""
    positions = len(mapper)
    pads, takers = list(range(source, positions)), list(range(target, positions))
    if not pads or not takers:
        if pads:  # the target fills every position: its end token takes the source's padding
            mapper[pads, positions - 1] = 1
        return
    shared = min(len(pads), len(takers)) - 1
    mapper[pads[:shared], takers[:shared]] = 1
    rest, left = pads[shared:], takers[shared:]
    for taker in left:
        mapper[rest, taker] = 1 / len(left)


def _reference_replace_mapper(tokenizer: Any, source: str, target: str, positions: int) -> Tensor:
    a, b = source.split(" "), target.split(" ")
    _check_counts(a, b, source, target)
    swapped = [i for i, (old, new) in enumerate(zip(a, b, strict=True)) if old != new]
    pairs = [(reference_indices(tokenizer, source, i), reference_indices(tokenizer, target, i)) for i in swapped]
    mapper = torch.zeros(positions, positions)
    i = j = 0
    while i < positions and j < positions:
        if pairs and not pairs[0][0]:
            raise _not_found(a[swapped[-len(pairs)]], source)
        if pairs and pairs[0][0][0] == i:
            old, new = pairs.pop(0)
            if not new or max(old + new) >= positions:
                raise _not_found(b[swapped[-len(pairs) - 1]], target)
            hand_over(mapper, old, new)
            i, j = i + len(old), j + len(new)
            continue
        # After the last swapped word the reference writes the target's index for both.
        mapper[i if pairs else j, j] = 1
        i, j = i + 1, j + 1
    return mapper


def _not_found(word: str, prompt: str) -> ValueError:
    return ValueError(
        f"the reference's look-up does not find the swapped word {word!r} in {prompt!r}: double spaces, characters "
        "that are not in the tokens, or the last position are in its way. Use behaviour=corrected."
    )


def refine_mapper(tokenizer: Any, source: str, target: str, behaviour: str = "corrected") -> tuple[Tensor, Tensor]:
    """Return (mapper, alphas), both (77,): the source token of each target token, and 1 where there is one.

    Tokens are paired by Needleman-Wunsch alignment; a target token without a partner has mapper -1, alpha 0
    and keeps its own map. Padding takes the source's padding; in the reference behaviours it takes whatever
    stands at the same position, which is a word if the source is longer, and a longer source is not refused.
    """
    positions = tokenizer.model_max_length
    if behaviour == "corrected":
        a, b = read_prompt(tokenizer, source).ids, read_prompt(tokenizer, target).ids
    else:
        a, b = encode(tokenizer, source), encode(tokenizer, target)
    if len(b) > positions:
        raise ValueError(f"the prompt {target!r} has {len(b)} tokens; the model reads {positions}. Shorten it.")
    mapper = torch.arange(positions)
    mapper[: len(b)] = torch.tensor(align(a, b))
    alphas = torch.ones(positions)
    if behaviour == "corrected":
        mapper[len(b) :] = torch.arange(len(a), len(a) + positions - len(b)).clamp(max=positions - 1)
        if len(a) == positions:
            mapper[len(b) :] = -1
    alphas[mapper < 0] = 0
    return mapper, alphas


def align(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """Return for each target token the source token aligned with it, or -1 (Needleman & Wunsch 1970).

    Ties are broken in the reference's order: skip a target token, skip a source token, pair.
    """
    rows, columns = len(source) + 1, len(target) + 1
    score = [[0] * columns for _ in range(rows)]
    for i in range(1, rows):
        for j in range(1, columns):
            pair = MATCH if source[i - 1] == target[j - 1] else MISMATCH
            score[i][j] = max(score[i][j - 1] + GAP, score[i - 1][j] + GAP, score[i - 1][j - 1] + pair)
    partner = [-1] * len(target)
    i, j = rows - 1, columns - 1
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1] + GAP:
            j -= 1
        elif score[i][j] == score[i - 1][j] + GAP:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partner[j] = i
    return partner
