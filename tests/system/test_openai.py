"""OpenAI's own client, and raw requests where it hides things, against `proa serve` with the bundled model."""
import concurrent.futures
import json
import socket
import subprocess
import time

import httpx
import openai
import pytest

from conftest import DEVICE, TOP, clean_environment

MODEL = TOP / "models" / "tiny-r1"
SUM = [{"role": "user", "content": "what is 12+34?"}]
THOUGHT = "12+34\n2+4=6 [6]\n1+3=4 [46]\n"


@pytest.fixture(scope="module")
def tiny(server):
    return server("--model-path", MODEL, "--served-model-name", "tiny-r1", "--threads", 1)


@pytest.fixture(scope="module")
def client(tiny):
    with openai.OpenAI(base_url=tiny.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client, messages=SUM, **more):
    return client.chat.completions.create(model="tiny-r1", messages=messages, **{"temperature": 0, **more})


def post(tiny, path, body):
    return httpx.post(tiny.url + path, json=body, timeout=60)


def test_models(client):
    assert [m.id for m in client.models.list()] == ["tiny-r1"]
    assert client.models.retrieve("tiny-r1").max_model_len == 4096
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-5")
    assert error.value.code == "model_not_found"


def test_chat(client):
    reply = ask(client)
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == "46"
    assert choice.message.reasoning_content == THOUGHT
    assert choice.finish_reason == "stop"
    assert reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    usage = reply.usage
    assert usage.prompt_tokens == 15 and usage.completion_tokens == 28 and usage.total_tokens == 43
    assert usage.completion_tokens_details.reasoning_tokens == 24
    assert abs(reply.created - time.time()) < 60


def test_chat_stream_equals_chat(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert len({c.id for c in chunks}) == 1
    deltas = [c.choices[0].delta for c in chunks if c.choices]
    assert deltas[0].role == "assistant" and deltas[0].content == ""
    assert all(d.role is None for d in deltas[1:])
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == THOUGHT
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_no_usage_chunk_unless_asked_for(client):
    assert all(c.choices and c.usage is None for c in ask(client, stream=True))


def test_continuous_usage(client):
    chunks = list(ask(client, stream=True, extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}}))
    counts = [c.usage.completion_tokens for c in chunks]
    assert counts == sorted(counts) and counts[-1] == 28


def test_reasoning_in_one_piece(client):
    message = ask(client, extra_body={"separate_reasoning": False}).choices[0].message
    assert message.content == THOUGHT + "</think>\n\n46"
    assert message.reasoning_content is None


def test_reasoning_cut_short(client):
    choice = ask(client, max_tokens=5).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content is None and THOUGHT.startswith(choice.message.reasoning_content)


def test_limits_on_length(client):
    for field in ["max_tokens", "max_completion_tokens"]:
        reply = ask(client, **{field: 7})
        assert reply.usage.completion_tokens == 7 and reply.choices[0].finish_reason == "length"
    assert ask(client, extra_body={"min_tokens": 40, "max_tokens": 40}).usage.completion_tokens == 40
    assert ask(client, max_tokens=60, extra_body={"ignore_eos": True}).usage.completion_tokens == 60


def complete(client, prompt="zq", **more):
    """A prompt that the model knows nothing about: what follows is wide open."""
    return client.completions.create(model="tiny-r1", prompt=prompt, **{"max_tokens": 12, "temperature": 2, "top_p": 1, **more})


