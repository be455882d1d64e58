"""Requests through a real nats-server: that they take that way, that none is lost or begun twice when the server dies or stops, and
that what strangers publish is refused. The proof engine says whether an answer is right."""
import collections
import shutil
import signal
import socket
import struct
import time

import pytest

from cluster import Cluster, Settings, wait_for
from places import Loopback
from proof import Load

HERE = Loopback()
SETTINGS = Settings(load_format="proof", request_plane="nats",
                    worker_flags=("--threads", "1", "--max-total-tokens", "32768"))


@pytest.fixture
def cluster(proa, tmp_path):
    if shutil.which("nats-server") is None:
        pytest.skip("nats-server is not installed")
    with Cluster(proa, tmp_path, SETTINGS) as one:
        one.nats(HERE)
        for mode in "prefill", "decode":
            one.worker(HERE, mode)
        one.frontend(HERE)
        one.wait_ready()
        wait_for(lambda: one.nats_server.connections() == 3, 5, "frontend and workers are connected to nats-server")
        yield one


def load_of(cluster, **more):
    return Load(**{"urls": [cluster.frontends[0].url], "clients": 8, "requests": 25, "prompt_tokens": (1, 600),
                   "new_tokens": (8, 48)} | more)


def judge(outcomes, load, allowed=("ok",)):
    bad = [o for o in outcomes if o.kind not in allowed]
    assert not bad, f"{collections.Counter(o.kind for o in outcomes)}, the first: {bad[0]}"
    assert len(outcomes) == load.clients * load.requests


def counters(cluster):
    """Requests given to nats-server, those of them that went over the link in the end, and replays elsewhere."""
    metrics = cluster.frontends[0].metrics()
    return [metrics[f"proa:cluster_{name}_total"][""] for name in ("nats_requests", "nats_relayed", "migrations")]


def assert_nothing_left(cluster):
    wait_for(lambda: not cluster.leftovers(), 5, "nothing is left over")


def test_all_requests_go_that_way(cluster):
    load = load_of(cluster)
    judge(cluster.load(HERE, load).wait(60), load)
    given, relayed, migrations = counters(cluster)
    # two legs each, all of them by NATS; but where others compute too, an acknowledgement may be late, and the link rests NATS
    assert given > load.clients * load.requests / 4
    assert relayed < given / 4
    assert migrations == 0
    assert_nothing_left(cluster)
    cluster.stop()


def test_a_prompt_over_the_server_s_limit_goes_over_the_link(cluster):
    """1 MB is what nats-server takes: 300,000 ids are more. The engine has no room for them and says so: by the link."""
    answer = cluster.frontends[0].post("/generate", {"input_ids": [1] * 300000, "sampling_params": {"max_new_tokens": 1}})
    assert answer.status_code == 400
    before = counters(cluster)[0]
    load = load_of(cluster, clients=1, requests=1, prompt_tokens=(4000, 4000))
    judge(cluster.load(HERE, load).wait(30), load)
    assert counters(cluster)[0] > before


def uses_nats_again(cluster):
    """A lost server is rested for some seconds, in which requests go over the links."""
    before, one = counters(cluster)[0], load_of(cluster, clients=1, requests=1)
    end = time.monotonic() + 20
    while counters(cluster)[0] == before and time.monotonic() < end:
        judge(cluster.load(HERE, one).wait(30), one)
    return counters(cluster)[0] > before


def test_killed_and_started_again(cluster):
    load = load_of(cluster, requests=60)
    run = cluster.load(HERE, load)
    run.wait_done(100)
    cluster.nats_server.kill()
    run.wait_done(200)  # nothing waits for the server
    cluster.nats_server.start()
    cluster.nats_server.wait_ready()
    wait_for(lambda: cluster.nats_server.connections() == 3, 5, "all are connected again")
    judge(run.wait(60), load)
    assert uses_nats_again(cluster)
    assert counters(cluster)[2] == 0  # migrations
    for part in cluster.frontends[0], *cluster.workers:
        lines = [line for line in part.process.log().splitlines() if " nats: nats-server" in line]
        assert sum("is lost" in line for line in lines) == 1, lines
    assert_nothing_left(cluster)
    cluster.stop()


