"""The oracle of `--load-format proof` (src/engine/proof.h): its closed form, and clients that check every token against it as it
arrives.

As a program, it reads a Load as JSON from standard input, runs it and writes JSON lines: {"done": N} while it runs, then
{"outcomes": [...]}. So it can run on a host of a lab.
"""
import asyncio
import dataclasses
import json
import random
import struct
import sys
import time

import httpx

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
KEY_DEFAULT = 1
PROGRESS_SECONDS = 0.05


# --- the closed form ---

def mix(a, b):
    x = a ^ ((b + GOLDEN + ((a << 6) & MASK) + (a >> 2)) & MASK)
    x = ((x ^ (x >> 32)) * 0xD6E8FEB86659FD93) & MASK
    x = ((x ^ (x >> 29)) * 0xBF58476D1CE4E5B9) & MASK
    return x ^ (x >> 32)


def closed_form(prompt, count, vocab_size, key=KEY_DEFAULT):
    """The `count` (token, logprob) pairs that follow a prompt."""
    row, fold, position, answer = mix(key, 0), key, -1, []

    def take(token):
        nonlocal row, fold, position
        row = mix(row, token)
        fold = ((fold ^ row) * GOLDEN) & MASK
        position += 1

    for token in prompt:
        take(token)
    for _ in range(count):
        token = mix(fold, position) % vocab_size
        answer.append((token, -(mix(fold, position + (1 << 32)) % 4096) / 256))
        take(token)
    return answer


# --- what is asked ---

@dataclasses.dataclass
class Load:
    urls: list  # of frontends; client i begins with the i-th, and goes on to the next when one refuses connections
    clients: int = 8
    requests: int = 100  # of each client, one after another
    prompt_tokens: tuple = (1, 300)
    shared_tokens: int = 0  # some prompts begin with the same so many tokens
    new_tokens: tuple = (8, 64)
    stream_share: float = 0.75
    logprob_share: float = 0.3
    leave_share: float = 0.0  # requests whose client goes away at a random moment
    pause_s: float = 0.0  # between requests of a client
    vocab_size: int = 448
    key: int = KEY_DEFAULT
    seed: int = 1
    timeout_s: float = 60.0  # without a byte


@dataclasses.dataclass
class Question:
    prompt: list
    count: int
    stream: bool
    logprobs: bool
    leaves_after_s: float  # 0: stays

    def body(self):
        return {"input_ids": self.prompt, "stream": self.stream, "return_logprob": self.logprobs,
                "sampling_params": {"max_new_tokens": self.count, "ignore_eos": True}}


def draw_question(load, client, number):
    """The same for the same load, client and number."""
    r = random.Random(f"{load.seed} {client} {number}")
    length = r.randint(*load.prompt_tokens)
    prompt = [r.randrange(load.vocab_size) for _ in range(length)]
    if r.random() < 0.5:
        shared = random.Random(load.seed)
        beginning = [shared.randrange(load.vocab_size) for _ in range(load.shared_tokens)]
        prompt[:min(load.shared_tokens, length)] = beginning[:length]
    leaves = r.random() < load.leave_share
    return Question(prompt, r.randint(*load.new_tokens), r.random() < load.stream_share,
                    r.random() < load.logprob_share, 0.0003 * 1000 ** r.random() if leaves else 0.0)


@dataclasses.dataclass
class Outcome:
    """What became of one request. `kind`:
    ok      every token right, and the end is one
    left    the client went away, as it was told to; what had arrived was right
    failed  an error that says that it is one: a status, an error event, a connection cut in the middle
    wrong   a token, log probability or count that contradicts the closed form
    short   ends as if it were good, and is not whole
    """
    client: int
    number: int
    url: str
    asked: int
    kind: str = "ok"
    status: int = 0
    detail: str = ""
    got: int = 0
    begun: float = 0.0  # of the monotonic clock, which all processes of a machine share
    first_token_s: float = 0.0
    gap_s: float = 0.0  # the longest time without a new token, from the request on
    gap_begun: float = 0.0
    seconds: float = 0.0


# --- checking ---

class Wrong(Exception):
    pass


class Short(Exception):
    pass


class Failed(Exception):
    pass


