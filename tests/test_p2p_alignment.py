"""Properties of the corrected alignment, windows and word look-up."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from likeness.prompt_to_prompt.alignment import refine_mapper, replace_mapper
from likeness.prompt_to_prompt.edits import Refine, Replace, Reweight
from likeness.prompt_to_prompt.schedule import cross_alphas, self_window
from likeness.prompt_to_prompt.words import locate, need, read_prompt

TOKENIZER = CLIPTokenizer.from_pretrained(Path(__file__).parent / "golden" / "pipe" / "tokenizer")
WORDS = [
    "a",
    "photo",
    "of",
    "cat",
    "lasagne",
    "bnh",
    "tuki",
    "burger",
    "capybara",
    "on",
    "snowy",
    "keanu",
    "dog's",
    "cat,",
]
WORDS += ["(dog)", "lasagne.", "&"]
prompts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12)


def tokens(prompt, word):
    return locate(read_prompt(TOKENIZER, prompt), word)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_replace_rows_sum_to_one_whatever_the_token_counts(data):
    source = data.draw(prompts)
    target = data.draw(st.lists(st.sampled_from(WORDS), min_size=len(source), max_size=len(source)))
    mapper = replace_mapper(TOKENIZER, " ".join(source), " ".join(target))
    torch.testing.assert_close(mapper.sum(1), torch.ones(77))
    if source == target:
        assert torch.equal(mapper, torch.eye(77))


@settings(max_examples=60, deadline=None)
@given(prompts, prompts)
def test_refine_takes_each_map_from_one_equal_token(source, target):
    mapper, alphas = refine_mapper(TOKENIZER, " ".join(source), " ".join(target))
    a, b = read_prompt(TOKENIZER, " ".join(source)).ids, read_prompt(TOKENIZER, " ".join(target)).ids
    assert set(alphas.tolist()) <= {0.0, 1.0} and alphas[0] == 1 and mapper[0] == 0
    partners = [int(mapper[t]) for t in range(len(b)) if alphas[t] == 1]
    assert partners == sorted(set(partners))  # in order, each source token at most once
    assert all(a[int(mapper[t])] == b[t] for t in range(len(b)) if alphas[t] == 1)
    assert all(int(mapper[t]) >= len(a) for t in range(len(b), 77))  # padding takes padding, never a word


@settings(max_examples=60, deadline=None)
@given(prompts)
def test_identity_edits_take_every_map_from_its_own_token(words):
    """Sampling alone would not show it: with equal prompts a target's own maps are the source's."""
    prompt, weights = " ".join(words), dict.fromkeys(words, 1.0)
    assert refine_mapper(TOKENIZER, prompt, prompt)[1].all()
    for edit in (
        Replace(prompt),
        Refine(prompt),
        Reweight(None, weights),
        Reweight(prompt, weights, over=Refine(prompt)),
    ):
        matrix, own = edit.mapping(TOKENIZER, prompt, "corrected")
        assert torch.equal(matrix, torch.eye(77)) and not own.any()


def test_trailing_words_stay_aligned_when_a_swap_changes_the_token_count():
    """The reference's quirk 1: after burger -> lasagne it reads the wrong column."""
    source, target = "a photo of a burger on a table", "a photo of a lasagne on a table"
    corrected = replace_mapper(TOKENIZER, source, target)
    reference = replace_mapper(TOKENIZER, source, target, "reference_stable")
    (from_,), (to,) = tokens(source, "table"), tokens(target, "table")
    assert corrected[from_, to] == 1 and reference[from_, to] == 0
    assert corrected[:, tokens(target, "lasagne")].sum() == 1


@pytest.mark.parametrize(
    ("old", "new", "old_tokens", "new_tokens"),
    [
        ("burger,", "lasagne,", ([5], [6]), ([5, 6], [7])),  # one token and a comma, two and a comma
        ("lasagne.", "cat!", ([5, 6], [7]), ([5], [6])),
        ("(lasagne)", "[cat]", ([5], [6, 7], [8]), ([5], [6], [7])),
        ("&", "cat", ([5],), ([5],)),
    ],
)
def test_punctuation_takes_the_map_of_punctuation(old, new, old_tokens, new_tokens):
    """Split at white space "burger," is one word; its comma has a token of its own, which Refine aligns too."""
    mapper, own = Replace(f"a photo of a {new}").mapping(TOKENIZER, f"a photo of a {old}", "corrected")
    expected = torch.zeros(77, 77)
    for group, new_group in zip(old_tokens, new_tokens, strict=True):
        expected[torch.tensor(group)[:, None], torch.tensor(new_group)] = 1 / len(new_group)
    span = slice(5, 5 + sum(map(len, old_tokens)))
    assert torch.equal(mapper[span], expected[span]) and not own.any()