def test_stopped_for_a_while(cluster):
    """It takes messages and gives none: acknowledgements are missed, the link has the requests, and none begins twice when the
    server wakes and delivers what it had."""
    load = load_of(cluster, requests=60)
    run = cluster.load(HERE, load)
    run.wait_done(100)
    cluster.nats_server.kill(signal.SIGSTOP)
    run.wait_done(250)
    cluster.nats_server.kill(signal.SIGCONT)
    judge(run.wait(60), load)
    _, relayed, migrations = counters(cluster)
    assert relayed > 0
    assert migrations == 0
    assert not [line for worker in cluster.workers for line in worker.process.log().splitlines() if "replay" in line]
    assert_nothing_left(cluster)
    cluster.stop()


def test_clients_that_leave(cluster):
    """A CANCEL goes over the link and may be faster than its request."""
    load = load_of(cluster, requests=15, leave_share=0.5, new_tokens=(64, 256))
    judge(cluster.load(HERE, load).wait(60), load, ("ok", "left"))
    assert_nothing_left(cluster)
    cluster.stop()


# --- strangers ---

class Stranger:
    """A client of nats-server that knows no key."""

    def __init__(self, server):
        self.socket = HERE.connect("127.0.0.1", server.port)
        self.socket.settimeout(5)
        self.received = b""
        self.send(b'CONNECT {"verbose": false}\r\n')
        self.sync()

    def send(self, data):
        self.socket.sendall(data)

    def publish(self, subject, body):
        self.send(f"PUB {subject} {len(body)}\r\n".encode() + body + b"\r\n")

    def sync(self):
        """The server has taken all that was sent."""
        self.send(b"PING\r\n")
        while b"PONG\r\n" not in self.received:
            self.received += self.socket.recv(65536)
        self.received = self.received.replace(b"PONG\r\n", b"", 1)

    def messages(self, subject):
        found, rest = [], self.received
        while (at := rest.find(b"MSG ")) >= 0:
            head, _, rest = rest[at:].partition(b"\r\n")
            words = head.split()
            length = int(words[-1])
            if words[1].decode() == subject:
                found.append(rest[:length])
            rest = rest[length:]
        return found


def refusals(worker):
    return [line for line in worker.process.log().splitlines() if "nats: refused a message" in line]


def test_strangers_are_refused(cluster):
    instances = cluster.frontends[0].health().json()["instances"]
    decode = cluster.workers[1]
    number = next(i["instance_id"] for i in instances if i["component"] == "backend")
    subject = f"dynamo_backend.generate-{number:x}"
    stranger = Stranger(cluster.nats_server)
    stranger.send(b"SUB > 1\r\n")
    stranger.sync()
    one = load_of(cluster, clients=1, requests=1)
    judge(cluster.load(HERE, one).wait(30), one)
    stranger.sync()
    sealed = stranger.messages(subject)
    assert len(sealed) == 1 and sealed[0][:4] == b"PNAT"
    flipped = bytearray(sealed[0])
    flipped[30] ^= 1
    other_frontend = struct.pack("<IHQQI", 0x54414E50, 1, 12345, 7, 4) + b"body" + bytes(32)
    tries = [(sealed[0], "replay"), (bytes(flipped), "not authenticated"), (other_frontend, "no link here")]
    for count, (body, why) in enumerate(tries, 1):
        stranger.publish(subject, body)
        wait_for(lambda: len(refusals(decode)) == count, 5, f"a refusal for {why}")
        assert why in refusals(decode)[-1]
        time.sleep(1.05)  # one line a second at most
    for _ in range(1000):
        stranger.publish(subject, b"noise")
    stranger.sync()
    wait_for(lambda: len(refusals(decode)) == len(tries) + 1, 5, "a line for the noise")
    time.sleep(0.3)
    assert len(refusals(decode)) == len(tries) + 1
    again = load_of(cluster, requests=5, seed=2)
    judge(cluster.load(HERE, again).wait(30), again)
    assert sum(line.count("used before") for line in decode.process.log().splitlines()) == 1  # the replay, no room
    assert_nothing_left(cluster)


def test_a_thief_delays_and_changes_nothing(cluster):
    """A stranger in the worker's queue group gets every second request. It can keep them, no more."""
    instances = cluster.frontends[0].health().json()["instances"]
    stranger = Stranger(cluster.nats_server)
    for instance in instances:
        service = f"dynamo_{instance['component']}"
        stranger.send(f"SUB {service}.generate-{instance['instance_id']:x} {service} {instance['instance_id']}\r\n".encode())
    stranger.sync()
    load = load_of(cluster, clients=4, requests=20)
    judge(cluster.load(HERE, load).wait(60), load)
    given, relayed, migrations = counters(cluster)
    assert 0 < relayed < given
    assert migrations == 0
    assert_nothing_left(cluster)
