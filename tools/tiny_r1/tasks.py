"""Questions with worked answers, made on the fly from a seeded generator; standard library only.

A task function draws one item: Item(task, key, question, lines, answer). `key` names what is asked (operands in order,
the word, the list with its direction ...) whatever the wording, so that evaluation questions can be held out of
training by key. The reasoning is `lines`; the final answer follows </think>.
"""
import random
from dataclasses import dataclass

from . import steps
from .talk import draw_talk
from .words import BOXES, CONSONANTS, LETTERS, NAMES, PLACES, SYLLABLES, THINGS, WORDS

WRAPPERS = [
    "{}", "{}", "{}", "{}", "please {}", "Please {}", "hi! {}", "Hello! {}", "Hello, {}", "hi, {}", "hey, {}",
    "Question: {}", "One more: {}", "Quick question: {}", "Now {}", "So, {}", "Okay, {}", "I wonder, {}",
    "Tell me, {}", "Please tell me: {}", "Can you help? {}", "Thanks! {}", "Next: {}", "Your task: {}", "Just asking: {}",
]
IMPERATIVE_WRAPPERS = [
    "{}", "{}", "{}", "please {}", "Please {}", "{}, please", "can you {}", "Could you {}", "could you please {}",
    "Would you {}", "Your task: {}", "Hello, {}", "Hi! {}", "Now {}", "I want you to {}", "{} for me", "Next, {}",
    "Will you {}", "Okay, {}", "Go on and {}", "Let us {}",
]
QUESTION_STARTS = ("can ", "could ", "would ", "will ", "is ", "what", "how", "which", "who", "when", "if ")


@dataclass
class Item:
    task: str
    key: str
    question: str
    lines: list
    answer: str


def dress(rng, core, imperative):
    """A core wording in a wrapper, with a random capital letter and end mark."""
    text = rng.choice(IMPERATIVE_WRAPPERS if imperative else WRAPPERS).format(core)
    asks = not imperative or text.lower().startswith(("can you", "could", "would", "will"))
    end = rng.choice(["?", "?", "?", "", "."] if asks else [".", ".", "", "", "!"])
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + ("" if text[-1] in "?.!=" else end)


def expression(rng, left, sign, right):
    text = rng.choice(["{} {} {}", "{}{}{}"]).format(left, sign, right)
    return rng.choice([text, text, text + " =", text + " = ?", text + "="])


def digits_number(rng, most):
    """A number of 1 to `most` digits, each length about as likely; now and then 0."""
    n = rng.randint(1, most)
    if rng.random() < 0.02:
        return 0
    return rng.randint(10 ** (n - 1), 10**n - 1)


