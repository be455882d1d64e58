"""Worked steps: how tiny-r1 reasons. Each function returns the lines of one block and its result.

Design: one short line an elementary act; what the next token needs stands near by and aligned. Operands are padded
with zeros to one width, digits are walked from the right, and a running result in brackets grows by one digit a
line, so that the last line holds the whole. Carries and borrows are written only where they exist; the leftmost
column writes its whole sum. Blocks are reused: multiplication adds, long division subtracts, word problems do all.
"""


def pad(*numbers):
    """The numbers as digit strings of one width."""
    width = max(len(str(n)) for n in numbers)
    return [str(n).zfill(width) for n in numbers]


def add(a, b):
    """Header and lines of a + b (both >= 0)."""
    x, y = pad(a, b)
    lines, carry, done = [], 0, ""
    for i in range(len(x) - 1, -1, -1):
        p, q = int(x[i]), int(y[i])
        total = p + q + carry
        left = f"{p}+{q}+1={total}" if carry else f"{p}+{q}={total}"
        if i == 0:
            done = str(total) + done
            lines.append(f"{left} [{done}]")
        else:
            done = str(total % 10) + done
            carry = total // 10
            lines.append(f"{left} carry 1 [{done}]" if carry else f"{left} [{done}]")
    return f"{x}+{y}", lines, a + b


def sub(a, b):
    """Header and lines of a - b (a >= b >= 0)."""
    x, y = pad(a, b)
    lines, borrow, done = [], 0, ""
    for i in range(len(x) - 1, -1, -1):
        p, q = int(x[i]), int(y[i])
        take = p - q - borrow < 0
        top = p + 10 if take else p
        digit = top - q - borrow
        done = str(digit) + done
        left = f"{top}-{q}-1={digit}" if borrow else f"{top}-{q}={digit}"
        lines.append(f"{left} borrow 1 [{done}]" if take else f"{left} [{done}]")
        borrow = 1 if take else 0
    return f"{x}-{y}", lines, a - b


def mul_digit(a, d):
    """Lines of a * d for one digit d."""
    lines, carry, done, text = [], 0, "", str(a)
    for i in range(len(text) - 1, -1, -1):
        p = int(text[i])
        total = p * d + carry
        left = f"{p}*{d}+{carry}={total}" if carry else f"{p}*{d}={total}"
        if i == 0:
            done = str(total) + done
            lines.append(f"{left} [{done}]")
        else:
            done = str(total % 10) + done
            carry = total // 10
            lines.append(f"{left} carry {carry} [{done}]" if carry else f"{left} [{done}]")
    return lines, a * d


def mul(a, b):
    """Header and lines of a * b; the longer factor is written first."""
    if len(str(b)) > len(str(a)):
        a, b = b, a
    digits = str(b)[::-1]
    if len(digits) == 1:
        lines, value = mul_digit(a, b)
        return f"{a}*{b}", lines, value
    lines, total = [], 0
    for shift, d in enumerate(digits):
        part_lines, part = mul_digit(a, int(d))
        lines.append(f"{a}*{d}")
        lines += part_lines
        if shift == 0:
            total = part
            continue
        header, add_lines, total = add(total, part * 10**shift)
        lines.append(header)
        lines += add_lines
    return f"{a}*{b}", lines, a * b


def div(a, b):
    """Header and lines of a / b; quotient and remainder."""
    lines, left, done = [], 0, ""
    if b >= 10:
        lines.append("multiples " + " ".join(str(b * i) for i in range(1, 10)))
    for c in str(a):
        now = left * 10 + int(c)
        digit = now // b
        done += str(digit)
        if b < 10 or digit == 0:
            left = now - b * digit
            lines.append(f"{now}: {b}*{digit}={b * digit} left {left} [{done}]")
        else:
            lines.append(f"{now}: {b}*{digit}={b * digit}")
            header, sub_lines, left = sub(now, b * digit)
            lines.append(header)
            lines += sub_lines
            lines.append(f"left {left} [{done}]")
    return f"{a}/{b}", lines, (a // b, a % b)


def compare(a, b):
    """One line that compares two numbers digit by digit, and -1, 0 or 1. Decimals are strings like "9.4"."""
    x, y = align(a, b)
    seen = []
    for p, q in zip(x, y):
        if p == ".":
            continue
        if p != q:
            sign = ">" if p > q else "<"
            seen.append(f"{p}{sign}{q}")
            return f"{x} vs {y}: {', '.join(seen)} so {a}{sign}{b}", 1 if sign == ">" else -1
        seen.append(f"{p}={q}")
    return f"{x} vs {y}: {', '.join(seen)} so equal", 0


def align(a, b):
    """Both numbers with the same digits before and after the point."""
    whole_a, _, part_a = str(a).partition(".")
    whole_b, _, part_b = str(b).partition(".")
    whole = max(len(whole_a), len(whole_b))
    part = max(len(part_a), len(part_b))
    x, y = whole_a.zfill(whole), whole_b.zfill(whole)
    if part:
        x, y = x + "." + part_a.ljust(part, "0"), y + "." + part_b.ljust(part, "0")
    return x, y


def insertion_sort(numbers, descending):
    """One line a number: the list sorted so far."""
    padded = pad(*numbers)
    so_far, lines = [], []
    for text in padded:
        place = len(so_far)
        while place > 0 and (so_far[place - 1] < text if descending else so_far[place - 1] > text):
            place -= 1
        so_far.insert(place, text)
        lines.append(f"{text}: {' '.join(so_far)}")
    return lines, [int(t) for t in so_far]


def extreme(numbers, largest):
    """A running winner, one pair a line."""
    padded = pad(*numbers)
    best, lines = padded[0], []
    for text in padded[1:]:
        winner = max(best, text) if largest else min(best, text)
        lines.append(f"{best} vs {text}: {winner}")
        best = winner
    return lines, int(best)


def count_letter(word, letter):
    """A running count behind each letter."""
    total, marks = 0, []
    for c in word:
        total += c == letter
        marks.append(f"{c}{total}")
    return [f"count {letter}", " ".join(marks)], total


def reverse(word):
    """Numbered letters, then the same backwards."""
    marks = [f"{i}{c}" for i, c in enumerate(word, 1)]
    return [" ".join(marks), " ".join(reversed(marks))], word[::-1]
