"""A CLIPTokenizer whose vocabulary is trained on the captions, with fall-back to characters.

Words of the grammar become one or two tokens; `bnh`, `tuki` and other nonsense become several, as they do in
Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from likeness.paperdoll.checkpoints import write_json

START, END = "<|startoftext|>", "<|endoftext|>"
POSITIONS = 77


def learn_merges(words: dict[str, int], limit: int, *, least: int = 3) -> list[tuple[str, str]]:
    """Return byte-pair merges, most frequent pair first (Sennrich et al. 2016, algorithm 1).

    `words` counts lower-case words; pairs seen fewer than `least` times are not merged.
    """
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words if word}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: dict[tuple[str, str], int] = {}
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] = pairs.get(pair, 0) + words[word]
        best = max(pairs.items(), key=lambda item: (item[1], item[0]), default=(None, 0))
        if best[1] < least:
            break
        merges.append(best[0])
        split = {word: merged(parts, best[0]) for word, parts in split.items()}
    return merges


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def train_tokenizer(captions: Iterable[str], folder: Path, *, vocabulary: int = 1024) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json for `CLIPTokenizer.from_pretrained(folder)`.

    Only words that make up at least 1 in 20,000 are merged whole, so rare nonsense stays characters.
    """
    from tokenizers import Regex, pre_tokenizers

    counts: dict[str, int] = {}
    splitter = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    for caption in captions:
        for word, _ in splitter.pre_tokenize_str(caption.lower()):
            counts[word] = counts.get(word, 0) + 1
    common = max(3, sum(counts.values()) // 20_000)
    words = {w: n for w, n in sorted(counts.items()) if n >= common and w.isascii()}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = [*alphabet, *(c + "</w>" for c in alphabet)]
    merges = learn_merges(words, vocabulary - len(base) - 2)
    pieces = [*base, *dict.fromkeys(a + b for a, b in merges)]
    vocab = {piece: index for index, piece in enumerate([*pieces, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    settings = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": POSITIONS, "do_lower_case": True,
        "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
    }  # fmt: skip
    write_json(folder / "special_tokens_map.json", {k: v for k, v in settings.items() if k.endswith("token")})
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "vocab.json", vocab)


def load_tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def encode(tokenizer, captions: list[str]):
    """Return token ids (n, 77), padded and cut as Stable Diffusion does."""
    return tokenizer(
        captions, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
    ).input_ids