class Checker:
    """Compares answers with the closed form, each cumulative answer of a stream with the one before."""

    def __init__(self, load, question, outcome):
        self.question = question
        self.outcome = outcome
        self.expected = closed_form(question.prompt, question.count, load.vocab_size, load.key)
        self.ended = False
        self.heard = outcome.begun

    def take(self, answer):
        if "error" in answer:
            raise Failed(str(answer["error"].get("message", answer["error"])))
        self._check_tokens(answer["output_ids"], answer["meta_info"])
        reason = answer["meta_info"]["finish_reason"]
        if reason is None:
            return
        if reason.get("type") == "abort":
            raise Failed(f"aborted: {reason}")
        if reason != {"type": "length", "length": self.question.count}:
            raise Short(f"finish_reason {reason} of {self.question.count} tokens")
        self.ended = True

    def end(self):
        """The answer has ended as a good one does."""
        if not self.ended or self.outcome.got != self.question.count:
            raise Short(f"{self.outcome.got} of {self.question.count} tokens, and no finish_reason")

    def _check_tokens(self, ids, meta):
        before, now = self.outcome.got, time.monotonic()
        expected = self.expected[:len(ids)]
        if len(ids) < before or len(ids) > self.question.count:
            raise Wrong(f"{len(ids)} tokens after {before}, of {self.question.count}")
        if ids[before:] != [token for token, _ in expected[before:]]:
            raise Wrong(f"tokens {before}..{len(ids) - 1} are {ids[before:]}, not {[t for t, _ in expected[before:]]}")
        if meta["completion_tokens"] != len(ids) or meta["prompt_tokens"] != len(self.question.prompt):
            raise Wrong(f"counts {meta['prompt_tokens']} + {meta['completion_tokens']} of {len(self.question.prompt)} + {len(ids)}")
        if self.question.logprobs:
            self._check_logprobs(meta["output_token_logprobs"], expected)
        if len(ids) > before:
            self._note_time(before == 0, now)
        self.outcome.got = len(ids)

    def _check_logprobs(self, triples, expected):
        told = [(token, as_float32(logprob)) for logprob, token, *_ in triples]
        if told != [(token, as_float32(logprob)) for token, logprob in expected]:
            raise Wrong(f"log probabilities {told}, not {expected}")

    def _note_time(self, first, now):
        if first:
            self.outcome.first_token_s = now - self.outcome.begun
        if now - self.heard > self.outcome.gap_s:
            self.outcome.gap_s, self.outcome.gap_begun = now - self.heard, self.heard
        self.heard = now


def as_float32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


# --- clients ---

async def stream_lines(response):
    """What stands between line feeds. (httpx's own lines end at U+0085 and its like too, which a token's text may be.)"""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def ask_stream(http, url, question, checker):
    async with http.stream("POST", url + "/generate", json=question.body()) as response:
        checker.outcome.status = response.status_code
        if response.status_code != 200:
            raise Failed((await response.aread()).decode(errors="replace")[:300])
        done = False
        async for line in stream_lines(response):
            if line == b"data: [DONE]":
                done = True
            elif line:
                checker.take(json.loads(line.removeprefix(b"data: ")))
        if not done:
            raise Short(f"the stream of {checker.outcome.got} tokens ended without [DONE]")
        checker.end()


async def ask_whole(http, url, question, checker):
    response = await http.post(url + "/generate", json=question.body())
    checker.outcome.status = response.status_code
    if response.status_code != 200:
        raise Failed(response.text[:300])
    checker.take(response.json())
    checker.end()


async def ask(http, load, client, number, url):
    """One request on one frontend. Raises httpx.ConnectError when there is none."""
    question = draw_question(load, client, number)
    outcome = Outcome(client, number, url, question.count, begun=time.monotonic())
    checker = Checker(load, question, outcome)
    work = ask_stream if question.stream else ask_whole
    try:
        if question.leaves_after_s > 0:
            async with new_client(load) as own:  # a pool may forget to forget a connection whose request is cancelled
                await asyncio.wait_for(work(own, url, question, checker), question.leaves_after_s)
        else:
            await work(http, url, question, checker)
    except TimeoutError:
        outcome.kind = "left"
    except httpx.ConnectError:
        raise
    except (Failed, httpx.HTTPError) as error:
        outcome.kind, outcome.detail = "failed", f"{type(error).__name__}: {error}"
    except Short as error:
        outcome.kind, outcome.detail = "short", str(error)
    except (Wrong, KeyError, TypeError, ValueError) as error:
        outcome.kind, outcome.detail = "wrong", f"{type(error).__name__}: {error}"
    outcome.seconds = time.monotonic() - outcome.begun
    return outcome


async def ask_anywhere(http, load, client, number, turn):
    """As a balancer in front of the frontends does: one that refuses connections is passed over."""
    for offset in range(len(load.urls)):
        url = load.urls[(turn + offset) % len(load.urls)]
        try:
            return await ask(http, load, client, number, url), turn + offset
        except httpx.ConnectError as error:
            refused = error
    now = time.monotonic()
    return Outcome(client, number, url, 0, "failed", detail=f"no frontend: {refused}", begun=now), turn


def new_client(load):
    return httpx.AsyncClient(timeout=load.timeout_s, trust_env=False, verify=False)  # no TLS here, so no certificates to read


async def run_client(load, client, outcomes):
    turn = client
    async with new_client(load) as http:
        for number in range(load.requests):
            outcome, turn = await ask_anywhere(http, load, client, number, turn)
            outcomes.append(outcome)
            if load.pause_s > 0:
                await asyncio.sleep(load.pause_s)


async def run_load(load, progress=None):
    """All requests of a load; progress(done) is called now and then. Returns their outcomes."""
    outcomes = []
    clients = [asyncio.create_task(run_client(load, i, outcomes)) for i in range(load.clients)]
    while True:
        done, waiting = await asyncio.wait(clients, timeout=PROGRESS_SECONDS)
        if progress:
            progress(len(outcomes))
        if not waiting:
            for client in done:
                client.result()
            return outcomes


def main():
    load = Load(**json.load(sys.stdin))
    outcomes = asyncio.run(run_load(load, lambda done: print(json.dumps({"done": done}), flush=True)))
    print(json.dumps({"outcomes": [dataclasses.asdict(o) for o in outcomes]}), flush=True)


if __name__ == "__main__":
    main()
