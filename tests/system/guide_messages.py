"""Whether a message that a page quotes is one that the program can print: its words must be those of string literals of the source."""
import re

from conftest import TOP

LITERALS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*(?:"(?:[^"\\\n]|\\.)*"|PRI[diux]\w+))*')
CONVERSION = re.compile(r"%[-+ #0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?(?:hh|h|ll|l|j|z|t)?[diouxXeEfgGcsp]|%(?=\s*PRI)|\0")
WORDS_MIN = 12  # letters of a literal that say something
COVERED_MIN = 0.55  # of a message's words without values
VALUES = re.compile(r"\S*[/\d]\S*|No such file or directory|Failed to connect to|Couldn't connect to server|cannot open shared object file")


def literals():
    """The fixed parts of each literal of src/ that is long enough, in order."""
    found = []
    for path in sorted(TOP.glob("src/**/*.[ch]")):
        for match in LITERALS.finditer(path.read_text()):
            text = re.sub(r'%"\s*PRI\w+\s*"?', "\0", match[0])  # a number
            text = re.sub(r'"\s*"', "", text).strip('"').replace('\\"', '"').replace("\\n", "\n")
            parts = [part for part in CONVERSION.split(text.replace("%%", "%")) if part]
            if sum(map(len, parts)) >= WORDS_MIN:
                found.append(parts)
    return found


def covered(message, parts):
    """The positions in the message of the parts of a literal: all, in their order, or as many as there are before the message ends. Empty when
    they are not there."""
    places, at = set(), 0
    for part in parts:
        start = message.find(part, at)
        if start < 0:
            return places | end_of(message, at, part) if places else end_of(message, 0, part)
        places |= set(range(start, start + len(part)))
        at = start + len(part)
    return places


def end_of(message, at, part):
    """The positions of a message's end that are the beginning of the part: a quoted message may stop early."""
    if part[:WORDS_MIN] not in message[at:]:
        return set()
    size = next((n for n in range(len(part), 0, -1) if message.endswith(part[:n]) and len(message) - n >= at), 0)
    return set(range(len(message) - size, len(message))) if size >= WORDS_MIN else set()


def share_from_source(message, known):
    """How much of the message's words come from literals."""
    values = set().union(*(range(*m.span()) for m in VALUES.finditer(message)))
    words = {i for i, c in enumerate(message) if not c.isspace()} - values
    return len(words & set().union(*(covered(message, parts) for parts in known))) / len(words)


def quoted_messages(page):
    """What stands between backticks in the first column of the page's tables."""
    return [m[1].replace("\\|", "|") for m in re.finditer(r"^\| `([^`]+)`", page.read_text(), re.MULTILINE)]
