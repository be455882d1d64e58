#!/usr/bin/env python3
"""Writes tokenizer.json, vectors.jsonl and splits.jsonl beside this file, with Hugging Face's tokenizers as the reference.

usage: pip install tokenizers==0.23.3 && make.py

The vocabulary is trained on the sentences below; the pre-tokenizer is that of DeepSeek-V3. The added tokens have every
flag. Each line of vectors.jsonl: text, ids, decoded, decoded_skip_special (as in the test data for DeepSeek-V3), and
plain: the ids when added tokens are not looked for. Each line of splits.jsonl: a Split, texts, and the pieces of each.
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "../../system"))
from patterns import BEHAVIORS, PATTERNS

SENTENCES = """The proa is a sailing boat with two unequal hulls, built on the islands of the Pacific.
Its smaller hull always faces the wind; to tack, the crew moves the mast from one end to the other.
Speeds of 20 knots were reported in 1742, when European ships made 8 or 9 on a good day.
int main(void) { return 0; } /* the smallest program that does what it says: nothing, quickly */
for (size_t i = 0; i < count; i++) { total += values[i]; }
Das Boot fährt schnell über das Wasser. Le bateau glisse sur l'eau, n'est-ce pas ?
船はとても速い。小さな島から大きな島へ、風に乗って走る。
这条船很快。它从小岛驶向大岛，乘风而行。
"quoted", 'single', (brackets), [more], <angles> & ampersands; 100%, $3.50, a@b.c, #1, ~x, ^y, `z`, |w|
""".split("\n")
ADDED = [
    AddedToken("<|bos|>", special=True, normalized=False),
    AddedToken("<|eos|>", special=True, normalized=False),
    AddedToken("<think>", special=False, normalized=True),
    AddedToken("</think>", special=False, normalized=True),
    AddedToken("<think><think>", special=False, normalized=True),
    AddedToken("<|left|>", special=True, normalized=False, lstrip=True),
    AddedToken("<|right|>", special=True, normalized=False, rstrip=True),
    AddedToken("<|both|>", special=True, normalized=False, lstrip=True, rstrip=True),
    AddedToken("island", special=False, normalized=False, single_word=True),
    AddedToken("<|word|>", special=True, normalized=True, single_word=True, lstrip=True),
    AddedToken("<\uff5cUser\uff5c>", special=False, normalized=True),
    AddedToken("  two spaces", special=False, normalized=False),
    AddedToken("<|bos|", special=False, normalized=True),
    AddedToken("na\u00efve", special=False, normalized=False),
    AddedToken("\u0120spelt", special=False, normalized=False),
]
WORDS = ["the", " proa", " island", "island", "islands", "x", "_", "9", "1742", "\u0660\u0661", "\u00bd", " ", "  ", "\t", "\n", "\r\n",
         "\u3000", "\u00a0", "\u2028", "\u0085", "\u200d", "\u180e", ".", "...", "?!", "$", "<", "<|", "|>", "\u8239", "\u3057\u305f", "\u5c0f\u5c9b", "\u9fa6",
         "e\u0301", "\U0001f469\u200d\U0001f4bb", "\U0001fae8", "\U0002ebf0", "\u0627\u0644", "\x00", "\x1b", "'s", "I'll", "a" * 60]
WORDS += [t.content for t in ADDED]


def train():
    tokenizer = Tokenizer(models.BPE())
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        split(r"\p{N}{1,3}"),
        split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
              r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_tokens(ADDED)
    return tokenizer


SPLIT_TEXTS = ["aaaaaaa b abcde", "a\na\n", "x\nxx", "The the tHE xab, I'LL don't", "[a-c]\\{}*.# x /+,-", "ABC \u00e9\u00ea\u00df \u00b2\u00bd 12345",
               "\u8239\u3057\u305f\u30ab Qu\u00e9 \u03b1\u03b2!?\r\n  \t\u180e\u3000\x0b", "e\u0301\u0364 \U0001fae8\U0002ebf0x \ue000\u0378"]


def splits():
    """Every behavior with a few patterns, every pattern with some behavior."""
    draw = random.Random(1742)
    cases = [(r"\s|a*", b, i) for b in BEHAVIORS for i in (False, True)]
    cases += [(p, draw.choice(BEHAVIORS[1:]), draw.random() < 0.2) for p in PATTERNS]
    for pattern, behavior, invert in cases:
        name = "".join("_" + c.lower() if c.isupper() else c for c in behavior)[1:]
        reference = pre_tokenizers.Split(Regex(pattern), name, invert)
        config = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
        pieces = [[piece for piece, _ in reference.pre_tokenize_str(text)] for text in SPLIT_TEXTS]
        yield {"split": config, "texts": SPLIT_TEXTS, "pieces": pieces}


def main():
    tokenizer = train()
    tokenizer.save(str(HERE / "tokenizer.json"), pretty=False)
    plain = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))
    draw = random.Random(1742)
    texts = SENTENCES + [t.content for t in ADDED] + [" " + t.content + " " for t in ADDED] + ["", "aaaa" * 500]
    texts += ["".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(200)]
    with open(HERE / "vectors.jsonl", "w", encoding="utf-8") as out:
        for text in texts:
            ids = tokenizer.encode(text).ids
            line = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                    "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True),
                    "plain": plain.encode(text).ids}
            out.write(json.dumps(line) + "\n")
    with open(HERE / "splits.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in splits())


main()
