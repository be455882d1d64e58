"""The HTTP server itself: limits, errors, framing, slow and vanishing clients. Over the fake backend, which keeps a pace that a test
chooses and whose server has small limits; what needs neither, over the engine too, on the device of PROA_TEST_DEVICE."""
import json
import re
import socket
import threading
import time

import httpx
import pytest

from conftest import TOP
from fake import Engine, FakeServer, read_all, read_response, read_until, request_bytes

# What a thread of a client raises fails the test too.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
LONG = {"prompt": "abc", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def fake():
    with FakeServer(step_us=500, body_max=1 << 20, head_s=0.6, body_s=0.6, idle_s=2) as server:
        yield server


@pytest.fixture(scope="module", params=["fake", "engine"])
def either(request, server):
    if request.param == "fake":
        return request.getfixturevalue("fake")
    return Engine(server("--model-path", TOP / "models/tiny-r1", "--served-model-name", "fake"))


def assert_error(response, status, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    if param is not None:
        assert error["param"] == param
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("method, path, status, allow", [
    ("GET", "/", 404, None),
    ("GET", "//v1/models", 404, None),
    ("GET", "/v1/models/", 404, None),
    ("GET", "/v1/models/other", 404, None),
    ("GET", "/V1/models", 404, None),
    ("GET", "/v1%2fmodels", 404, None),
    ("GET", "/v1/chat/completions", 405, "POST"),
    ("DELETE", "/v1/models", 405, "GET, HEAD"),
    ("OPTIONS", "/v1/chat/completions", 405, "POST"),
    ("PATCH", "/health", 405, "GET, HEAD"),
    ("BREW", "/flush_cache", 405, "GET, HEAD, POST"),
])
def test_paths_and_methods(either, method, path, status, allow):
    response = httpx.request(method, either.url + path)
    assert_error(response, status)
    assert response.headers.get("allow") == allow


@pytest.mark.parametrize("path", ["/start_profile", "/stop_profile"])
def test_no_client_writes_files_unless_the_operator_says_where(either, path):
    assert_error(httpx.post(either.url + path), 400)


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/fake", "/v1/models/%66ake", "/ping",
                                  "/version", "/get_model_info", "/get_server_info", "/flush_cache", "/health?x=y"])
def test_simple_endpoints(either, path):
    response = httpx.get(either.url + path)
    assert response.status_code == 200, response.text
    if path != "/flush_cache":
        head = httpx.head(either.url + path)
        assert head.status_code == 200 and head.content == b""


@pytest.mark.parametrize("body, status", [
    (b"", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b'{"a":1,"a":2}', 400), (b"\xff", 400), (b'"\xc3"', 400),
    (b'{"prompt":"a","n":1e999}', 400), (b'{"prompt":"a","temperature":NaN}', 400), (b"[" * 100000, 400),
    (b'{"prompt":"a","n":' + b"9" * 400 + b"}", 400), (b'{"prompt":"\\ud800"}', 400), (b"{}" * 2, 400),
    (b"[" + b"1," * 500000 + b"1]", 400),
])
def test_bad_json(either, body, status):
    assert_error(httpx.post(either.url + "/v1/completions", content=body, headers={"content-type": "application/json"}),
                 status)
    assert either.metric("proa:http_request_body_bytes") == 0


@pytest.mark.parametrize("headers, status", [
    ({"content-type": "text/plain"}, 415),
    ({"content-type": "application/jsonx"}, 415),
    ({}, 415),
    ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
    ({"content-type": "Application/JSON; charset=utf-8"}, 200),
])
def test_content_type(either, headers, status):
    response = httpx.post(either.url + "/v1/chat/completions", content=json.dumps(CHAT), headers=headers)
    assert response.status_code == status
    if status != 200:
        assert_error(response, status)


def exchange(fake, data):
    """Sends the bytes, returns everything that comes back until the connection ends."""
    with fake.connect() as connection:
        connection.sendall(data)
        return read_all(connection)


