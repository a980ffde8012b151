"""The reference Prompt-to-Prompt written down naively from its description, as a second opinion for tests.

It forms every attention map, loops where ours indexes, and raises `Refused` wherever the reference stops with an
error. Independent of `likeness.prompt_to_prompt`; nothing here is fast.
"""

import numpy as np
import torch
import torch.nn.functional as F

POSITIONS = 77


class Refused(Exception):
    """The reference stops here."""


def token_ids(tokenizer, text):
    return list(tokenizer(text, verbose=False).input_ids)


def word_indices(tokenizer, text, place):
    """Walk over the tokens with a pointer to a word; characters seen so far decide when the word is over."""
    words = text.split(" ")
    wanted = {place} if isinstance(place, int) else {i for i, word in enumerate(words) if word == place}
    if not wanted:
        return []
    positions, pointer, seen = [], 0, 0
    for number, token in enumerate(token_ids(tokenizer, text)[1:-1]):
        seen += len(tokenizer.decode([token]).strip().strip("#"))
        if pointer in wanted:
            positions.append(number + 1)
        if pointer >= len(words):
            raise Refused("the pointer left the words")
        if seen >= len(words[pointer]):
            pointer, seen = pointer + 1, 0
    return positions


def positions_of(tokenizer, text, word):
    """Word indices that are used to index 77 columns."""
    found = word_indices(tokenizer, text, word)
    if found and found[-1] >= POSITIONS:
        raise Refused("index out of range")
    return found


def replace_map(tokenizer, source, target):
    """Return M (77, 77), [source position, target position]."""
    a, b = source.split(" "), target.split(" ")
    if len(a) != len(b):
        raise Refused("word counts")
    spans = [
        (word_indices(tokenizer, source, k), word_indices(tokenizer, target, k)) for k in range(len(a)) if a[k] != b[k]
    ]
    m = np.zeros((POSITIONS, POSITIONS), dtype=np.float64)
    s = t = done = 0
    while max(s, t) < POSITIONS:
        if done == len(spans):  # all swaps are behind: the reference forgets how far the source has come
            m[t, t] = 1
            s, t = s + 1, t + 1
            continue
        old, new = spans[done]
        if not old:
            raise Refused("a swapped word was not found")
        if old[0] != s:
            m[s, t] = 1
            s, t = s + 1, t + 1
            continue
        if not new:
            raise Refused("division by zero")
        if max(old + new) >= POSITIONS:
            raise Refused("a swapped word crosses the last position")
        for k, column in enumerate(new):
            for row in [old[k]] if len(old) == len(new) else old:
                m[row, column] = 1 if len(old) == len(new) else 1 / len(new)
        s, t, done = s + len(old), t + len(new), done + 1
    return m.astype(np.float32)


def refine_map(tokenizer, source, target):
    """Return (mapper, alphas), (77,) each, by Needleman-Wunsch; ties go left, then up, then diagonal."""
    x, y = token_ids(tokenizer, source), token_ids(tokenizer, target)
    best = np.zeros((len(x) + 1, len(y) + 1), dtype=int)
    move = np.full(best.shape, "?")
    move[0, :], move[:, 0] = "L", "U"
    for i, a in enumerate(x, 1):
        for j, b in enumerate(y, 1):
            choices = {"L": best[i, j - 1], "U": best[i - 1, j], "D": best[i - 1, j - 1] + (1 if a == b else -1)}
            best[i, j] = max(choices.values())
            move[i, j] = next(name for name in "LUD" if choices[name] == best[i, j])
    pairs, i, j = {}, len(x), len(y)
    while i or j:
        step = move[i, j]
        if step == "D":
            pairs[j - 1] = i - 1
        elif step == "L":
            pairs[j - 1] = -1
        i, j = i - (step in "UD"), j - (step in "LD")
    if len(y) > POSITIONS:
        raise Refused("too long")
    mapper = [pairs[k] if k < len(y) else k for k in range(POSITIONS)]
    return np.array(mapper), np.array([0.0 if k == -1 else 1.0 for k in mapper], dtype=np.float32)


