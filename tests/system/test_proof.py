"""The oracle itself: a stand-in answers right, wrong, short and not at all, and each is called by its name."""
import asyncio
import collections
import json
import threading

import pytest

import proof

FAULTS = {
    "none": "ok", "one token": "wrong", "one logprob": "wrong", "one too many": "wrong", "taken back": "wrong",
    "ends early": "short", "says stop early": "short", "no done": "short", "an error event": "failed", "cut": "failed",
    "status 503": "failed",
}


class StandIn:
    """Speaks as `proa serve --load-format proof` does, with one fault. Runs on a thread of its own."""

    def __init__(self, fault):
        self.fault = fault
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self):
        self._thread.start()
        self._started.wait(5)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(5)

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._end.wait()
        server.close()

    async def _answer(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split("\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            if self.fault == "status 503":
                writer.write(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
                events = list(self._events(body))
                for event in events if body["stream"] else events[-1:]:
                    piece = f"data: {event}\n\n".encode() if body["stream"] else event.encode()
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                writer.write(b"" if self.fault == "cut" else b"0\r\n\r\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _events(self, body):
        prompt, count = body["input_ids"], body["sampling_params"]["max_new_tokens"]
        pairs = proof.closed_form(prompt, count + 1, 448)
        if self.fault == "one token":
            pairs[count // 2] = ((pairs[count // 2][0] + 1) % 448, pairs[count // 2][1])
        if self.fault == "one logprob":
            pairs[count // 2] = (pairs[count // 2][0], pairs[count // 2][1] - 0.00390625)
        lengths = list(range(1, count + 1))
        if self.fault == "one too many":
            lengths.append(count + 1)
        if self.fault == "taken back" and count > 2:
            lengths.insert(2, 1)
        if self.fault in ("ends early", "says stop early", "cut", "an error event"):
            lengths.pop()
        for length in lengths:
            ended = length == count or (self.fault == "says stop early" and length == lengths[-1])
            yield json.dumps({"output_ids": [t for t, _ in pairs[:length]], "meta_info": {
                "finish_reason": {"type": "length", "length": length} if ended else None,
                "prompt_tokens": len(prompt), "completion_tokens": length,
                "output_token_logprobs": [[logprob, token, None] for token, logprob in pairs[:length]]}})
        if self.fault == "an error event":
            yield json.dumps({"error": {"message": "a worker is gone"}})
        elif self.fault != "no done" and body["stream"]:
            yield "[DONE]"


@pytest.mark.parametrize("fault, kind", FAULTS.items())
def test_each_fault_has_its_name(fault, kind):
    with StandIn(fault) as server:
        load = proof.Load([server.url], clients=2, requests=5, prompt_tokens=(1, 40), new_tokens=(3, 9), logprob_share=1.0,
                          stream_share=1.0)
        outcomes = asyncio.run(proof.run_load(load))
    assert collections.Counter(o.kind for o in outcomes) == {kind: 10}, outcomes[0]
    assert all(o.detail for o in outcomes if kind != "ok")


def test_whole_answers_and_clients_that_leave():
    with StandIn("none") as server:
        load = proof.Load([server.url], clients=2, requests=20, stream_share=0.0, leave_share=0.5)
        outcomes = asyncio.run(proof.run_load(load))
    kinds = collections.Counter(o.kind for o in outcomes)
    assert set(kinds) <= {"ok", "left"} and kinds["ok"] > 0 and kinds["left"] > 0


def test_a_frontend_that_is_gone_is_passed_over():
    with StandIn("none") as gone:
        pass
    with StandIn("none") as server:
        urls = [gone.url, server.url]
        outcomes = asyncio.run(proof.run_load(proof.Load(urls, clients=2, requests=3)))
        assert [o.kind for o in outcomes] == ["ok"] * 6
    outcomes = asyncio.run(proof.run_load(proof.Load(urls, clients=1, requests=1)))
    assert [o.kind for o in outcomes] == ["failed"] and "no frontend" in outcomes[0].detail


def test_the_closed_form_is_that_of_the_engine():
    """What tests/unit/proof_oracle.c gives, which test_proof.c compares the engine with."""
    assert proof.closed_form([5, 447, 0], 6, 129280) == [
        (42943, -8.4453125), (108182, -14.5234375), (60969, -12.91796875), (102770, -4.53515625), (80454, -13.08984375),
        (122371, -8.140625)]


def test_the_closed_form_depends_on_every_token():
    prompt = list(range(70))
    base = proof.closed_form(prompt, 4, 129280)
    assert proof.closed_form(prompt, 8, 129280)[:4] == base
    assert proof.closed_form(prompt + [base[0][0]], 3, 129280) == base[1:]
    for position in (0, 1, 63, 64, 69):
        changed = prompt[:position] + [447] + prompt[position + 1:]
        assert proof.closed_form(changed, 4, 129280) != base
    assert proof.closed_form(prompt, 4, 129280, key=2) != base