@pytest.mark.parametrize("data, status", [
    (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n", 411),
    (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n", 413),
    (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40000 + b"\r\n\r\n", 431),
    (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    (b"GET /" + b"y" * 40000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /health HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00", 400),
    (b"GET /health HTTP/1.1\nHost: a\n\n", 400),
])
def test_refused_at_the_head(either, data, status):
    reply = exchange(either, data)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), reply
    if status != 411:
        assert b"\r\nConnection: close" in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_a_chunked_body_over_the_limit(either):
    with either.connect() as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        end = time.monotonic() + 20  # the server reads on for a while, so that its answer arrives, then closes
        with pytest.raises(OSError):
            while time.monotonic() < end:
                connection.sendall(piece)
                time.sleep(0.001)
    either.wait_for("proa:http_request_body_bytes", 0, 5)


def test_the_refusal_of_a_large_body_reaches_the_client(fake):
    response = httpx.post(fake.url + "/v1/completions", content=b"x" * (2 << 20),
                          headers={"content-type": "application/json"})
    assert_error(response, 413)


def test_chunked_bodies_and_pipelining(either):
    body = json.dumps(CHAT).encode()
    chunked = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n")
    with either.connect() as connection:
        connection.sendall(chunked + request_bytes("/v1/completions", {"prompt": "xyz", "max_tokens": 2}) +
                           b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        replies = read_all(connection)
    assert replies.count(b"HTTP/1.1 200 OK") == 3
    assert replies.index(b"chat.completion") < replies.index(b"text_completion") < replies.index(b'"version"')


def test_expect_continue(either):
    with either.connect() as connection:
        data = request_bytes("/v1/completions", {"prompt": "xyz", "max_tokens": 2}, Expect="100-continue")
        head, _, body = data.partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_response(connection)[0] == 200


@pytest.mark.parametrize("given, kept", [("my-id.1", True), ("a b", False), ("x" * 129, False), ('a"b', False)])
def test_request_id(either, given, kept):
    response = either.post("/v1/chat/completions", CHAT, headers={"x-request-id": given})
    assert (response.headers["x-request-id"] == given) == kept
    assert response.json()["id"] == "chatcmpl-" + response.headers["x-request-id"]


def test_slow_head_and_body(fake):
    with fake.connect() as connection:
        start = time.monotonic()
        for byte in b"GET /health HTTP/1.1\r\nHost: abcdefgh":
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.05)
        reply = read_all(connection)
        assert reply.startswith(b"HTTP/1.1 408 "), reply
        assert time.monotonic() - start < 3
    with fake.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", b"x" * 1000)[:-500])
        reply = read_all(connection)
        assert reply.startswith(b"HTTP/1.1 408 "), reply


def test_an_idle_connection_is_closed_silently(fake):
    with fake.connect() as connection:
        start = time.monotonic()
        assert read_all(connection) == b""
        assert 1.5 < time.monotonic() - start < 4


def test_connections_over_the_limit_are_refused():
    with FakeServer(connections_max=5) as server:
        kept = [server.connect() for _ in range(5)]
        for connection in kept:
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_response(connection)[0] == 200
        with server.connect() as connection:
            assert read_all(connection).startswith(b"HTTP/1.1 503 ")
        kept.pop().close()
        time.sleep(0.1)
        with server.connect() as connection:
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_response(connection)[0] == 200
        for connection in kept:
            connection.close()


def test_api_key():
    with FakeServer(api_key="secret") as server:
        for headers, status in [({}, 401), ({"authorization": "Bearer wrong!"}, 401), ({"authorization": "secret"}, 401),
                                ({"authorization": "Bearer secretx"}, 401), ({"authorization": "Bearer"}, 401),
                                ({"authorization": "bearer secret"}, 200), ({"x-api-key": "secret"}, 200)]:
            response = server.post("/v1/chat/completions", CHAT, headers=headers)
            assert response.status_code == status, headers
            if status == 401:
                assert_error(response, 401)
                assert response.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(server.url + "/v1/models").status_code == 401
        assert httpx.get(server.url + "/nothing").status_code == 401  # paths are not told to strangers
        for path in ["/health", "/metrics", "/ping"]:
            assert httpx.get(server.url + path).status_code == 200
        assert "secret" not in httpx.get(server.url + "/get_server_info", headers={"x-api-key": "secret"}).text


def test_stream_bytes(either):
    with either.connect() as connection:
        connection.sendall(request_bytes("/v1/chat/completions", {**CHAT, "stream": True}))
        raw = read_until(connection, b"0\r\n\r\n")
    head, _, rest = raw.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert "content-type: text/event-stream; charset=utf-8" in lines
    assert "cache-control: no-cache" in lines
    assert "x-accel-buffering: no" in lines
    body = b""
    while rest:  # each chunk is a whole number of events
        size, _, rest = rest.partition(b"\r\n")
        chunk, rest = rest[:int(size, 16)], rest[int(size, 16) + 2:]
        assert chunk == b"" or (chunk.startswith(b"data: ") and chunk.endswith(b"\n\n"))
        body += chunk
    assert b"\r" not in body
    events = body.decode().split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    for event in events:
        assert event.startswith("data: {") and "\n" not in event
        assert json.loads(event[6:])["object"] == "chat.completion.chunk"
    assert json.loads(events[0][6:])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    last = json.loads(events[-1][6:])["choices"][0]
    assert last["delta"] == {} and last["finish_reason"] == "length"


def test_http_1_0_streams_end_with_the_connection(either):
    data = request_bytes("/v1/completions", {**LONG, "max_tokens": 5}).replace(b"HTTP/1.1", b"HTTP/1.0")
    reply = exchange(either, data)
    assert b"Transfer-Encoding" not in reply
    assert reply.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_request(either, stream):
    with either.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", {**LONG, "max_tokens": 100000 // 26, "stream": stream}))
        either.wait_for("proa:num_running_reqs", 1, 5)
        if stream:
            read_until(connection, b"data: ")
    assert either.wait_for("proa:num_running_reqs", 0, 5) < 0.5


def test_half_closed_counts_as_left(either):
    with either.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", {**LONG, "stream": False}))
        either.wait_for("proa:num_running_reqs", 1, 5)
        connection.shutdown(socket.SHUT_WR)
        assert either.wait_for("proa:num_running_reqs", 0, 5) < 0.5


def test_slow_readers_are_held_back_and_hold_back_nobody():
    """64 clients that read next to nothing: the backend stops making their tokens, memory stays, others are as fast."""
    with FakeServer(step_us=200, context=1 << 20) as server:
        quick = {**LONG, "max_tokens": 500}

        def seconds():
            start = time.monotonic()
            text = server.post("/v1/completions", quick).text
            assert text.count("data: ") == 502
            return time.monotonic() - start

        seconds()
        alone = min(seconds() for _ in range(3))
        before = server.metric("process_resident_memory_bytes")
        slow = [server.connect(receive_buffer=4096) for _ in range(64)]
        body = {"prompt": "abc", "max_tokens": 1000000, "ignore_eos": True, "stream": True, "logprobs": 5}
        for connection in slow:
            connection.sendall(request_bytes("/v1/completions", body))
        time.sleep(2)
        made = server.metric("proa:generation_tokens_total")
        for _ in range(5):
            for connection in slow:
                connection.recv(10)
            time.sleep(0.2)
        made_later = server.metric("proa:generation_tokens_total")
        grown = server.metric("process_resident_memory_bytes") - before
        beside = min(seconds() for _ in range(3))
        print(f"64 slow readers: {made:.0f} then {made_later:.0f} tokens made, memory grew by {grown / 1e6:.1f} MB; "
              f"500 tokens took {alone:.2f} s alone, {beside:.2f} s beside them")
        assert made_later - made < 64 * 64
        assert grown < 64 * 256 * 1024
        assert beside < alone * 2 + 0.2
        # one of them begins to read: its stream goes on
        slow[0].settimeout(20)
        got = 0
        while got < 3_000_000:
            got += len(slow[0].recv(65536))
        for connection in slow:
            connection.close()
        assert server.wait_for("proa:num_running_reqs", 0, 5) < 1


def test_a_reader_that_stalls_for_good_is_cut_off():
    with FakeServer(step_us=100, context=1 << 20, write_stall_s=1) as server:
        with server.connect(receive_buffer=4096) as connection:
            connection.sendall(request_bytes("/v1/completions", {**LONG, "max_tokens": 1000000}))
            server.wait_for("proa:num_running_reqs", 1, 5)
            assert 0.5 < server.wait_for("proa:num_running_reqs", 0, 6)


def test_a_large_prompt_does_not_hold_back_other_streams():
    with FakeServer(step_us=2000, context=1 << 22, body_max=32 << 20) as server:
        gaps = []

        def read_stream():
            last = None
            with httpx.stream("POST", server.url + "/v1/completions", json={**LONG, "max_tokens": 1000}) as response:
                for line in response.iter_lines():
                    now = time.monotonic()
                    if line and last is not None:
                        gaps.append(now - last)
                    last = now

        thread = threading.Thread(target=read_stream)
        thread.start()
        text = "the quick brown fox 12 " * (8 << 20 >> 5)
        response = server.post("/v1/completions", {"prompt": text, "max_tokens": 1})
        assert response.status_code == 200, response.text
        thread.join()
        print(f"a prompt of {response.json()['usage']['prompt_tokens']} tokens; longest gap of the other stream "
              f"{max(gaps) * 1000:.0f} ms of {len(gaps)}")
        assert len(gaps) >= 1000 and max(gaps) < 0.5


def test_metrics_page(either):
    """Every line as Prometheus wants it, histograms cumulative, counters that count."""
    body = {"prompt": "abc", "max_tokens": 7, "ignore_eos": True}
    either.post("/v1/completions", body)
    before = either.metric("proa:generation_tokens_total")
    either.post("/v1/completions", {**body, "n": 2})
    response = httpx.get(either.url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    types, last = {}, {}
    for line in response.text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in types and kind in ("counter", "gauge", "histogram")
            types[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = re.fullmatch(r'([a-zA-Z0-9_:]+)(?:\{((?:[a-z_]+="[^"]*",?)*)\})? ([0-9.e+-]+)', line).groups()
            base = re.sub("_(bucket|sum|count)$", "", name)
            assert name in types or types[base] == "histogram"
            if name.endswith("_bucket"):
                assert float(value) >= last.get(base, 0)
                last[base] = float(value)
                if 'le="+Inf"' in labels:
                    assert either.metric(f"{base}_count") == float(value)
    assert either.metric("proa:generation_tokens_total") == before + 14
    for name in ["time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"]:
        assert types[f"proa:{name}"] == "histogram" and either.metric(f"proa:{name}_count") > 0


def test_many_small_requests(either):
    """Not a benchmark: that nothing is lost when 32 clients ask at once."""
    failures = []
    body = {"prompt": "ab", "max_tokens": 2, "ignore_eos": True, "temperature": 0}
    text = either.post("/v1/completions", body).json()["choices"][0]["text"]

    def work():
        with httpx.Client(timeout=30) as client:
            for _ in range(20):
                try:
                    response = client.post(either.url + "/v1/completions", json=body)
                except httpx.HTTPError as error:
                    failures.append(repr(error))
                    return
                if response.status_code != 200 or response.json()["choices"][0]["text"] != text:
                    failures.append(response.text)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert either.metric("proa:num_running_reqs") == 0
