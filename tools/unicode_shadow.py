#!/usr/bin/env python3
"""Writes src/text/unicode_shadow_table.c: characters whose general category changed between two Unicode versions.

usage: unicode_shadow.py > src/text/unicode_shadow_table.c

The older version is Python's own (run with a Python 3.11: Unicode 14, as PCRE2 10.42 of Debian 12), the newer one
that of unicodedata2 (pip install unicodedata2==16.0.0 fonttools: Unicode 16, as the Oniguruma in Hugging Face's
tokenizers). Each range gets a character of the older version with the same category, the same script where there is
one, and as many bytes in UTF-8.
"""
import unicodedata as old

import unicodedata2 as new
from fontTools.unicodedata import script

OLD, NEW = "14.0.0", "16.0.0"
# Scripts that patterns name: a character of another script must not stand as one of these.
NAMED = set("Arab Cyrl Deva Grek Hang Hani Hebr Hira Kana Latn Thai".split())


def codes():
    return (c for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def main():
    assert (old.unidata_version, new.unidata_version) == (OLD, NEW)
    by_script, by_category = {}, {}
    for c in codes():
        category = old.category(chr(c))
        if category == "Cn" or category != new.category(chr(c)) or c == 0xFFFD:
            continue
        size = len(chr(c).encode())
        by_script[category, script(chr(c)), size] = c  # the last one: the least likely to be named by a pattern
        if script(chr(c)) not in NAMED:
            by_category[category, size] = c
    rows = []
    for c in codes():
        category = new.category(chr(c))
        if c == 0x180E:  # white space to PCRE2's \s, not to Unicode since 6.3
            substitute = 0x2064
        elif category == old.category(chr(c)):
            continue
        else:
            size = len(chr(c).encode())
            substitute = by_script.get((category, script(chr(c)), size)) or by_category[category, size]
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == substitute:
            rows[-1][1] = c
        else:
            rows.append([c, c, substitute])
    print(f"""/* unicode_shadow_table.c - made by tools/unicode_shadow.py: Unicode {OLD[:2]} to {NEW[:2]}. Do not edit. */
#include "text/unicode_shadow.h"

/* clang-format off */
const proa_unicode_shadow_row proa_unicode_shadow_rows[] = {{""")
    for i in range(0, len(rows), 4):
        print("    " + " ".join("{0x%x, 0x%x, 0x%x}," % tuple(r) for r in rows[i:i + 4]))
    print("""};
/* clang-format on */

const size_t proa_unicode_shadow_row_count =
    sizeof proa_unicode_shadow_rows / sizeof proa_unicode_shadow_rows[0];""")


main()
