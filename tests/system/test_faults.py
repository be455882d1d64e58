"""What clients see when the backend fails, goes silent, is full or loads, and when the server is told to end."""
import json
import signal
import subprocess
import threading
import time

import httpx
import pytest

from fake import MODEL, PROGRAM, FakeServer, read_all, read_until, request_bytes

LONG = {"prompt": "abc", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", LONG),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": True, "n": 3}),
    ("/generate", {"text": "abc", "stream": True}),
])
def test_a_failure_inside_a_stream_is_an_error_and_a_cut(path, body):
    with FakeServer(fail_after=5) as server, server.connect() as connection:
        connection.sendall(request_bytes(path, body))
        reply = read_all(connection)
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not reply.endswith(b"0\r\n\r\n") and b"[DONE]" not in reply
        last = reply.rstrip().rpartition(b"data: ")[2]
        assert set(json.loads(last)["error"]) == {"message", "type", "param", "code"}
        assert b"fake device" not in last  # causes of our own are for the log
        server.wait_for("proa:num_running_reqs", 0, 2)
        with pytest.raises(httpx.RemoteProtocolError):
            server.post(path, body)


@pytest.mark.parametrize("after, stream", [(0, True), (0, False), (5, False)])
def test_a_failure_before_the_first_byte_is_a_status(after, stream):
    with FakeServer(fail_after=after) as server:
        response = server.post("/v1/completions", {**LONG, "stream": stream})
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert response.headers["x-should-retry"] == "false"
        assert server.metric("proa:num_aborted_requests_total") == 1
        assert httpx.get(server.url + "/health").status_code == 200


def test_a_silent_backend_is_unhealthy_and_requests_end():
    with FakeServer(hang_after=3, stall_s=0.5, watchdog_s=1.5) as server:
        replies = []
        thread = threading.Thread(target=lambda: replies.append(server.post("/v1/completions", {**LONG, "stream": False})))
        thread.start()
        server.wait_for("proa:num_running_reqs", 1, 5)
        time.sleep(1)
        assert httpx.get(server.url + "/health").status_code == 503
        thread.join(10)
        assert replies and replies[0].status_code == 503


def test_loading():
    with FakeServer(wait=False, loading_ms=1000) as server:
        assert httpx.get(server.url + "/health").status_code == 503
        assert httpx.get(server.url + "/health_generate").status_code == 503
        response = server.post("/v1/completions", LONG)
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert httpx.get(server.url + "/metrics").status_code == 200
        assert httpx.get(server.url + "/v1/models").status_code == 200
        deadline = time.monotonic() + 10
        while httpx.get(server.url + "/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert httpx.get(server.url + "/health_generate").status_code == 200


def test_ended_while_loading():
    with FakeServer(wait=False, loading_ms=300) as server:
        server.terminate()
        assert server.process.wait(5) == 0


def test_a_full_queue():
    with FakeServer(queue_max=1, step_us=2000) as server, server.connect() as connection:
        response = server.post("/v1/completions", {"prompt": ["abc", "xyz"], "max_tokens": 3, "n": 2})
        assert [c["text"] for c in response.json()["choices"]] == ["abc", "abc", "xyz", "xyz"]  # one after the other
        connection.sendall(request_bytes("/v1/completions", LONG))
        server.wait_for("proa:num_running_reqs", 1, 5)
        response = server.post("/v1/completions", LONG)
        assert response.status_code == 429 and response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "overloaded"
        assert httpx.get(server.url + "/flush_cache").status_code == 400


def stream_until_end(server, body, got):
    with server.connect() as connection:
        connection.sendall(request_bytes("/v1/completions", body))
        got.append(read_until(connection, b"data: "))
        got.append(read_all(connection))


def test_sigterm_lets_streams_finish():
    with FakeServer(step_us=3000, drain_s=10) as server:
        got = []
        thread = threading.Thread(target=stream_until_end, args=(server, {**LONG, "max_tokens": 300}, got))
        idle = server.connect()
        thread.start()
        server.wait_for("proa:num_running_reqs", 1, 5)
        kept = httpx.Client()
        kept.get(server.url + "/health")
        server.terminate()
        time.sleep(0.2)
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url + "/health")
        assert read_all(idle) == b""
        thread.join(20)
        assert got[1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert server.process.wait(5) == 0


def test_sigterm_ends_long_streams_after_a_while():
    with FakeServer(step_us=3000, drain_s=0.5) as server:
        got = []
        thread = threading.Thread(target=stream_until_end, args=(server, LONG, got))
        thread.start()
        server.wait_for("proa:num_running_reqs", 1, 5)
        server.terminate()
        start = time.monotonic()
        assert server.process.wait(10) == 0
        assert time.monotonic() - start < 4
        thread.join(5)
        assert b'"error"' in got[1] and not got[1].endswith(b"0\r\n\r\n")


def test_a_second_signal_ends_at_once():
    with FakeServer(step_us=3000, drain_s=60) as server:
        got = []
        thread = threading.Thread(target=stream_until_end, args=(server, LONG, got))
        thread.start()
        server.wait_for("proa:num_running_reqs", 1, 5)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert server.process.wait(10) == 0
        assert time.monotonic() - start < 3
        thread.join(5)
        assert b'"error"' in got[1]


def test_a_port_in_use():
    with FakeServer() as server:
        second = subprocess.run([PROGRAM, MODEL, f"port={server.port}"], capture_output=True, text=True, timeout=20)
        assert second.returncode == 1
        assert f"port {server.port}" in second.stderr and "in use" in second.stderr
