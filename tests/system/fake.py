"""A server whose answers repeat their prompt, for what no model can be made to do: fail in the middle, go silent, speak
at a given pace. Its source is tests/fake."""
import json
import signal
import socket
import subprocess
import time

import httpx

from conftest import BUILD, TOP

PROGRAM = BUILD / "tests" / "fake" / "fake_server"
MODEL = TOP / "models" / "tiny-r1"


class Client:
    """What tests ask of a server on loopback, at `url` and `port`."""

    def connect(self, receive_buffer=None):
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def post(self, path, body, **more):
        return httpx.post(self.url + path, json=body, timeout=30, **more)

    def metric(self, name):
        """The sum of a metric over its labels."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                total += float(line.split()[-1])
        return total

    def wait_for(self, name, value, seconds):
        """Waits until the metric has the value; returns how long that took."""
        start = time.monotonic()
        while self.metric(name) != value:
            assert time.monotonic() - start < seconds, f"{name} is {self.metric(name)}, not {value}, after {seconds} s"
            time.sleep(0.01)
        return time.monotonic() - start


class Engine(Client):
    """A running `proa serve` (conftest.py)."""

    def __init__(self, server):
        self.url, self.port = server.url, server.port


class FakeServer(Client):
    def __init__(self, wait=True, **settings):
        assert PROGRAM.is_file(), f"{PROGRAM} is not built: run `make`"
        arguments = [f"{name}={value}" for name, value in settings.items()]
        self.process = subprocess.Popen([PROGRAM, MODEL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), self.process.stderr.read()
        self.port = int(line.split()[-1])
        self.url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 20
        while wait and httpx.get(f"{self.url}/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)


def request_bytes(path, body, method="POST", **headers):
    """A request as it stands on the wire."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def read_all(connection):
    """Everything until the server ends the connection."""
    data = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece


def read_until(connection, end):
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data


def read_response(connection):
    """Status, headers and body of one response that has a Content-Length."""
    head, _, body = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(lines[0].split()[1]), headers, body
