"""`proa tokenize` and `proa detokenize` against Hugging Face's tokenizers, on random text and random patterns."""
import json
import random

import pytest
from tokenizers import Tokenizer

from patterns import BEHAVIORS, PATTERNS, REFUSED

SEED = 20250120
SPECIAL = "<\uff5cUser\uff5c> <think> </think> <\uff5cbegin\u2581of\u2581sentence\uff5c> <\uff5ctool\u2581sep\uff5c> <|EOT|> <|".split()
CLUSTERS = ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1eb\U0001f1f7", "\U0001f44d\U0001f3fd", "\u2764\ufe0f",
            "\U0001fae8", "\U0001fadc", "e\u0301", "a\u0308\u0323", "\u0e01\u0e33", "\u1112\u1161\u11ab", "\u0915\u094d\u0937\u093f", "\u05d0\u05b8", "\ufdfa"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\xa0", "\u1680", "\u180e", "\u2003", "\u200b",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff"]
WORDS = "the of and The quick don't I'll we've 3.14 x1 foo_bar camelCase HTTP/1.1 user@example.com C++ --- ... != \u00bfqu\u00e9? na\u00efve stra\u00dfe".split()
RANGES = [(0x00, 0x20), (0x20, 0x7F), (0x7F, 0x100), (0x100, 0x250), (0x300, 0x370), (0x370, 0x600), (0x590, 0x700), (0x900, 0xE80),
          (0x1100, 0x1200), (0x2000, 0x2070), (0x2070, 0x2C00), (0x3000, 0x3130), (0x4E00, 0x9FA6), (0x9FA6, 0xA000), (0xA640, 0xA800),
          (0xAC00, 0xD7A4), (0xE000, 0xE100), (0xFB00, 0xFE00), (0xFE00, 0x10000), (0x10000, 0x11000), (0x1D100, 0x1D800),
          (0x1F000, 0x1FB00), (0x20000, 0x20100), (0x2EBF0, 0x2EE5E), (0x31350, 0x31380), (0xE0000, 0xE0200), (0x10FF00, 0x110000)]


def random_part(draw):
    kind = draw.random()
    if kind < 0.25:
        return draw.choice(WORDS)
    if kind < 0.45:
        return draw.choice(SPACES)
    if kind < 0.5:
        return draw.choice(SPECIAL)
    if kind < 0.58:
        return draw.choice(CLUSTERS)
    if kind < 0.66:
        return str(draw.randrange(10 ** draw.randrange(1, 12)))
    if kind < 0.7:
        return draw.choice("a .\n\u4e001'") * draw.randrange(1, 80)
    low, high = draw.choice(RANGES)
    return "".join(chr(draw.randrange(low, high)) for _ in range(draw.randrange(1, 6)))


def random_texts(seed, count):
    draw = random.Random(seed)
    return ["".join(random_part(draw) for _ in range(draw.randrange(1, 25))) for _ in range(count)]


def lines(values):
    return "".join(json.dumps(v) + "\n" for v in values)


@pytest.fixture
def tokenize(run):
    def tokenize_texts(folder, texts, **more):
        done = run("tokenize", "--model-path", folder, input=lines({"text": t} for t in texts), **more)
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line)["ids"] for line in done.stdout.splitlines()]

    return tokenize_texts


@pytest.fixture
def detokenize(run):
    def detokenize_ids(folder, ids):
        done = run("detokenize", "--tokenizer-path", folder, input=lines({"ids": i} for i in ids))
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line)["text"] for line in done.stdout.split("\n") if line]

    return detokenize_ids


def assert_same(texts, got, want):
    assert len(got) == len(want)
    wrong = [(t, g, w) for t, g, w in zip(texts, got, want) if g != w]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, the first: {wrong[0]!a}"


@pytest.mark.parametrize("folder", ["tokenizer/deepseek-v3", "models/tiny-r1"])
def test_random_text_both_ways(data, tokenize, detokenize, folder):
    folder = data(folder)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = random_texts(SEED, 4000)
    ids = tokenize(folder, texts)
    assert_same(texts, ids, [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)])
    want = reference.decode_batch(ids, skip_special_tokens=False)
    assert_same(texts, detokenize(folder, ids), want)


@pytest.mark.parametrize("folder", ["tokenizer/deepseek-v3", "models/tiny-r1"])
def test_random_ids_to_text(data, detokenize, folder):
    folder = data(folder)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    draw = random.Random(SEED)
    size = reference.get_vocab_size()
    ids = [[draw.randrange(draw.choice([300, size + 50])) for _ in range(draw.randrange(30))] for _ in range(3000)]
    assert_same(ids, detokenize(folder, ids), reference.decode_batch(ids, skip_special_tokens=False))


def test_every_character(data, tokenize):
    """Each character between letters, digits and signs: its category decides where the text is cut."""
    folder = data("tokenizer/deepseek-v3")
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # private use and unassigned planes are alike; a few of them will do
    characters = [c for c in characters if ord(c) < 0x32500 or 0xE0000 <= ord(c) < 0xE0200 or ord(c) % 997 == 0]
    texts = ["".join(f"a{c}b 1{c}2 .{c}, {c}\n" for c in characters[i:i + 50]) for i in range(0, len(characters), 50)]
    assert_same(texts, tokenize(folder, texts), [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)])