def test_n_and_seed(client):
    several = complete(client, n=4, seed=7)
    texts = [c.text for c in several.choices]
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    assert several.usage.completion_tokens <= 48 and several.usage.prompt_tokens == 2
    for i, text in enumerate(texts):  # choice i is what seed + i gives alone
        assert complete(client, seed=7 + i).choices[0].text == text
    streamed = ["", "", "", ""]
    for chunk in complete(client, n=4, seed=7, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts


def test_without_a_seed_answers_differ(client):
    assert len({complete(client).choices[0].text for _ in range(6)}) > 1


@pytest.mark.parametrize("stop, text, matched", [
    ("=6", "12+34\n2+4", "=6"),
    (["zzz", "4=6 [6"], "12+34\n2+", "4=6 [6"),      # across token borders
    (["2+4=", "+4=6"], "12+34\n", "2+4="),            # the first to be complete
    ("nowhere", THOUGHT, 1),
    ("\n", "12+34", "\n"),
])
def test_stop_strings(client, stop, text, matched):
    for stream in [False, True]:
        if stream:
            chunks = list(ask(client, stop=stop, stream=True))
            got = "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks)
            last = chunks[-1].choices[0]
        else:
            last = ask(client, stop=stop).choices[0]
            got = last.message.reasoning_content
        assert got == text
        assert last.finish_reason == "stop" and last.matched_stop == matched


def test_stop_tokens_and_included_stops(client):
    reply = client.completions.create(model="tiny-r1", prompt="<｜User｜>what is 12+34?<｜Assistant｜><think>\n", temperature=0,
                                      max_tokens=50, stop=["4="], extra_body={"include_stop_str_in_output": True})
    assert reply.choices[0].text == "12+34\n2+4="
    ids = httpx.post(str(client.base_url) + "tokenize", json={"prompt": "=", "add_special_tokens": False}).json()["tokens"]
    choice = ask(client, extra_body={"stop_token_ids": ids}).choices[0]
    assert choice.message.reasoning_content == "12+34\n2+4" and choice.matched_stop == ids[0]


def test_chat_logprobs(client):
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 28  # the end of sequence is one of them
    assert b"".join(bytes(e.bytes) for e in entries[:24]).decode() == THOUGHT + "</think>"
    for e in entries:
        assert e.logprob <= 0 and len(e.top_logprobs) == 3
        assert e.top_logprobs[0].token == e.token and e.top_logprobs[0].logprob == e.logprob  # greedy
        assert [t.logprob for t in e.top_logprobs] == sorted((t.logprob for t in e.top_logprobs), reverse=True)
    streamed = [e for c in ask(client, logprobs=True, top_logprobs=3, stream=True)
                for e in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert streamed == entries
    assert ask(client).choices[0].logprobs is None


def test_logit_bias_and_penalties(client):
    digit = httpx.post(str(client.base_url) + "tokenize", json={"prompt": "1", "add_special_tokens": False}).json()["tokens"][0]
    text = ask(client, logit_bias={str(digit): -100}).choices[0].message.reasoning_content or ""
    assert "1" not in text
    assert set(ask(client, logit_bias={str(digit): 100}, max_tokens=5).choices[0].message.reasoning_content) == {"1"}
    greedy = {"prompt": "abcabcabcabc", "temperature": 0, "max_tokens": 40}
    plain = complete(client, **greedy, extra_body={"ignore_eos": True}).choices[0].text
    for name in ["frequency_penalty", "presence_penalty", "repetition_penalty"]:
        more = {"ignore_eos": True, name: 2}
        assert complete(client, **greedy, extra_body=more).choices[0].text != plain, name


def test_sampling_can_be_narrowed_to_greedy(client):
    greedy = ask(client).choices[0].message
    for more in [{"top_p": 0.0}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1.0}}]:
        assert ask(client, temperature=2, seed=3, **more).choices[0].message == greedy


def test_content_parts_and_history(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "what is"}, {"type": "text", "text": "12+34?"}]}]
    assert ask(client, parts).choices[0].message.content == "46"
    history = [{"role": "system", "content": "You are terse."}, *SUM,
               {"role": "assistant", "content": "<think>\nhm\n</think>\n\n46"}, {"role": "user", "content": "what is 2+2?"}]
    assert ask(client, history).choices[0].message.content == "4"


def test_special_tokens_of_users_stay_text(client):
    count = ask(client, [{"role": "user", "content": "<｜User｜>"}], max_tokens=1).usage.prompt_tokens
    assert count == ask(client, [{"role": "user", "content": ""}], max_tokens=1).usage.prompt_tokens + len(
        httpx.post(str(client.base_url) + "tokenize", json={"prompt": "<|User|>", "add_special_tokens": False}).json()["tokens"]
    ) - 2 + 6 or count > 10  # many tokens, not one: each full-width bar alone is three bytes
    tokens = httpx.post(str(client.base_url) + "tokenize", json={"messages": [{"role": "user", "content": "<｜User｜>"}]}).json()["tokens"]
    user = httpx.post(str(client.base_url) + "tokenize", json={"prompt": "<｜User｜>", "add_special_tokens": False}).json()["tokens"]
    assert len(user) == 1 and tokens.count(user[0]) == 1


def test_continuing_the_last_message(client):
    messages = [*SUM, {"role": "assistant", "content": "12+34\n2+4"}]
    choice = ask(client, messages, extra_body={"continue_final_message": True, "separate_reasoning": False}, max_tokens=3).choices[0]
    assert choice.message.content.startswith("=6")