def test_a_new_mark_keeps_its_own_map_and_a_dropped_one_joins_its_word():
    comma = len(read_prompt(TOKENIZER, "a photo of a lasagne").ids) - 1
    mapper, own = Replace("a photo of a lasagne, on").mapping(TOKENIZER, "a photo of a burger on", "corrected")
    assert own.nonzero().tolist() == [[comma]] and not mapper[:, comma].any()
    assert mapper[5, 5] == mapper[5, 6] == 0.5
    mapper, own = Replace("a photo of a lasagne on").mapping(TOKENIZER, "a photo of a burger, on", "corrected")
    assert mapper[5, 5:7].tolist() == mapper[6, 5:7].tolist() == [0.5, 0.5] and not own.any()


def test_refine_padding_does_not_read_words_of_a_longer_source():
    source, target = "a photo of a cat on a snowy table", "a photo of a cat"
    corrected, _ = refine_mapper(TOKENIZER, source, target)
    reference, _ = refine_mapper(TOKENIZER, source, target, "reference_stable")
    first_pad = len(read_prompt(TOKENIZER, target).ids)
    assert reference[first_pad] == first_pad < len(read_prompt(TOKENIZER, source).ids) <= corrected[first_pad]


@pytest.mark.parametrize(
    ("prompt", "word", "expected"),
    [
        ("A painting of a bnh keanu reeves eating a burger", "keanu reeves", [7, 8]),
        ("A painting of a bnh keanu reeves eating a burger", "BNH", [5, 6]),
        ("a cat, a dog and a bird", "cat", [2]),
        ("a cat, a dog and a bird", "cat,", [2]),
        ("a photo  of a cat on a mat", "mat", [8]),
        ("a cat and a cat on a cat", "cat", [2, 5, 8]),
        ("a #1 dad mug", "mug", [5]),
        ("a photo of a cat", "ca", []),
        ("a dog's house", "dog", [2]),
        ("a cat on a mat", "(cat)", [2]),
        ("a cat on a mat", '"cat"', [2]),
        ("a (cat) on a mat", "cat", [3]),
        ('a "cat" on a mat', "'cat',", [3]),
        ("a ((cat)), a “cat”", "[cat]", [3, 9]),
        ("one o'sullivan at home", "O'Sullivan", [2, 3, 4]),
        ("one O’Sullivan, at home", "(o'sullivan)", [2, 3, 4, 5]),
        ("o'sullivan's dog", "o'sullivan", [1, 2, 3]),
        ("a dog’s house", "dog's", [2, 3, 4, 5]),
        ("a well-known cat", "well-known", [2, 3, 4]),
        ("a well‑known cat", '"Well-Known"', [2, 3, 4, 5]),
        ("jack-o'-lantern", "jack-o'-lantern", [1, 2, 3, 4, 5]),
        ("a cafe\u0301 cat", "caf\u00e9", [2]),
        ("a caf\u00e9 cat", "(cafe\u0301)", [2]),
        ("a cafe\u0301, and cats", "cafe\u0301", [2]),
        ("a cat 🐱", "cat 🐱", [2, 3]),
        ("a cat on a mat", "cat 🐱", []),
        ("a cat, on a mat", ",", [3]),
        ("a cat", "...", []),
        ("a cat", "", []),
        ("cat cats", "cat", [1]),
    ],
)
def test_words_are_found_as_people_mean_them(prompt, word, expected):
    assert tokens(prompt, word) == expected


def test_an_added_token_is_found_with_the_brackets_it_is_written_with():
    tokenizer = CLIPTokenizer.from_pretrained(Path(__file__).parent / "golden" / "pipe" / "tokenizer")
    tokenizer.add_tokens(["<toy>"])
    prompt = read_prompt(tokenizer, "a <toy> and a toy cat")
    assert locate(prompt, "<toy>") == [2] and locate(prompt, "toy") == [5] and locate(prompt, "a <toy>") == [1, 2]


def test_an_absent_word_is_an_error_that_lists_the_words():
    with pytest.raises(ValueError, match=r"'cake'.*eating, a, burger"):
        need(read_prompt(TOKENIZER, "eating a burger"), "cake", "a word to re-weight")
    with pytest.raises(ValueError, match="not in the prompt"):
        cross_alphas(TOKENIZER, "eating a burger", {"cake": 0.4}, 10)


def test_a_prompt_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="77"):
        read_prompt(TOKENIZER, "cat " * 80)


def test_windows_are_not_cut_by_float_rounding():
    assert self_window(0.58, 50) == (0, 29)
    assert self_window(0.58, 50, "reference_stable") == (0, 28)
    alphas = cross_alphas(TOKENIZER, "a cat", {"default_": (0.2, 0.8), "cat": 1}, 10)
    assert alphas[:, 1].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]
    assert alphas[:, 2].tolist() == [1] * 10


@pytest.mark.parametrize("window", [1.2, -0.1, (0.5, 0.2), (0, 0.2, 0.4), "half", True])
def test_impossible_windows_are_errors(window):
    with pytest.raises(ValueError, match="expected"):
        self_window(window, 10)