SETS = [r"\w", r"[\w]", r"\W", r"\s", r"\S", r"[\s]", r"\d", r"\h", r"\p{Space}"]
SETS += [r"\p{%s}" % c for c in "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Cn Co".split()]
SETS += [r"\p{%s}" % s for s in "Han Hiragana Katakana Latin Greek Hebrew Hangul Thai".split()]


@pytest.mark.long
def test_every_character_of_every_set(data, tokenize, tmp_path):
    """A character that is in the set is removed from the text."""
    characters = [chr(c) for c in range(0x32500) if not 0xD800 <= c < 0xE000]
    texts = ["".join(characters[i:i + 200]) for i in range(0, len(characters), 200)]
    for pattern in SETS:
        folder = with_split(data("models/tiny-r1"), tmp_path / "t", pattern, "Removed")
        reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
        want = [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
        assert_same([pattern] * len(texts), tokenize(folder, texts), want)


def with_split(folder, target, pattern, behavior="Isolated", invert=False, kind="Regex"):
    """A copy of the tokenizer whose pre-tokenizer is this Split; each piece gets a space before it, so that cuts show."""
    config = json.loads((folder / "tokenizer.json").read_text())
    config["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}]}
    target.mkdir(exist_ok=True)
    (target / "tokenizer.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_the_same(data, tokenize, tmp_path, pattern):
    draw = random.Random(SEED + len(pattern))
    folder = with_split(data("models/tiny-r1"), tmp_path / "t", pattern, draw.choice(BEHAVIORS[1:]), draw.random() < 0.2)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = random_texts(pattern, 150) + ["aaaaaaa b abcde", "a\na\n", "x\nx", "The the tHE xab", "[a]\\{}*.# x /", "ABC", ""]
    assert_same(texts, tokenize(folder, texts), [reference.encode(t, add_special_tokens=False).ids for t in texts])


@pytest.mark.parametrize("behavior", BEHAVIORS)
@pytest.mark.parametrize("invert", [False, True])
def test_behaviors(data, tokenize, tmp_path, behavior, invert):
    for kind, pattern in [("Regex", r"\s|1*"), ("String", "."), ("String", ""), ("String", "a ")]:
        folder = with_split(data("models/tiny-r1"), tmp_path / "t", pattern, behavior, invert, kind)
        reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
        texts = random_texts(behavior, 150) + ["", ".", "..", "a.b", "a..b", ".a.", " a a  a ", "1 11 1"]
        assert_same(texts, tokenize(folder, texts), [reference.encode(t, add_special_tokens=False).ids for t in texts])


@pytest.mark.parametrize("stages", [
    [{"type": "Digits", "individual_digits": True}], [{"type": "Digits", "individual_digits": False}],
    [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}],
    [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]])
def test_other_stages(data, tokenize, tmp_path, stages):
    folder = with_split(data("models/tiny-r1"), tmp_path / "t", "")
    config = json.loads((folder / "tokenizer.json").read_text())
    config["pre_tokenizer"]["pretokenizers"][0:1 if stages[0]["type"] == "Digits" else 2] = stages
    (folder / "tokenizer.json").write_text(json.dumps(config))
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = random_texts(SEED, 500)
    assert_same(texts, tokenize(folder, texts), [reference.encode(t, add_special_tokens=False).ids for t in texts])


@pytest.mark.parametrize("pattern", REFUSED)
def test_other_patterns_are_refused(data, run, tmp_path, pattern):
    folder = with_split(data("models/tiny-r1"), tmp_path / "t", pattern)
    done = run("tokenize", "--model-path", folder, input="")
    assert done.returncode == 1
    assert "pre_tokenizer, stage 1: " in done.stderr


@pytest.mark.parametrize("command,good,bad", [
    ("tokenize", '{"text":"a"}', ["", "{", "[]", '{"text":1}', '{"ids":[1]}', '{"text":"a"} x', '{"text":"\\ud83d"}']),
    ("detokenize", '{"ids":[3]}', ['{"text":"a"}', '{"ids":1}', '{"ids":["1"]}', '{"ids":[-1]}', '{"ids":[1.5]}', '{"ids":[2147483648]}'])])
def test_bad_lines_are_named(data, run, tmp_path, command, good, bad):
    for line in bad:
        file = tmp_path / "lines"
        file.write_text(f"{good}\n\n{line}\n")
        done = run(command, "--model-path", data("models/tiny-r1"), "--input", file)
        assert len(done.stdout.splitlines()) == 1
        if line == "":
            assert done.returncode == 0
        else:
            assert done.returncode == 1
            assert "lines, line 3: " in done.stderr


def test_a_missing_tokenizer_is_named(run, tmp_path):
    done = run("tokenize", input="")
    assert done.returncode == 2 and "--model-path" in done.stderr
    done = run("tokenize", "--model-path", tmp_path, input="")
    assert done.returncode == 1 and f"{tmp_path}/tokenizer.json" in done.stderr
    done = run("tokenize", "--model-path", tmp_path, "--input", tmp_path / "none", input="")
    assert done.returncode == 1


def test_bench_prints_figures(run, data):
    done = run("bench", "tokenizer", "--model-path", data("models/tiny-r1"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["load", "english", "chinese", "run"]