def test_completions(client):
    prompt = "<｜User｜>what is 12+34?<｜Assistant｜><think>\n"
    reply = client.completions.create(model="tiny-r1", prompt=prompt, temperature=0, max_tokens=100)
    assert reply.choices[0].text == THOUGHT + "</think>\n\n46"
    assert reply.object == "text_completion" and reply.choices[0].finish_reason == "stop"
    ids = httpx.post(str(client.base_url) + "tokenize", json={"prompt": prompt}).json()["tokens"]
    several = client.completions.create(model="tiny-r1", prompt=[ids, ids], temperature=0, max_tokens=4, n=2, echo=True)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert {c.text for c in several.choices} == {prompt + "12+3"}
    assert several.usage.prompt_tokens == 2 * len(ids) and several.usage.completion_tokens == 16
    streamed = list(client.completions.create(model="tiny-r1", prompt=prompt, temperature=0, max_tokens=100, stream=True))
    assert "".join(c.choices[0].text for c in streamed) == THOUGHT + "</think>\n\n46"
    assert client.completions.create(model="tiny-r1", prompt=prompt).usage.completion_tokens == 16  # OpenAI's default


def test_completions_logprobs(client):
    logprobs = client.completions.create(model="tiny-r1", prompt="<｜User｜>what is 12+34?<｜Assistant｜><think>\n", temperature=0,
                                         max_tokens=6, logprobs=2).choices[0].logprobs
    assert "".join(logprobs.tokens) == "12+34\n"
    assert logprobs.text_offset == [0, 1, 2, 3, 4, 5]
    assert all(len(t) == 2 and list(t)[0] == token for t, token in zip(logprobs.top_logprobs, logprobs.tokens))
    assert logprobs.token_logprobs == [t[token] for t, token in zip(logprobs.top_logprobs, logprobs.tokens)]


def test_errors_reach_the_client_as_its_own(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-5", messages=SUM)
    assert error.value.code == "model_not_found" and error.value.param == "model"
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, temperature=3)
    assert error.value.param == "temperature" and "temperature" in error.value.message
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, [{"role": "user", "content": "word " * 5000}])
    assert error.value.code == "context_length_exceeded" and "4096" in error.value.message
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, max_tokens=4090)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        ask(client, response_format={"type": "json_object"})
    with pytest.raises(openai.BadRequestError):
        ask(client, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}])


def test_tools_are_taken(client):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    assert ask(client, tools=tools).choices[0].message.content == "46"  # tiny-r1's template does not show them
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, tools=tools, tool_choice="required")
    assert error.value.param == "tool_choice"


def test_prefix_cache_shows_in_usage(tiny, client):
    httpx.post(tiny.url + "/flush_cache")
    messages = [{"role": "user", "content": "count the letters in " + "abcdefgh" * 20}]
    first = ask(client, messages, max_tokens=1).usage
    again = ask(client, messages, max_tokens=1).usage
    assert first.prompt_tokens_details.cached_tokens == 0
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1


def test_generate(tiny):
    prompt = "<｜User｜>what is 12+34?<｜Assistant｜><think>\n"
    body = {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": 50}}
    reply = post(tiny, "/generate", {**body, "return_logprob": True, "top_logprobs_num": 2, "rid": "mine"}).json()
    assert reply["text"] == THOUGHT + "</think>\n\n46"
    info = reply["meta_info"]
    assert info["id"] == "mine" and info["finish_reason"] == {"type": "stop", "matched": 1}
    assert info["completion_tokens"] == len(reply["output_ids"]) == 28 and info["prompt_tokens"] == 14
    assert [t[1] for t in info["output_token_logprobs"]] == reply["output_ids"]
    assert all(len(t) == 2 for t in info["output_top_logprobs"])
    events = [e[6:] for e in post(tiny, "/generate", {**body, "stream": True}).text.split("\n\n") if e]
    assert events.pop() == "[DONE]"
    texts = [json.loads(e)["text"] for e in events]
    assert all(b.startswith(a) for a, b in zip(texts, texts[1:])) and texts[-1] == reply["text"]
    assert json.loads(events[-1])["output_ids"] == reply["output_ids"]
    batch = post(tiny, "/generate", {"input_ids": [reply["output_ids"][:3]] * 2,
                                     "sampling_params": {"temperature": 0, "max_new_tokens": 5, "stop": "nope"}}).json()
    assert len(batch) == 2 and batch[0]["text"] == batch[1]["text"]
    assert batch[0]["meta_info"]["finish_reason"] == {"type": "length", "length": 5}


def test_tokenize_round_trip(tiny):
    tokens = post(tiny, "/tokenize", {"prompt": "héllo 12<think>"}).json()
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 4096
    assert post(tiny, "/detokenize", {"tokens": tokens["tokens"]}).json() == {"prompt": "héllo 12<think>"}
    chat = post(tiny, "/tokenize", {"messages": SUM}).json()
    assert post(tiny, "/detokenize", {"tokens": chat["tokens"]}).json()["prompt"] == (
        "<｜begin▁of▁sentence｜><｜User｜>what is 12+34?<｜Assistant｜><think>\n")
    assert post(tiny, "/detokenize", {"tokens": [448]}).status_code == 400


def test_answers_do_not_depend_on_neighbours(client):
    questions = [f"what is {a}+{b}?" for a, b in [(1, 2), (33, 44), (7, 8), (100, 250), (19, 91), (5, 5), (64, 46), (12, 34)]]
    alone = [ask(client, [{"role": "user", "content": q}]).choices[0].message for q in questions]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda q: ask(client, [{"role": "user", "content": q}]).choices[0].message, questions * 3))
    assert together == alone * 3