def alphas(tokenizer, targets, windows, steps):
    """Return (steps + 1, targets, 77) of 0 and 1."""
    windows = dict(windows) if isinstance(windows, dict) else {"default_": windows}
    out = np.zeros((steps + 1, len(targets), POSITIONS))

    def fill(window, target, tokens):
        if type(window) is float:
            window = (0, window)
        if isinstance(window, int):
            raise Refused("not subscriptable")
        first, last = (int(edge * (steps + 1)) for edge in window)
        for step in range(steps + 1):
            out[step, target, tokens] = 1 if first <= step < last else 0

    for target in range(len(targets)):
        fill(windows.get("default_", (0.0, 1.0)), target, list(range(POSITIONS)))
    for word, window in windows.items():
        for target, prompt in enumerate(targets):
            tokens = [] if word == "default_" else positions_of(tokenizer, prompt, word)
            if tokens:
                fill(window, target, tokens)
    return out


def equalizer_stable(tokenizer, text, words, values):
    """One list of values for every word: a single one, or as many as the word has tokens."""
    out = np.ones(POSITIONS, dtype=np.float32)
    for word in words:
        tokens = positions_of(tokenizer, text, word)
        if len(values) not in (1, len(tokens)):
            raise Refused("shapes")
        for k, token in enumerate(tokens):
            out[token] = values[0 if len(values) == 1 else k]
    return out


def equalizer_null(tokenizer, text, words, values):
    """One value per word."""
    out = np.ones(POSITIONS, dtype=np.float32)
    for word, value in zip(words, values, strict=False):
        out[positions_of(tokenizer, text, word)] = value
    return out


def selection(tokenizer, prompts, words):
    out = torch.zeros(len(prompts), POSITIONS)
    for row, (prompt, entry) in enumerate(zip(prompts, words, strict=True)):
        for word in [entry] if isinstance(entry, str) else entry:
            out[row, positions_of(tokenizer, prompt, word)] = 1
    return out


def blend_mask(maps, chosen, size, threshold, pooled):
    """Mask (prompts, 1, h, w) from maps (prompts, layers * heads, y, x, 77), not yet joined with the source's."""
    heat = (maps * chosen[:, None, None, None]).sum(-1).mean(1, keepdim=True)
    if pooled:
        padded = F.pad(heat, (1, 1, 1, 1), value=float("-inf"))
        height, width = heat.shape[-2:]
        shifts = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
        heat = torch.stack(shifts).amax(0)
    rows = torch.arange(size[0]) * heat.shape[-2] // size[0]
    columns = torch.arange(size[1]) * heat.shape[-1] // size[1]
    heat = heat[..., rows[:, None], columns]
    return heat / heat.amax((2, 3), keepdim=True) > threshold


class Controller:
    """Edits attention probabilities in place, and keeps what it left there, as the reference's controllers do.

    `base_map(source_maps, target_maps, target_index)` is the cross-attention edit before its window.
    """

    def __init__(self, limit, base_map, alpha, self_steps, prompts):
        self.limit, self.base_map, self.alpha, self.self_steps = limit, base_map, alpha, self_steps
        self.prompts, self.step, self.sums, self.now = prompts, 0, {}, []

    def __call__(self, probs, is_cross, place):
        """Probabilities (guidance halves * prompts * heads, q, k); the conditional half is edited."""
        half = probs[len(probs) // 2 :].unflatten(0, (self.prompts, -1))
        if half.shape[2] <= 32 * 32:
            self.now.append((place, is_cross, half))
        source = half[0].clone()
        for target in range(1, self.prompts):
            if is_cross:
                alpha = torch.as_tensor(self.alpha[self.step, target - 1], dtype=probs.dtype)
                new = self.base_map(source, half[target].clone(), target - 1)
                half[target] = new * alpha + (1 - alpha) * half[target]
            elif self.self_steps[0] <= self.step < self.self_steps[1] and half.shape[2] <= self.limit:
                half[target] = source

    def end_of_step(self):
        for number, (place, is_cross, maps) in enumerate(self.now):
            key = (place, is_cross, number)
            self.sums[key] = self.sums.get(key, 0) + maps
        self.now, self.step = [], self.step + 1

    def blend_maps(self):
        """The 16x16 cross maps that the reference picks, (prompts, layers * heads, 16, 16, 77)."""
        cross = {p: [m for (place, c, _), m in self.sums.items() if c and place == p] for p in ("down", "up")}
        return torch.cat([m.unflatten(2, (16, 16)) for m in cross["down"][2:4] + cross["up"][:3]], 1)


class NaiveAttention:
    """A diffusers attention processor that forms the probabilities and lets a controller edit them."""

    def __init__(self, controller, place, is_cross):
        self.controller, self.place, self.is_cross = controller, place, is_cross

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(layer(states))
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        probs = attn.get_attention_scores(q, k, None)
        self.controller(probs, self.is_cross, self.place)
        return attn.to_out[0](attn.batch_to_head_dim(probs @ v))
