"""Requests with everything in them that could differ between a cluster and one process, and their answers without what may
differ (ids, times, how a stream is cut into chunks).

As a program, it reads {"url", "requests", "at_once"} as JSON from standard input, asks and prints the answers as JSON. So it can run
on a host of a lab.
"""
import asyncio
import json
import random
import sys

import httpx

VOCABULARY = 448
WORDS = ["strawberry", "elephant", "what is 384+967?", "reverse the word water", "hello, who are you?",
         "Sort 5, 92, 31, 7, 64 from largest to smallest.", "what is 7812 divided by 36?", "how many r's are in berry?"]


# --- questions ---

def sampling(r, limit):
    """Greedy or sampled, with penalties and filters now and then."""
    more = {"max_tokens": r.randint(1, limit)}
    if r.random() < 0.35:
        return more | {"temperature": 0}
    more |= {"temperature": r.choice([0.7, 1.0, 1.5]), "seed": r.randrange(1 << 31), "top_p": r.choice([1.0, 0.95, 0.8])}
    if r.random() < 0.4:
        more |= {"frequency_penalty": r.choice([0.1, 0.5]), "presence_penalty": r.choice([0, 0.3])}
    if r.random() < 0.3:
        more |= {"repetition_penalty": 1.1}
    if r.random() < 0.3:
        more |= {"top_k": r.choice([1, 20, 50]), "min_p": r.choice([0, 0.02])}
    if r.random() < 0.2:
        more |= {"logit_bias": {str(r.randrange(VOCABULARY)): r.choice([-100, 3])}}
    return more


def chat(r):
    messages = [{"role": "user", "content": r.choice(WORDS)}]
    for _ in range(r.randrange(4)):
        messages += [{"role": "assistant", "content": str(r.randrange(1000))}, {"role": "user", "content": r.choice(WORDS)}]
    body = {"messages": messages, **sampling(r, 100)}
    if r.random() < 0.6:
        body |= {"logprobs": True, "top_logprobs": r.randrange(6)}
    return "/v1/chat/completions", body


def completion(r):
    prompt = [r.randrange(2, VOCABULARY) for _ in range(r.choice([1, 2, 63, 64, 65, r.randint(1, 300)]))]
    body = {"prompt": prompt, **sampling(r, 60), "ignore_eos": r.random() < 0.5}
    if r.random() < 0.5:
        body |= {"logprobs": r.randrange(6)}
    if r.random() < 0.4:
        body |= {"stop": r.sample(["e", "7", " the", "12", "zz"], 2)}
    return "/v1/completions", body


def generate(r):
    prompt = [r.randrange(2, VOCABULARY) for _ in range(r.randint(1, 300))]
    params = sampling(r, 60)
    params["max_new_tokens"] = params.pop("max_tokens")
    params["ignore_eos"] = r.random() < 0.5
    seed = params.pop("seed", None)
    if seed is not None:
        params["sampling_seed"] = seed
    body = {"input_ids": prompt, "sampling_params": params}
    if r.random() < 0.6:
        body |= {"return_logprob": True, "top_logprobs_num": r.randrange(4)}
    return "/generate", body


def draw_request(number, seed):
    """(path, body); the same for the same numbers. The first ones are one of each kind."""
    r = random.Random(f"mixed {seed} {number}")
    path, body = [chat, completion, generate][number % 3](r)
    body["stream"] = r.random() < 0.5
    if path != "/generate" and r.random() < 0.2:
        body["n"] = 2
    return path, body


def draw_requests(count, seed=1):
    return [draw_request(i, seed) for i in range(count)]


# --- answers ---

def events(text):
    for line in text.split("\n"):  # and not at what else Python takes for the end of a line
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def join_chat(chunks):
    """{index: [texts by field, logprobs, finish_reason]} of a stream."""
    joined = {}
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        one = joined.setdefault(choice["index"], {"texts": {}, "logprobs": [], "finish_reason": None})
        for field, text in choice["delta"].items():
            if field != "role" and isinstance(text, str):
                one["texts"][field] = one["texts"].get(field, "") + text
        one["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
        one["finish_reason"] = choice["finish_reason"] or one["finish_reason"]
    return joined


def join_completion(chunks):
    joined = {}
    for choice in (c for chunk in chunks for c in chunk["choices"]):
        one = joined.setdefault(choice["index"], {"text": "", "logprobs": {}, "finish_reason": None})
        one["text"] += choice["text"]
        for name, values in (choice.get("logprobs") or {}).items():
            one["logprobs"].setdefault(name, []).extend(values)
        one["finish_reason"] = choice["finish_reason"] or one["finish_reason"]
    return joined


MAY_DIFFER = {"id", "e2e_latency", "cached_tokens", "total_retractions"}


def plain_generate(answer):
    meta = {k: v for k, v in answer["meta_info"].items() if k not in MAY_DIFFER}
    return {"text": answer["text"], "output_ids": answer["output_ids"], "meta_info": meta}


def reduce_answer(path, stream, text):
    """What must be equal, whatever has served it."""
    if path == "/generate":
        last = list(events(text))[-1] if stream else json.loads(text)
        return {"error": last} if "error" in last else plain_generate(last)
    if not stream:
        answer = json.loads(text)
        usage = {k: answer["usage"][k] for k in ("prompt_tokens", "completion_tokens")}
        return {"choices": answer["choices"], "usage": usage}
    chunks = list(events(text))
    if any("error" in chunk for chunk in chunks):
        return {"error": chunks[-1]}
    joined = (join_chat if "chat" in path else join_completion)(chunks)
    return {str(index): joined[index] for index in sorted(joined)}


async def ask(http, gate, url, path, body):
    async with gate:
        response = await http.post(url + path, json=body)
    if response.status_code != 200:
        return {"status": response.status_code, "body": response.text}
    if body["stream"] and not response.text.endswith("data: [DONE]\n\n"):
        return {"cut": response.text[-300:]}
    return reduce_answer(path, body["stream"], response.text)


async def ask_all(url, requests, at_once=16):
    """The answers of (path, body) pairs, in order."""
    gate = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(timeout=300, trust_env=False) as http:
        return await asyncio.gather(*(ask(http, gate, url, path, body) for path, body in requests))


def ask_from(place, log_path, url, requests, at_once=16, timeout=300):
    """The same, from a process at a place."""
    process = place.popen("mixed", [sys.executable, "-B", __file__], log_path, pipes=True)
    try:
        job = json.dumps({"url": url, "requests": requests, "at_once": at_once})
        answers, _ = process.popen.communicate(job, timeout=timeout)
        return json.loads(answers)
    finally:
        process.end()


def differences(answers, expected, requests):
    """A sentence for each answer that is not as expected."""
    return [f"request {i}, {json.dumps(request)[:400]}\n  answer {json.dumps(a)[:600]}\n  instead of {json.dumps(e)[:600]}"
            for i, (request, a, e) in enumerate(zip(requests, answers, expected, strict=True)) if a != e]


if __name__ == "__main__":
    json.dump(asyncio.run(ask_all(**json.load(sys.stdin))), sys.stdout)
