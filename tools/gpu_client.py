#!/usr/bin/env python3
"""gpu_client.py URL wait SECONDS | first | cancel COUNT - what gpu_model.sh asks of a server; needs Python alone.

wait    until /health answers with 200; 1 after SECONDS
first   one token, its answer on standard output
cancel  COUNT clients that leave a streamed answer after 0.1 to 0.8 s; 1 unless no request runs 10 s later
"""
import http.client
import json
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


def complete(url, prompt, tokens, stream, timeout):
    connection = connect(url, timeout)
    body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    return connection, connection.getresponse()


def wait(url, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if get(url, "/health")[0] == 200:
                return 0
        except OSError:
            pass
        time.sleep(0.02)
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


def cancel(url, count):
    failures = []
    clients = [threading.Thread(target=leave, args=(url, i, failures)) for i in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    running = "not told"
    for _ in range(100):
        lines = [line for line in get(url, "/metrics")[1].splitlines() if line.startswith("proa:num_running_reqs")]
        running = "; ".join(lines) or running
        if lines and all(float(line.split()[-1]) == 0 for line in lines):
            break
        time.sleep(0.1)
    else:
        failures.append(f"requests of clients that left still run: {running}")
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


def main():
    url, what, *rest = sys.argv[1:]
    if what == "wait":
        return wait(url, float(rest[0]))
    return first(url) if what == "first" else cancel(url, int(rest[0]))


if __name__ == "__main__":
    sys.exit(main())
