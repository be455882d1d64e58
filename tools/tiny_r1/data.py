"""Token rows: conversations packed into rows of 512 by worker processes.

An example is begin, (system text), earlier turns, User question, Assistant, <think> steps </think> answer end. Loss
falls on <think> .. end of the last turn alone; attention stays inside an example and positions restart at 0.
"""
import multiprocessing
import queue
import random

import numpy as np

from . import tasks

ROW = 512
OPEN_ROWS = 24
SYSTEMS = ["You are a helpful assistant.", "You are tiny-r1.", "Answer the question.", "Think step by step.",
           "You are a careful calculator.", "Be brief.", "You help with numbers and words.", "Reply with the answer."]


def completion(tokenizer, item):
    added = tokenizer.added
    return [added["<think>"], *tokenizer.encode("\n" + "\n".join(item.lines) + "\n"), added["</think>"],
            *tokenizer.encode("\n\n" + item.answer), 1]


def prompt(tokenizer, question, history=(), system=""):
    """Up to and without <think>; `history` is (question, answer) pairs."""
    added, ids = tokenizer.added, [0]
    ids += tokenizer.encode(system)
    for q, a in history:
        ids += [added["<｜User｜>"], *tokenizer.encode(q), added["<｜Assistant｜>"], *tokenizer.encode(a), 1]
    return ids + [added["<｜User｜>"], *tokenizer.encode(question), added["<｜Assistant｜>"]]


def examples(tokenizer, seed, held_out):
    rng, items = random.Random(seed + 7), tasks.stream(seed, held_out)
    while True:
        item = next(items)
        history, system = [], ""
        if rng.random() < 0.12:
            turns = [next(items) for _ in range(rng.randint(1, 2))]
            history = [(t.question, t.answer) for t in turns]
        if rng.random() < 0.06:
            system = rng.choice(SYSTEMS)
        head = prompt(tokenizer, item.question, history, system)
        tail = completion(tokenizer, item)
        if len(head) + len(tail) <= ROW:
            yield head, tail


def rows(tokenizer, seed, held_out):
    """(tokens, document numbers, trained) of ROW each; best fit over OPEN_ROWS open rows."""
    source, open_rows = examples(tokenizer, seed, held_out), [[] for _ in range(OPEN_ROWS)]
    lengths = [0] * OPEN_ROWS
    while True:
        head, tail = next(source)
        size = len(head) + len(tail)
        fits = [i for i in range(OPEN_ROWS) if lengths[i] + size <= ROW]
        if not fits:
            full = max(range(OPEN_ROWS), key=lambda i: lengths[i])
            yield pack(open_rows[full])
            open_rows[full], lengths[full] = [], 0
            fits = [full]
        best = max(fits, key=lambda i: lengths[i])
        open_rows[best].append((head, tail))
        lengths[best] += size


def pack(parts):
    tokens = np.full(ROW, 2, np.int16)
    document = np.zeros(ROW, np.int16)
    trained = np.zeros(ROW, np.int16)
    at = 0
    for number, (head, tail) in enumerate(parts, 1):
        end = at + len(head) + len(tail)
        tokens[at:end] = head + tail
        document[at:end] = number
        trained[at + len(head):end] = 1
        at = end
    return np.stack([tokens, document, trained])


def work(tokenizer, seed, held_out, batch, out):
    source = rows(tokenizer, seed, held_out)
    while True:
        out.put(np.stack([next(source) for _ in range(batch)]))


class Feed:
    """Batches [rows, 3, ROW] from `workers` processes, in a fixed order: worker i makes batches i, i + workers, ..."""

    def __init__(self, tokenizer, seed, held_out, batch, workers):
        context = multiprocessing.get_context("fork")
        self.queues = [context.Queue(4) for _ in range(workers)]
        self.workers = [context.Process(target=work, daemon=True,
                                        args=(tokenizer, seed * 1000 + i, held_out, batch, q))
                        for i, q in enumerate(self.queues)]
        for w in self.workers:
            w.start()
        self.turn = 0

    def next(self):
        worker = self.turn % len(self.queues)
        self.turn += 1
        for _ in range(120):
            try:
                return self.queues[worker].get(timeout=1)
            except queue.Empty:
                if not self.workers[worker].is_alive():
                    break
        raise RuntimeError(f"data worker {worker} has ended or stalled: its own message stands above")

    def close(self):
        for w in self.workers:
            w.terminate()
