"""A byte-level BPE tokenizer with DeepSeek-V3's layout of ids, trained on the questions.

ids: 0 begin, 1 end, 2 pad; 3..258 the 256 byte characters in order of their code points; then the merges; then the
added tokens of R1 (<think>, </think>, fill-in-the-middle, User, Assistant, end of turn, tool marks). No merge contains a
digit, so that every digit is a token of its own whatever the pre-tokenizer groups.
"""
import json
import random
import re
from collections import Counter

from . import tasks

SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
ADDED = ["<think>", "</think>", "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>",
         "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
         "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
         "<｜tool▁sep｜>"]
MERGES = 172

# DeepSeek-V3's published patterns, as tokenizer.json holds them.
SPLITS = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
          r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
          r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""]

# The same for ASCII, with Python's re: what the training texts consist of (× and ÷ are symbols).
PIECES = re.compile(r"""[0-9]{1,3}|[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\nA-Za-z0-9!-/:-@\[-`{-~×÷]?[A-Za-z]+"""
                    r"""| ?[!-/:-@\[-`{-~×÷]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")


def byte_characters():
    """The printable stand-in of each byte, as GPT-2 chose them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


class Tokenizer:
    def __init__(self, merges):
        self.bytes = byte_characters()
        self.merges = merges
        names = SPECIAL + sorted(self.bytes.values()) + [a + b for a, b in merges]
        self.bpe = {name: i for i, name in enumerate(names)}
        self.added = {name: len(names) + i for i, name in enumerate(ADDED)}
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.size = len(names) + len(ADDED)
        self.cache = {}
        self.names = names + ADDED
        self.unbyte = {c: b for b, c in self.bytes.items()}

    def _piece(self, piece):
        ids = self.cache.get(piece)
        if ids is None:
            parts = [self.bytes[b] for b in piece.encode()]
            while len(parts) > 1:
                best = min(range(len(parts) - 1), key=lambda i: self.rank.get((parts[i], parts[i + 1]), 1 << 30))
                if (parts[best], parts[best + 1]) not in self.rank:
                    break
                parts[best:best + 2] = [parts[best] + parts[best + 1]]
            ids = [self.bpe[p] for p in parts]
            if len(self.cache) < 200000:
                self.cache[piece] = ids
        return ids

    def encode(self, text):
        """Plain text; special tokens are put in by id."""
        ids = []
        for piece in PIECES.findall(text):
            ids += self._piece(piece)
        return ids

    def decode(self, ids):
        text = b""
        for i in ids:
            name = self.names[i]
            known = i >= len(SPECIAL) and i < len(self.bpe)
            text += bytes(self.unbyte[c] for c in name) if known else name.encode()
        return text.decode(errors="replace")

    def json(self):
        def token(i, content, special):
            return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                    "normalized": not special, "special": special}
        split = [{"type": "Split", "pattern": {"Regex": s}, "behavior": "Isolated", "invert": False} for s in SPLITS]
        level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        added = [token(i, s, True) for i, s in enumerate(SPECIAL)]
        added += [token(i, s, s == "<|EOT|>") for s, i in self.added.items()]
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
                "normalizer": {"type": "Sequence", "normalizers": []},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": split + [
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
                "post_processor": {**level, "trim_offsets": False}, "decoder": level,
                "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                          "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": self.bpe,
                          "merges": [f"{a} {b}" for a, b in self.merges]}}


def train(seed, texts=60000):
    """Counts the pieces of `texts` drawn examples and merges the most frequent neighbours, MERGES times."""
    rng, table, counts = random.Random(seed), byte_characters(), Counter()
    draws = [t[0] for t in tasks.TASKS.values()]
    weights = [t[1] for t in tasks.TASKS.values()]
    for _ in range(texts):
        item = rng.choices(draws, weights)[0](rng)
        text = item.question + "\n" + "\n".join(item.lines) + "\n\n" + item.answer
        counts.update(p for p in PIECES.findall(text) if not p.isdigit())
    words = [[tuple(table[b] for b in piece.encode()), n] for piece, n in counts.most_common(8000)]
    merges = []
    while len(merges) < MERGES:
        pairs = Counter()
        for word, n in words:
            for pair in zip(word, word[1:]):
                if not any(c.isdigit() for c in pair[0] + pair[1]):
                    pairs[pair] += n
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        for entry in words:
            entry[0] = merge(entry[0], best)
    return Tokenizer(merges)


def merge(word, pair):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def save(tokenizer, path):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tokenizer.json(), f, ensure_ascii=False, separators=(",", ":"))
