"""proa health: what probes of containers and scripts ask."""
import re
import signal
import socket
import subprocess
import time

import pytest

from cluster import Cluster, Settings
from conftest import clean_environment
from places import Loopback

HERE = Loopback()
ONE_QUESTION_SECONDS = 40  # 5 by the program's own deadlines; the machine may be busy


@pytest.fixture(scope="module")
def cluster(proa, tmp_path_factory):
    with Cluster(proa, tmp_path_factory.mktemp("cluster"), Settings()) as one:
        one.frontend(HERE)
        yield one


def refused(result):
    assert (result.returncode, result.stdout) == (1, ""), result
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_nobody_is_there(run):
    port = HERE.free_port()
    for address in f"127.0.0.1:{port}", f"http://127.0.0.1:{port}":
        text = refused(run("health", "--address", address))
        assert text.startswith(f"proa: {address} does not serve: ") and re.search("refused|connect", text)


def test_no_address(run):
    text = refused(run("health", "--address", "here", "--wait", 30, timeout=10))  # it is not asked again
    assert "host:port" in text


def test_somebody_who_says_nothing(run):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        begin = time.monotonic()
        text = refused(run("health", "--address", f"127.0.0.1:{mute.getsockname()[1]}"))
        assert time.monotonic() - begin < ONE_QUESTION_SECONDS and "handshake" in text


def test_a_server(run, server):
    result = run("health", PROA_ADDRESS=server().url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{server().url}: a server by HTTP, healthy, ")


def test_who_is_not_there_yet_is_waited_for(proa, tmp_path):
    port = HERE.free_port()
    waiting = subprocess.Popen([proa, "health", "--address", f"127.0.0.1:{port}", "--wait", "60"], env=clean_environment())
    time.sleep(0.5)  # it has asked before anybody was there; nothing is wrong if it has not
    assert waiting.poll() is None
    late = HERE.popen("serve", [proa, "serve", "--port", port], tmp_path / "serve.log")
    try:
        assert waiting.wait(60) == 0, late.log_tail()
    finally:
        late.end()


def test_a_frontend_is_waited_for(proa, run, cluster):
    """Without workers it serves nothing; a wait that is under way ends when the first one is there."""
    url = cluster.frontends[0].url
    assert "status 503, workers: 0" in refused(run("health", "--address", url, "--wait", 0.5))
    waiting = subprocess.Popen([proa, "health", "--address", url, "--wait", "60"], stdout=subprocess.PIPE, text=True,
                               env=clean_environment())
    worker = cluster.worker(HERE, "null")
    assert waiting.wait(60) == 0
    assert ": a server by HTTP, healthy, workers: 1, " in waiting.stdout.read()
    address, key = f"127.0.0.1:{worker.port}", cluster.settings.key
    result = run("health", "--address", address, PROA_CLUSTER_KEY=key)
    assert result.returncode == 0 and f"{address}: worker for prefill and decode (" in result.stdout
    assert "cluster key" in refused(run("health", "--address", address, PROA_CLUSTER_KEY="one of another cluster"))
    worker.kill(signal.SIGSTOP)
    try:
        begin = time.monotonic()
        refused(run("health", "--address", address, PROA_CLUSTER_KEY=key))
        assert time.monotonic() - begin < ONE_QUESTION_SECONDS
    finally:
        worker.kill(signal.SIGCONT)