def ask(rng, fragments, questions, imperatives, *values):
    """Picks a kind of wording and fills it in."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(fragments).format(*values)
    if kind < 0.65:
        return dress(rng, rng.choice(questions).format(*values), False)
    return dress(rng, rng.choice(imperatives).format(*values), True)


# --- addition ---

ADD_QUESTIONS = ["what is {} + {}", "what is {} plus {}", "how much is {} + {}", "how much is {} plus {}",
                 "what do you get for {} + {}", "what do {} and {} add up to", "what is the sum of {} and {}",
                 "what is the total of {} and {}", "what do I get if I add {} and {}", "what does {} plus {} make",
                 "if you add {} to {}, what do you get", "I have {} and {}. What is the sum", "{} and {} together are how many"]
ADD_IMPERATIVES = ["add {} and {}", "add {} to {}", "compute {} + {}", "compute {}+{}", "calculate {} plus {}",
                   "calculate {} + {}", "sum {} and {}", "work out {} + {}", "find {} + {}", "evaluate {}+{}",
                   "solve {} + {}", "give me {} plus {}", "find the sum of {} and {}", "tell me the sum of {} and {}",
                   "put {} and {} together", "help me with {} + {}"]
ADD3_QUESTIONS = ["what is {} + {} + {}", "what is the sum of {}, {} and {}", "how much is {} plus {} plus {}",
                  "what is the total of {}, {} and {}", "what do {}, {} and {} add up to"]
ADD3_IMPERATIVES = ["add {}, {} and {}", "compute {} + {} + {}", "calculate {}+{}+{}", "sum {}, {} and {}",
                    "work out {} + {} + {}", "add up {}, {} and {}"]


def draw_add(rng):
    if rng.random() < 0.15:
        a, b, c = (digits_number(rng, 3) for _ in range(3))
        header, lines, total = steps.add(a, b)
        header2, lines2, total = steps.add(total, c)
        question = ask(rng, ["{}+{}+{}", "{} + {} + {}", "{} + {} + {} ="], ADD3_QUESTIONS, ADD3_IMPERATIVES, a, b, c)
        return Item("add", f"add {a} {b} {c}", question, [header, *lines, header2, *lines2], str(total))
    a, b = digits_number(rng, 4), digits_number(rng, 4)
    header, lines, total = steps.add(a, b)
    fragments = [expression(rng, a, "+", b), f"{a} plus {b}", f"the sum of {a} and {b}"]
    fragments = [f.replace("{", "{{").replace("}", "}}") for f in fragments]
    return Item("add", f"add {a} {b}", ask(rng, fragments, ADD_QUESTIONS, ADD_IMPERATIVES, a, b), [header, *lines],
                str(total))


# --- subtraction ---

SUB_QUESTIONS = ["what is {} - {}", "what is {} minus {}", "how much is {} - {}", "how much is {} minus {}",
                 "what do you get for {} - {}", "what is {} less {}", "what is left of {} minus {}",
                 "what remains of {} - {}", "what does {} minus {} make"]
SUB_REVERSED_QUESTIONS = ["if you subtract {} from {}, what is left", "what do I get if I take {} from {}",
                          "what is left if you take {} away from {}"]
SUB_IMPERATIVES = ["compute {} - {}", "compute {}-{}", "calculate {} minus {}", "calculate {} - {}", "work out {} - {}",
                   "find {} - {}", "evaluate {}-{}", "solve {} - {}", "give me {} minus {}", "help me with {} - {}"]
SUB_REVERSED_IMPERATIVES = ["subtract {} from {}", "take {} away from {}", "take {} from {}", "deduct {} from {}"]
DIFFERENCE = ["what is the difference between {} and {}", "how big is the difference between {} and {}",
              "what is the difference of {} and {}", "how far apart are {} and {}"]


def draw_sub(rng):
    a, b = digits_number(rng, 4), digits_number(rng, 4)
    if rng.random() < 0.1:
        b = max(0, a + rng.randint(-20, 20))
    difference = rng.random() < 0.12
    line, order = steps.compare(a, b)
    lines = [line]
    if order < 0 and not difference:
        lines.append("so it is negative")
    if order == 0:
        answer = "0"
    else:
        header, sub_lines, value = steps.sub(max(a, b), min(a, b))
        lines += [header, *sub_lines]
        answer = str(-value if order < 0 and not difference else value)
    if difference:
        return Item("sub", f"dif {a} {b}", dress(rng, rng.choice(DIFFERENCE).format(a, b), False), lines, answer)
    if rng.random() < 0.25:
        reverse = rng.random() < 0.5
        question = dress(rng, rng.choice(SUB_REVERSED_QUESTIONS if reverse else SUB_REVERSED_IMPERATIVES).format(b, a),
                         not reverse)
    else:
        question = ask(rng, [expression(rng, a, "-", b), f"{a} minus {b}"], SUB_QUESTIONS, SUB_IMPERATIVES, a, b)
    return Item("sub", f"sub {a} {b}", question, lines, answer)


# --- multiplication ---

MUL_QUESTIONS = ["what is {} * {}", "what is {} x {}", "what is {} times {}", "how much is {} times {}", "what is {} × {}",
                 "how much is {}*{}", "what is the product of {} and {}", "what's the product of {} and {}",
                 "what do you get for {} x {}", "what does {} times {} make", "what is {} multiplied by {}"]
MUL_IMPERATIVES = ["multiply {} by {}", "multiply {} with {}", "multiply {} and {}", "compute {} * {}", "compute {} x {}",
                   "calculate {} times {}", "calculate {}*{}", "work out {} times {}", "find {} x {}", "evaluate {}*{}",
                   "solve {} × {}", "give me {}x{}", "find the product of {} and {}", "help me with {} x {}"]
MUL_SHAPES = [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (3, 2), (2, 3), (3, 3), (4, 1)]
MUL_WEIGHTS = [2, 4, 2, 4, 2, 8, 7, 3, 7, 2]


def exact_digits(rng, n):
    return rng.randint(10 ** (n - 1) if n > 1 else 0, 10**n - 1)


def draw_mul(rng):
    p, q = rng.choices(MUL_SHAPES, MUL_WEIGHTS)[0]
    a, b = exact_digits(rng, p), exact_digits(rng, q)
    header, lines, value = steps.mul(a, b)
    sign = rng.choice("*x*x×")
    question = ask(rng, [expression(rng, a, sign, b), f"{a} times {b}", f"the product {a} {sign} {b}"], MUL_QUESTIONS,
                   MUL_IMPERATIVES, a, b)
    return Item("mul", f"mul {a} {b}", question, [header, *lines], str(value))


# --- division with remainder ---

DIV_QUESTIONS = ["what is {} / {}", "what is {} divided by {}", "how much is {} / {}", "how much is {}÷{}",
                 "what do you get for {} / {}", "what is {} ÷ {}", "how much is {} divided by {}",
                 "what is {} : {} with remainder"]
DIV_IMPERATIVES = ["divide {} by {}", "divide {} by {} with remainder", "compute {} / {}", "calculate {} / {}",
                   "calculate {} divided by {}", "work out {}/{}", "find {} ÷ {}", "evaluate {}/{}", "solve {} : {}",
                   "share {} among {}", "help me with {} / {}", "give me {} divided by {}"]


def draw_div(rng):
    kind = rng.random()
    b = rng.randint(2, 9) if kind < 0.5 else rng.randint(10, 25) if kind < 0.65 else rng.randint(10, 99)
    a = digits_number(rng, 4)
    if rng.random() < 0.25:
        a = b * rng.randint(1, max(1, 9999 // b // 10 ** rng.randint(0, 2)))
    header, lines, (quotient, remainder) = steps.div(a, b)
    question = ask(rng, [expression(rng, a, rng.choice("/:÷"), b), f"{a} divided by {b}"], DIV_QUESTIONS,
                   DIV_IMPERATIVES, a, b)
    return Item("div", f"div {a} {b}", question, [header, *lines], f"{quotient} remainder {remainder}")


# --- comparison ---

CMP_LARGER = ["which is larger: {} or {}", "which is bigger, {} or {}", "which number is larger: {} or {}",
              "what is the larger number, {} or {}", "which is greater, {} or {}", "what is more, {} or {}"]
CMP_SMALLER = ["which is smaller: {} or {}", "which is less: {} or {}", "which number is smaller, {} or {}",
               "what is the smaller number, {} or {}", "what is less, {} or {}"]
CMP_YES_LARGER = ["is {} larger than {}", "is {} > {}", "is {} greater than {}", "is {} bigger than {}", "is {} more than {}"]
CMP_YES_SMALLER = ["is {} smaller than {}", "is {} < {}", "is {} less than {}"]
CMP_SIGN = ["compare {} and {}", "compare {} with {}", "put the right sign between {} and {}",
            "write <, > or = between {} and {}"]


def close_pair(rng):
    """Two numbers that often share their beginning; decimals as strings."""
    if rng.random() < 0.3:
        whole = rng.randint(0, 20)
        parts = [str(rng.randint(0, 10 ** rng.randint(1, 2) - 1)) for _ in range(2)]
        a = f"{whole}.{parts[0]}"
        b = f"{whole if rng.random() < 0.7 else rng.randint(0, 20)}.{parts[1]}"
        return (a, a) if rng.random() < 0.08 else (a, b)
    a = digits_number(rng, 4)
    kind = rng.random()
    if kind < 0.1:
        b = a
    elif kind < 0.5:
        place = 10 ** rng.randint(0, len(str(a)) - 1)
        b = max(0, a + rng.randint(-9, 9) * place)
    else:
        b = digits_number(rng, 4)
    return str(a), str(b)


def draw_cmp(rng):
    a, b = close_pair(rng)
    line, order = steps.compare(a, b)
    kind = rng.randrange(5)
    core = rng.choice([CMP_LARGER, CMP_SMALLER, CMP_YES_LARGER, CMP_YES_SMALLER, CMP_SIGN][kind]).format(a, b)
    if kind == 4:
        answer = f"{a} {'>' if order > 0 else '<' if order < 0 else '='} {b}"
    elif kind >= 2:
        answer = "yes" if order == (1 if kind == 2 else -1) else "no"
    elif order == 0:
        answer = "equal"
    else:
        answer = a if order == (1 if kind == 0 else -1) else b
    return Item("cmp", f"cmp {kind} {a} {b}", dress(rng, core, kind == 4), [line], answer)


# --- sorting, largest and smallest ---

SORT_UP = ["sort {}", "sort these numbers: {}", "put {} in order", "sort {} in ascending order", "arrange {} in order",
           "sort {} from smallest to largest", "list smallest first: {}", "order {} from low to high",
           "sort in ascending order: {}", "put these in order: {}"]
SORT_DOWN = ["sort {} in descending order", "sort from largest to smallest: {}", "sort {} from largest to smallest",
             "list largest first: {}", "list: {} from high to low", "order {} from high to low",
             "sort in descending order: {}", "arrange {} from biggest to smallest"]
EXT_MAX = ["which is the largest of {}", "what is the largest of {}", "what is the biggest number among {}",
           "what is the maximum of {}", "which number is the largest: {}"]
EXT_MIN = ["which is the smallest of {}", "what is the smallest of {}", "what is the smallest number among {}",
           "what is the minimum of {}", "which number is the smallest: {}"]
EXT_MAX_IMPERATIVES = ["find the largest of {}", "give the maximum: {}", "pick the largest of {}", "find the maximum of {}"]
EXT_MIN_IMPERATIVES = ["find the smallest of {}", "give the minimum: {}", "pick the smallest of {}", "find the minimum of {}"]


def list_text(rng, numbers):
    kind = rng.randrange(6)
    texts = [str(n) for n in numbers]
    if kind == 0:
        return " ".join(texts)
    if kind == 1:
        return "[" + ", ".join(texts) + "]"
    if kind == 2:
        return "; ".join(texts)
    if kind == 3:
        return ", ".join(texts[:-1]) + " and " + texts[-1]
    return ", ".join(texts)


def number_list(rng, most_digits):
    n = rng.randint(2, 8)
    if rng.random() < 0.25:
        base, spread = digits_number(rng, most_digits), rng.choice([3, 6, 12, 30])
        return [max(0, base + rng.randint(-spread, spread)) for _ in range(n)]
    width = rng.randint(1, most_digits)
    if rng.random() < 0.5:
        return [rng.randint(0, 10**width - 1) for _ in range(n)]
    return [digits_number(rng, most_digits) for _ in range(n)]


def draw_sort(rng):
    numbers = number_list(rng, 3)
    descending = rng.random() < 0.4
    lines, ordered = steps.insertion_sort(numbers, descending)
    core = rng.choice(SORT_DOWN if descending else SORT_UP).format(list_text(rng, numbers))
    return Item("sort", f"sort {descending} {numbers}", dress(rng, core, True), lines, ", ".join(map(str, ordered)))


def draw_ext(rng):
    numbers = number_list(rng, 4 if rng.random() < 0.3 else 3)
    largest = rng.random() < 0.5
    lines, best = steps.extreme(numbers, largest)
    text = list_text(rng, numbers)
    kind = rng.random()
    if kind < 0.2:
        question = f"{'max' if largest else 'min'}({', '.join(map(str, numbers))})"
    elif kind < 0.65:
        question = dress(rng, rng.choice(EXT_MAX if largest else EXT_MIN).format(text), False)
    else:
        question = dress(rng, rng.choice(EXT_MAX_IMPERATIVES if largest else EXT_MIN_IMPERATIVES).format(text), True)
    return Item("ext", f"ext {largest} {numbers}", question, lines, str(best))


# --- letters ---

COUNT_QUESTIONS = ["how many {0}'s are in {1}", "how many {0}'s are there in {1}", "how many times does {0} appear in {1}",
                   "how many letters {0} are in {1}", "how often does {0} occur in {1}",
                   "how many times does the letter {0} occur in {1}", "what is the number of {0}'s in {1}",
                   "how many letters '{0}' does {1} have"]
COUNT_IMPERATIVES = ["count the {0}'s in {1}", "count the letter {0} in {1}", "count how often {0} appears in {1}",
                     "find the number of {0}'s in {1}"]
REV_QUESTIONS = ["what is {} backwards", "how is {} spelled backwards", "what do you get when you reverse {}",
                 "what is {} in reverse", "how do you write {} backwards", "what is the reverse of {}"]
REV_IMPERATIVES = ["reverse {}", "reverse the word {}", "spell {} backwards", "write {} backwards", "turn {} around",
                   "write the word {} in reverse", "reverse the letters of {}"]


def draw_word_text(rng):
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(WORDS)[:12]
    if kind < 0.75:
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 5)))
        return word[:rng.randint(3, 12)] if len(word) >= 3 else word + "a"
    alphabet = LETTERS if rng.random() < 0.5 else rng.sample(LETTERS, rng.randint(2, 4))
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(3, 12)))


def quote(rng, word):
    return rng.choice(["{}", "{}", "'{}'", "'{}'", '"{}"']).format(word)


def draw_count(rng):
    word = draw_word_text(rng)
    letter = rng.choice(word) if rng.random() < 0.85 else rng.choice(LETTERS)
    lines, total = steps.count_letter(word, letter)
    core = rng.choice(COUNT_QUESTIONS if rng.random() < 0.7 else COUNT_IMPERATIVES)
    return Item("count", f"count {letter} {word}", dress(rng, core.format(letter, quote(rng, word)),
                                                       core in COUNT_IMPERATIVES), lines, str(total))


def draw_rev(rng):
    word = draw_word_text(rng)
    lines, backwards = steps.reverse(word)
    core = rng.choice(REV_QUESTIONS if rng.random() < 0.5 else REV_IMPERATIVES)
    return Item("rev", f"rev {word}", dress(rng, core.format(quote(rng, word)), core in REV_IMPERATIVES), lines, backwards)


# --- word problems ---

class Chain:
    """Steps of a word problem: a running value and its lines, "first ..." then "then ..."."""

    def __init__(self, value):
        self.value, self.lines = value, []

    def do(self, header, lines, value):
        self.lines += [("then " if self.lines else "first ") + header, *lines]
        self.value = value

    def plus(self, n):
        self.do(*steps.add(self.value, n))

    def minus(self, n):
        self.do(*steps.sub(self.value, n))

    def times(self, n):
        self.do(*steps.mul(self.value, n))

    def share(self, n):
        header, lines, (quotient, _) = steps.div(self.value, n)
        self.do(header, lines, quotient)


GAINS = ["gets {} more", "finds {} more", "buys {}", "adds {}", "is given {}", "receives {} more", "picks up {}", "wins {}"]
LOSSES = ["loses {}", "gives away {}", "throws away {}", "sells {}", "uses {}", "drops {}", "takes out {}", "breaks {}"]
STARTS = ["{n} has {x} {t}.", "{n} owns {x} {t}.", "{n} picks {x} {t}.", "{n} starts with {x} {t}.", "{n} collects {x} {t}."]
ENDS = ["How many {t} does {n} have now?", "How many {t} are left?", "How many {t} does {n} have?",
        "How many {t} are there at the end?", "How many {t} remain?"]


def word_chain(rng, n, t):
    chain = Chain(rng.randint(5, 999 if rng.random() < 0.4 else 99))
    parts = [rng.choice(STARTS).format(n=n, x=chain.value, t=t)]
    for i in range(rng.randint(1, 3)):
        if rng.random() < 0.5 or chain.value < 2:
            amount = rng.randint(1, 199 if rng.random() < 0.4 else 99)
            act = rng.choice(GAINS).format(amount)
            chain.plus(amount)
        else:
            amount = rng.randint(1, chain.value)
            act = rng.choice(LOSSES).format(amount)
            chain.minus(amount)
        who = rng.choice([n, "Then " + n, "Later " + n]) if i else n
        parts.append(f"{who} {act}.")
    return parts, chain


def word_joined(rng, n, t):
    chain = Chain(rng.randint(5, 99))
    first, second = chain.value, rng.randint(1, 99)
    chain.plus(second)
    third = rng.randint(1, chain.value)
    parts = [f"{n} had {first} {t}, found {second} more and then lost {third}."]
    chain.minus(third)
    return parts, chain


def word_boxes(rng, n, t):
    count, each = rng.randint(2, 9), rng.randint(2, 60)
    chain = Chain(each)
    chain.times(count)
    box = rng.choice(BOXES)
    parts = [rng.choice([f"{n} fills {count} {box} with {each} {t} each.", f"{n} buys {count} {box} of {each} {t}.",
                         f"A {rng.choice(PLACES)} has {count} {box} with {each} {t} each.",
                         f"A {rng.choice(PLACES)} has {count} {box}. Each of them holds {each} {t}."])]
    for _ in range(rng.randint(0, 2)):
        if rng.random() < 0.5:
            more = rng.randint(1, 99)
            parts.append(rng.choice([f"{rng.choice(NAMES)} brings {more} more.", f"Then {more} more are added.",
                                     f"Later {n} gets {more} more."]))
            chain.plus(more)
        elif chain.value > 0:
            fewer = rng.randint(1, chain.value)
            parts.append(rng.choice([f"Then {fewer} are sold.", f"{n} uses {fewer}.", f"{n} takes out {fewer}.",
                                     f"Later {fewer} are broken and thrown away."]))
            chain.minus(fewer)
    return parts, chain


def word_times_as_many(rng, n, t):
    first, factor = rng.randint(3, 99), rng.randint(2, 9)
    other = rng.choice([x for x in NAMES if x != n])
    chain = Chain(first)
    chain.times(factor)
    parts = [f"{n} has {first} {t}. {other} has {factor} times as many."]
    if rng.random() < 0.5:
        chain.plus(first)
        return parts + [f"How many {t} do they have together?"], chain
    return parts + [f"How many {t} does {other} have?"], chain


def word_share(rng, n, t):
    people = rng.randint(2, 9)
    total, own = people * rng.randint(2, 60), rng.randint(1, 60)
    chain = Chain(total)
    chain.share(people)
    parts = [f"{people} friends share {total} {t} equally. {n} is one of them"]
    if rng.random() < 0.6:
        parts[0] += f" and already had {own}."
        chain.plus(own)
        return parts + [f"How many {t} does {n} have now?"], chain
    parts[0] += "."
    return parts + [f"How many {t} does {n} get?"], chain


def word_pay(rng, n, t):
    price, count = rng.randint(2, 60), rng.randint(2, 9)
    chain = Chain(price)
    chain.times(count)
    parts = [f"One of the {t} costs {price} coins. {n} buys {count} {t}."]
    if rng.random() < 0.5:
        paid = chain.value + rng.randint(0, 100)
        header, lines, value = steps.sub(paid, chain.value)
        chain.do(header, lines, value)
        return parts + [f"{n} pays with {paid} coins. How many coins does {n} get back?"], chain
    return parts + [f"How many coins does {n} pay?"], chain


def word_fewer(rng, n, t):
    first = rng.randint(10, 500)
    fewer = rng.randint(1, first)
    other = rng.choice([x for x in NAMES if x != n])
    chain = Chain(first)
    chain.minus(fewer)
    if rng.random() < 0.5:
        chain.plus(first)
        return [f"{n} has {first} {t}. {other} has {fewer} fewer. How many {t} do they have together?"], chain
    return [f"{n} has {first} {t}. {other} has {fewer} fewer. How many {t} does {other} have?"], chain


def word_days(rng, n, t):
    days, each = rng.randint(2, 14), rng.randint(2, 60)
    chain = Chain(each)
    chain.times(days)
    had = rng.randint(1, 99)
    parts = [f"{n} makes {each} {t} a day for {days} days."]
    if rng.random() < 0.5:
        parts.append(f"{n} already had {had}.")
        chain.plus(had)
    return parts + [rng.choice([f"How many {t} is that?", f"How many {t} are there then?"])], chain


WORD_KINDS = [word_chain, word_chain, word_chain, word_joined, word_boxes, word_boxes, word_times_as_many, word_share,
              word_pay, word_fewer, word_days]


def draw_word(rng):
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    parts, chain = rng.choice(WORD_KINDS)(rng, name, thing)
    if not parts[-1].endswith("?"):
        parts.append(rng.choice(ENDS).format(n=name, t=thing))
    question = " ".join(parts)
    return Item("word", "word " + question, question, chain.lines, str(chain.value))


def draw_talk_item(rng):
    question, thought, answer = draw_talk(rng)
    return Item("talk", "talk " + question, question, [thought], answer)


TASKS = {
    # name: (draw, weight in training, questions in the evaluation)
    "add": (draw_add, 9, 100),
    "sub": (draw_sub, 11, 110),
    "mul": (draw_mul, 16, 140),
    "div": (draw_div, 16, 120),
    "cmp": (draw_cmp, 6, 80),
    "sort": (draw_sort, 12, 100),
    "ext": (draw_ext, 5, 70),
    "count": (draw_count, 6, 80),
    "rev": (draw_rev, 7, 80),
    "word": (draw_word, 12, 90),
    "talk": (draw_talk_item, 3, 30),
}


def keys_of(item):
    """The keys that must not meet an evaluation question: the item's own, and with swapped operands for + and x."""
    keys = [item.key]
    name, *rest = item.key.split(" ")
    if name in ("add", "mul", "dif") and len(rest) == 2:
        keys.append(f"{name} {rest[1]} {rest[0]}")
    return keys


def evaluation(seed):
    """The held-out questions: 1,000 items, no two with the same key, in mixed order."""
    rng = random.Random(seed)
    items, seen = [], set()
    for draw, _, count in TASKS.values():
        mine = 0
        while mine < count:
            item = draw(rng)
            if item.key not in seen:
                seen.update(keys_of(item))
                items.append(item)
                mine += 1
    rng.shuffle(items)
    return items


def stream(seed, held_out):
    """Training items without end, none with a key in `held_out`."""
    rng = random.Random(seed)
    draws = [t[0] for t in TASKS.values()]
    weights = [t[1] for t in TASKS.values()]
    while True:
        item = rng.choices(draws, weights)[0](rng)
        if not any(k in held_out for k in keys_of(item)):
            yield item
