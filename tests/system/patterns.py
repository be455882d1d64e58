"""Patterns of pre-tokenizers, for tests in Python and for tests/data/tokenizer/make.py."""
# Patterns of published models, and one for each thing the two dialects say differently.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = [GPT2, LLAMA3, GPT4O, KIMI, r"\w+", r"\W+", r"[\W\d]+", r"[^\W\d]+", r"\s", r"\S+", r"[\S]", r"[^\S\n]+", r"\d+", r"\D+",
            r"\h+", r"\H+", r"\v", r"\bx|\b1", r"a\B", r"\n$", r"^.", r".+", r"(?m:.+)", r"a{1,2}+", r"a{2}?", r"a{,2}", r"a{,}", r"a{1",
            r"e++", r"a*", r"", r"(?:)", r"[a-c-e]", r"[\w-]+", r"[-a]+", r"[+--]+", r"[a-z&&[^aeiou]]+", r"[a-z&&^e]+", r"[a[bc]d]+",
            r"[^a[bc]]+", r"\p{^L}+", r"\P{^L}+", r"\p{Letter}+", r"\p{Uppercase_Letter}", r"\p{lu}", r"\p{Greek}+",
            r"\p{Hiragana}|\p{Katakana}", r"\p{Han}+", r"(?i)THE|x", r"x(?i)A|b", r"(?:(?i)T|h)e", r"(?-i:T)he", r"\x41|\u0042|\x{43}", r"\t|\n|\r|\f|\e|\a", r"[\b\t]",
            r"(?<=a)b|(?<!a)c", r"(?=a).", r"(?>a+)b?", r"(?<name>t)he", r"(t)he", r"(?#no)the", r"a**", r"a+*", r"\A.|.\z", r".\Z",
            r"\.\*", r"[\]\[\\]", r"]|}", r"\/", r"#| x", r"\u00e9", "\u00e9", "[\u00e0-\u00ff]+", r"(?:a|b|(?:c|d)+)?e"]
REFUSED = [r"(?x)a", r"\R", r"\X", r"\K", r"\G", r"(a)\1", r"(?R)", r"(?|a)", r"(?P<n>a)", r"(?s:.)", r"[[:alpha:]]", r"(", r")", r"[a", r"[]a]",
           r"*a", r"a|+", r"^*", r"[z-a]", r"[a-\d]", r"[\w-.]", r"\p{Foo}", r"\p{Alpha}", r"\p{L", r"\pL", r"(?~a)", r"a{100000}", r"\x80", r"[a&&]", "\\"]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
