"""The lab of hosts itself: what the other tests believe of it."""
import os
import signal
import statistics
import time

import pytest

from cluster import wait_for

PORT = 7000
ECHO = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("0.0.0.0", {PORT}), Echo).serve_forever()
"""


def start_echo(lab, index, tmp_path):
    return lab.host(index).popen("echo", ["python3", "-c", ECHO], tmp_path / f"echo{index}.log")


def reach(lab, source, target, timeout=1.0):
    """A connection from one host to the echo server of another; its server may still be starting."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return lab.host(source).connect(lab.host(target).address, PORT, timeout)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def echo(connection, data=b"x"):
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        got += connection.recv(65536)
    return got


def round_trip_ms(connection, times=5):
    taken = []
    for _ in range(times):
        begun = time.monotonic()
        echo(connection)
        taken.append((time.monotonic() - begun) * 1000)
    return statistics.median(taken)


@pytest.fixture
def pair(lab, tmp_path):
    """A lab of three hosts, and a connection from the first to an echo server on the second."""
    three = lab(3)
    start_echo(three, 1, tmp_path)
    with reach(three, 0, 1) as connection:
        yield three, connection


def test_hosts_are_apart(lab, tmp_path):
    two = lab(2)
    script = "hostname; ls /proc | grep -c '^[0-9]'; ls /dev/shm | wc -l; touch /dev/shm/mine"
    for i in range(2):
        process = two.host(i).popen("look", ["sh", "-c", script], tmp_path / f"look{i}.log")
        assert process.wait(5) == 0
        name, processes, shared = process.log().split()
        assert name == f"h{i}" and int(processes) < 8 and shared == "0"
    with pytest.raises(OSError):
        two.host(0).connect("192.0.2.1", 80)


def test_nothing_is_lost_while_the_switch_waits(lab, tmp_path):
    """For a processor, as it does when dozens of ranks compute."""
    two = lab(2)
    frames, before = 5000, two.counts(0, 1).passed
    send = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor _ in range({frames}): s.sendto(b'x', ('{two.host(1).address}', 9))"
    os.kill(two.switch_pid, signal.SIGSTOP)
    try:
        assert two.host(0).popen("send", ["python3", "-c", send], tmp_path / "send.log").wait(60) == 0
    finally:
        os.kill(two.switch_pid, signal.SIGCONT)
    wait_for(lambda: two.counts(0, 1).passed - before >= frames, 30, "all frames have passed")


def test_large_data_comes_through(pair):
    _, connection = pair
    data = os.urandom(1 << 20)
    connection.setblocking(False)
    sent, got, deadline = 0, b"", time.monotonic() + 10
    while len(got) < len(data) and time.monotonic() < deadline:
        try:
            sent += connection.send(data[sent:sent + 65536])
        except BlockingIOError:
            pass
        try:
            got += connection.recv(1 << 18)
        except BlockingIOError:
            time.sleep(0.0005)
    assert got == data


def test_delay_and_rate(pair):
    lab, connection = pair
    assert round_trip_ms(connection) < 5
    lab.delay(10)
    assert 20 <= round_trip_ms(connection) < 30
    lab.heal()
    lab.rate(1, 1000)
    begun = time.monotonic()
    echo(connection, bytes(20000))  # 160 kbit each way
    assert time.monotonic() - begun > 0.2
    lab.heal()
    assert round_trip_ms(connection) < 5


def test_partition(pair):
    lab, connection = pair
    lab.partition(1, 0, one_way=True)
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        echo(connection)
    with pytest.raises(TimeoutError):
        reach(lab, 0, 1, timeout=0.3)
    assert lab.counts(1, 0).lost > 0 and lab.counts(0, 1).lost == 0
    assert lab.counts(0, 2).lost == 0
    lab.heal()
    connection.settimeout(5)
    assert connection.recv(1) == b"x"


def test_loss_and_duplicates_harm_no_stream(pair):
    lab, connection = pair
    lab.loss(10)
    lab.duplicate(10)
    for i in range(50):
        assert echo(connection, bytes([i]) * 3000) == bytes([i]) * 3000
    counts = lab.counts(0, 1)
    assert counts.lost > 0 and counts.duplicated > 0


def test_corruption_reaches_the_application(pair):
    lab, connection = pair
    lab.corrupt(100, 0, 1)
    sent = bytes(1000)
    got = echo(connection, sent)
    assert len(got) == len(sent) and got != sent
    assert lab.counts(0, 1).corrupted > 0


def test_power_off_is_silent(pair, tmp_path):
    lab, connection = pair
    lab.power_off(1)
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        echo(connection)
    lab.power_on(1)
    start_echo(lab, 1, tmp_path)
    with reach(lab, 2, 1) as other:
        assert echo(other) == b"x"


def test_signals_reach_the_process_inside(lab, tmp_path):
    one = lab(1)
    process = one.host(0).popen("sleep", ["sleep", "100"], tmp_path / "log")
    process.kill(signal.SIGSTOP)
    time.sleep(0.05)
    assert process.alive and len(process.descriptors()) >= 3
    process.kill(signal.SIGKILL)
    assert process.wait(5) == -signal.SIGKILL


def test_nothing_is_left(lab, tmp_path):
    """Whoever kills the switch ends the lab."""
    one = lab(1)
    process = one.host(0).popen("sleep", ["sleep", "100"], tmp_path / "log")
    os.kill(one.switch_pid, signal.SIGKILL)
    assert process.wait(5) == -signal.SIGKILL
    assert not os.path.exists(f"/proc/{process.pid}")
