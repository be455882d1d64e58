"""Law 2 from outside, bit for bit: a request's tokens and log probabilities are the same alone, among 31 others, with any
chunk size, with the prefix cache on and off, with one thread and two, and when it comes again; on a GPU also among 255 others, with
graphs, padded or not, and without, and on one stream."""
import concurrent.futures
import json

import httpx
import pytest
from conftest import DEVICE

QUESTIONS = ["what is 384+967?", "Sort 5, 92, 31, 7, 64 from largest to smallest.", "how many r's are in strawberry?",
             "what is 7812 divided by 36?", "reverse the word elephant", "hello, who are you?"]
VARIANTS = [
    ("--chunked-prefill-size", 16),
    ("--chunked-prefill-size", 64),
    ("--chunked-prefill-size", 4096),
    ("--disable-radix-cache",),
    ("--threads", 1),
    ("--threads", 2, "--chunked-prefill-size", 16, "--page-size", 64),
]
GPU_VARIANTS = [
    ("--chunked-prefill-size", 7),
    ("--disable-radix-cache",),
    ("--disable-cuda-graph",),
    ("--cuda-graph-bs", "3,16", "--chunked-prefill-size", 64),
    ("--single-stream",),
]


def request(question, number):
    """A sampled request with everything in it that could differ: history, seed, penalties, log probabilities."""
    return {
        "messages": [{"role": "user", "content": "what is 12*34?"}, {"role": "assistant", "content": "408"},
                     {"role": "user", "content": question}],
        "temperature": 0.0 if number % 3 == 0 else 1.2, "top_p": 0.97, "top_k": 50 if number % 2 else -1,
        "seed": 1000 + number, "frequency_penalty": 0.1 if number == 4 else 0, "max_tokens": 120,
        "logprobs": True, "top_logprobs": 3,
    }


def ask(url, body):
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return json.dumps([choice["message"], choice["logprobs"], choice["finish_reason"]], sort_keys=True)


def ask_all(url):
    return [ask(url, request(q, i)) for i, q in enumerate(QUESTIONS)]


def ask_all_at_once(url, others):
    """The same requests among `others` more, all in flight together."""
    noise = [{"messages": [{"role": "user", "content": f"what is {i * 37} + {i * i}?"}], "seed": i, "temperature": 1.0,
              "max_tokens": 60 + i} for i in range(others)]
    bodies = [request(q, i) for i, q in enumerate(QUESTIONS)]
    with concurrent.futures.ThreadPoolExecutor(len(bodies) + others) as pool:
        background = [pool.submit(ask, url, body) for body in noise]
        answers = [pool.submit(ask, url, body) for body in bodies]
        for future in background:
            future.result()
        return [a.result() for a in answers]


PRECISIONS = [
    pytest.param((), id="auto"),
    pytest.param(("--activation-dtype", "float32"), id="float32", marks=pytest.mark.cpu("float32 activations, which a GPU does not have")),
    pytest.param(("--kv-cache-dtype", "fp8_e4m3"), id="fp8 cache"),
]


@pytest.fixture(scope="module", params=PRECISIONS)
def baseline(request, server):
    running = server(*request.param)
    return request.param, ask_all(running.url), running


def test_answers_are_not_all_alike(baseline):
    _, answers, _ = baseline
    assert len(set(answers)) == len(answers)
    assert all('"logprob"' in a for a in answers)


def test_alone_and_again(baseline):
    """The second time the prompts come from the prefix cache."""
    _, answers, running = baseline
    assert ask_all(running.url) == answers


def test_among_31_others(baseline):
    _, answers, running = baseline
    assert ask_all_at_once(running.url, 32 - len(QUESTIONS)) == answers


@pytest.mark.skipif(DEVICE != "cuda", reason="of a GPU: PROA_TEST_DEVICE=cuda")
@pytest.mark.parametrize("flags", [(), ("--disable-cuda-graph",)], ids=["graphs", "no graphs"])
def test_among_255_others(baseline, server, flags):
    precision, answers, _ = baseline
    other = server(*precision, "--max-running-requests", 256, *flags)
    assert ask_all_at_once(other.url, 256 - len(QUESTIONS)) == answers
    other.stop()


@pytest.mark.parametrize("flags", VARIANTS if DEVICE == "cpu" else GPU_VARIANTS, ids=lambda f: " ".join(map(str, f)))
def test_flags_change_no_bit(baseline, server, flags):
    precision, answers, _ = baseline
    other = server(*precision, *flags)
    assert ask_all_at_once(other.url, 6) == answers
    other.stop()
