#!/usr/bin/env python3
"""gpu_client.py URL wait SECONDS [PID] | first | cancel COUNT | soak COUNT CLIENTS - what gpu_model.sh asks of a server; needs Python alone.

wait    until /health answers with 200; 1 after SECONDS, and as soon as process PID, the server's, has ended
first   one token, its answer on standard output
cancel  COUNT clients that leave a streamed answer after 0.1 to 0.8 s; 1 unless no request runs 10 s later
soak    COUNT requests of random lengths by CLIENTS at once, of which a fifth leave early; a prompt that comes again has the same
        tokens' probabilities, to the last digit, whatever was beside it, cut or taken back in between
"""
import http.client
import json
import queue
import random
import sys
import threading
import time
import urllib.parse


def connect(url, timeout):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def get(url, path, timeout=5):
    connection = connect(url, timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def complete(url, prompt, tokens, stream, timeout, **more):
    connection = connect(url, timeout)
    body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream} | more
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    return connection, connection.getresponse()


def ended(pid):
    """Whether it is gone, or waits for its parent to ask what became of it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait(url, seconds, pid=None):
    end, last = time.monotonic() + seconds, "nothing"
    while time.monotonic() < end:
        try:
            status, text = get(url, "/health")
            if status == 200:
                return 0
            last = f"{status} {text.strip()[:200]}"
        except (OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
        if pid and ended(pid):
            print(f"the server, process {pid}, has ended before it was ready; last: {last}", file=sys.stderr)
            return 1
        time.sleep(0.02)
    print(f"{url}/health is not 200 after {seconds:g} s; last: {last}", file=sys.stderr)
    return 1


def first(url):
    connection, answer = complete(url, "2+2=", 1, False, 60)
    text = answer.read().decode()
    connection.close()
    print(text)
    return 0 if '"choices"' in text else 1


def leave(url, number, failures):
    try:
        connection, answer = complete(url, f"{number}+{number}=", 2000, True, 60)
        end = time.monotonic() + 0.1 * (number % 8 + 1)
        while time.monotonic() < end and answer.read(64):
            pass
        connection.close()
    except OSError as error:
        failures.append(f"client {number}: {error}")


def settled(url):
    """An error unless no request runs 10 s later."""
    running = "not told"
    for _ in range(100):
        lines = [line for line in get(url, "/metrics")[1].splitlines() if line.startswith("proa:num_running_reqs")]
        running = "; ".join(lines) or running
        if lines and all(float(line.split()[-1]) == 0 for line in lines):
            return []
        time.sleep(0.1)
    return [f"requests of clients that left still run: {running}"]


def cancel(url, count):
    failures = []
    clients = [threading.Thread(target=leave, args=(url, i, failures)) for i in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    failures += settled(url)
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


class Soak:
    """Prompts come again, with other numbers of tokens: the shorter answer is the longer one's beginning."""

    def __init__(self, url, count):
        self.url, self.failures, self.left, self.lock = url, [], 0, threading.Lock()
        self.known = {}  # prompt: log probabilities so far
        self.work = queue.SimpleQueue()
        dice = random.Random(7)
        prompts = ["".join(dice.choice("0123456789+-*= ") for _ in range(dice.randint(1, 1500))) for _ in range(count // 8 + 1)]
        for _ in range(count):
            self.work.put((dice.choice(prompts), dice.randint(1, 250), dice.random() < 0.2, dice.random()))

    def whole(self, prompt, tokens):
        connection, answer = complete(self.url, prompt, tokens, False, 300, logprobs=1, temperature=0)
        body = json.loads(answer.read())
        connection.close()
        got = body["choices"][0]["logprobs"]["token_logprobs"]
        if len(got) != tokens or body["usage"]["completion_tokens"] != tokens:
            raise ValueError(f"{len(got)} of {tokens} tokens")
        with self.lock:
            want = self.known.setdefault(prompt, got)
            both = min(len(got), len(want))
            if got[:both] != want[:both]:
                raise ValueError("other probabilities than the same prompt had before")
            self.known[prompt] = max(got, want, key=len)

    def leave(self, prompt, tokens, share):
        connection, answer = complete(self.url, prompt, tokens, True, 300)
        for _ in range(int(share * tokens) + 1):
            if not answer.read(64):
                break
        connection.close()
        with self.lock:
            self.left += 1

    def client(self):
        while True:
            try:
                prompt, tokens, leaves, share = self.work.get_nowait()
            except queue.Empty:
                return
            try:
                if leaves:
                    self.leave(prompt, tokens, share)
                else:
                    self.whole(prompt, tokens)
            except (OSError, KeyError, ValueError, http.client.HTTPException) as error:
                with self.lock:
                    self.failures.append(f"{type(error).__name__}: {error}")


def soak(url, count, clients):
    work = Soak(url, count)
    threads = [threading.Thread(target=work.client) for _ in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = work.failures + settled(url)
    retracted = [line for line in get(url, "/metrics")[1].splitlines() if "retract" in line and not line.startswith("#")]
    print(f"{count} requests, {work.left} left early, {len(work.known)} prompts, {time.monotonic() - start:.1f} s, {len(failures)} failures")
    print("\n".join(retracted + failures[:5]))
    return 1 if failures else 0


def main():
    url, what, *rest = sys.argv[1:]
    if what == "wait":
        return wait(url, float(rest[0]), *rest[1:])
    if what == "soak":
        return soak(url, int(rest[0]), int(rest[1]))
    return first(url) if what == "first" else cancel(url, int(rest[0]))


if __name__ == "__main__":
    sys.exit(main())