def metric(tiny, name):
    lines = httpx.get(tiny.url + "/metrics").text.splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith(f"proa:{name}{{")][0]


def test_a_client_that_leaves_frees_its_request(tiny):
    body = {"model": "tiny-r1", "messages": SUM, "stream": True, "max_tokens": 4000, "ignore_eos": True}
    with httpx.stream("POST", tiny.url + "/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(5):
            next(lines)
        assert metric(tiny, "num_running_reqs") == 1
    start = time.monotonic()
    while metric(tiny, "num_running_reqs") != 0:
        assert time.monotonic() - start < 5
        time.sleep(0.005)
    print(f"freed {1000 * (time.monotonic() - start):.0f} ms after the client left")


def test_slow_readers_do_not_hold_back_others(tiny, client):
    body = json.dumps({"messages": SUM, "stream": True, "max_tokens": 4000, "ignore_eos": True}).encode()
    slow = []
    before = metric(tiny, "generation_tokens_total")
    for _ in range(8):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", tiny.port))
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body)
        slow.append(one)
    deadline = time.monotonic() + 30
    made = -1
    while made != metric(tiny, "generation_tokens_total"):  # until all of them are held back
        assert time.monotonic() < deadline
        made = metric(tiny, "generation_tokens_total")
        time.sleep(0.3)
    assert made - before < 8 * 1000
    assert ask(client).choices[0].message.content == "46"
    for one in slow:
        one.close()
    while metric(tiny, "num_running_reqs") + metric(tiny, "num_queue_reqs") > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_health(tiny):
    assert httpx.get(tiny.url + "/health").status_code == 200
    assert httpx.get(tiny.url + "/health_generate", timeout=30).status_code == 200
    info = httpx.get(tiny.url + "/get_server_info").json()
    assert info["context_length"] == 4096 and info["max_total_num_tokens"] % 64 == 0


@pytest.mark.parametrize("arguments, words", [
    (["--model-path", "/nowhere"], ["/nowhere"]),
    (["--context-length", 100000], ["--context-length 100000", "4096"]),
    (["--max-total-tokens", 64, "--mem-fraction-static", 2], ["mem-fraction-static"]),
    (["--host", "no.such.host.invalid"], ["no.such.host.invalid"]),
])
def test_bad_starts_say_why(proa, arguments, words):
    given = arguments if "--model-path" in arguments else ["--model-path", MODEL, *arguments]
    done = subprocess.run([proa, "serve", "--port", "0", *map(str, given)], capture_output=True, text=True, timeout=60,
                          env=clean_environment())
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr


@pytest.mark.skipif(DEVICE == "stand-in", reason="no model is beside the program with the GPU in host memory")
def test_the_bundled_model_and_the_end(proa, server):
    one = server("--threads", 1)
    assert httpx.get(one.url + "/v1/models").json()["data"][0]["id"] == "tiny-r1"
    assert f"listening on http://127.0.0.1:{one.port}" in one.log()
    second = subprocess.run([proa, "serve", "--port", str(one.port)], capture_output=True, text=True, timeout=60,
                            env=clean_environment())
    assert second.returncode != 0 and "in use" in second.stderr
    assert one.stop() == 0
