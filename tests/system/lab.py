"""A lab of hosts on this machine, behind a switch that can lose, delay, corrupt and cut (tools/labsw.c).

    with Lab(4) as lab:
        server = lab.host(0).popen("server", ["python3", "-m", "http.server", "80"], log)
        lab.partition(0, 1)
        lab.host(2).get("http://10.77.0.10/")

Hosts share this machine's files and nothing else. All of a lab ends with it, with this process, and after `seconds`.
"""
import ctypes
import dataclasses
import itertools
import os
import select
import signal
import socket
import subprocess
import threading
import time

import httpx

from conftest import BUILD
from places import START_SECONDS, Process, children_of, in_thread, start

CANNOT = 77  # labsw's exit status on a machine where labs cannot be
CLONE_NEWNET = 0x40000000
EVERY = -1


class LabUnavailable(Exception):
    """Why this machine cannot have a lab."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What happens to frames from one host to another, in the order of labsw's order `rule`."""
    delay_us: int = 0
    jitter_us: int = 0
    loss_ppm: int = 0
    duplicate_ppm: int = 0
    corrupt_ppm: int = 0
    rate_kbit: int = 0
    down: int = 0


@dataclasses.dataclass(frozen=True)
class Counts:
    passed: int
    lost: int
    duplicated: int
    corrupted: int
    overflowed: int


class Host:
    """One host. `pid` is its init's."""

    def __init__(self, index, pid):
        self.index = index
        self.name = f"h{index}"
        self.pid = pid
        self.address = f"10.77.0.{10 + index}"
        self._ports = itertools.count(20000)

    def popen(self, name, command, log_path, environment=None, pipes=False):
        prefix = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--ipc", "--pid", "--mount", "--"]
        popen = start(name, command, prefix, log_path, environment or {}, pipes)
        deadline = time.monotonic() + START_SECONDS
        while not children_of(popen.pid) and popen.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        inside = children_of(popen.pid)
        return Process(name, popen, inside[0] if inside else popen.pid, log_path)

    def get(self, url, timeout=2):
        return self._here(lambda: httpx.get(url, timeout=timeout, trust_env=False))

    def post(self, url, body, timeout=2):
        return self._here(lambda: httpx.post(url, json=body, timeout=timeout, trust_env=False))

    def connect(self, address, port, timeout=5):
        return self._here(lambda: socket.create_connection((address, port), timeout=timeout))

    def free_port(self):
        return next(self._ports)

    def _here(self, function):
        """function() in a thread that is in this host's network."""
        return in_thread(function, lambda: enter_network(self.pid))


def enter_network(pid):
    """Moves the calling thread into the network namespace of `pid`."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the network of {pid}")
    finally:
        os.close(descriptor)


class Lab:
    def __init__(self, host_count, seconds=600, seed=1):
        self.host_count = host_count
        self._arguments = [str(host_count), str(seconds), str(seed)]
        self._lock = threading.Lock()
        self._rules = {}
        self._hosts = []

    def __enter__(self):
        program = BUILD / "tests" / "system" / "tools" / "labsw"
        if not program.is_file():
            raise LabUnavailable(f"{program} is not built: run `make`")
        self._switch = subprocess.Popen([program, *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self._go_first()
        words = self._read_line().split()
        if words[:1] != ["ready"]:
            self._end()
        self._hosts = [Host(i, int(pid)) for i, pid in enumerate(words[1:])]
        return self

    def __exit__(self, kind, *_):
        self._switch.stdin.close()
        complaint = self._wait()
        if kind is None:
            assert self._switch.returncode in (0, -signal.SIGKILL), f"labsw ended with {self._switch.returncode}: {complaint}"

    def host(self, index):
        return self._hosts[index]

    @property
    def switch_pid(self):
        return self._switch.pid

    # --- faults ---

    def partition(self, a, b, one_way=False):
        """Nothing gets from a to b, nor from b to a unless one_way."""
        self._change([(a, b)] if one_way else [(a, b), (b, a)], down=1)

    def isolate(self, index):
        """Nothing gets in or out of the host."""
        self._change(self._pairs_of(index), down=1)

    def loss(self, percent):
        self._change(self._all_pairs(), loss_ppm=int(percent * 10000))

    def duplicate(self, percent):
        self._change(self._all_pairs(), duplicate_ppm=int(percent * 10000))

    def delay(self, milliseconds, jitter_ms=0):
        self._change(self._all_pairs(), delay_us=int(milliseconds * 1000), jitter_us=int(jitter_ms * 1000))

    def corrupt(self, percent, a=EVERY, b=EVERY):
        """Flips a bit in that share of the frames from a to b."""
        pairs = [p for p in self._all_pairs() if a in (EVERY, p[0]) and b in (EVERY, p[1])]
        self._change(pairs, corrupt_ppm=int(percent * 10000))

    def rate(self, index, kbit):
        """Limits what each other host sends to this one and gets from it."""
        self._change(self._pairs_of(index), rate_kbit=kbit)

    def heal(self):
        """Everything passes at once again, except to hosts that are off."""
        self._rules.clear()
        self._order("rule -1 -1 0 0 0 0 0 0 0")

    def power_off(self, index):
        """All its processes die at once, and their peers hear nothing of it."""
        self._order(f"off {index}")

    def power_on(self, index):
        """The host as new, with nothing running."""
        self._hosts[index] = Host(index, int(self._order(f"on {index}")))

    def counts(self, a, b):
        """What became of the frames from a to b since the lab began."""
        return Counts(*map(int, self._order(f"counts {a} {b}").split()))

    # --- the switch ---

    def _go_first(self):
        """A wire does not wait for the processors of the hosts that it connects; where this may not be said, it does."""
        try:
            os.setpriority(os.PRIO_PROCESS, self._switch.pid, -15)
        except PermissionError:
            pass

    def _all_pairs(self):
        return [(a, b) for a in range(self.host_count) for b in range(self.host_count) if a != b]

    def _pairs_of(self, index):
        return [pair for pair in self._all_pairs() if index in pair]

    def _change(self, pairs, **values):
        for a, b in pairs:
            rule = dataclasses.replace(self._rules.get((a, b), Rule()), **values)
            self._rules[a, b] = rule
            self._order(" ".join(map(str, ("rule", a, b, *dataclasses.astuple(rule)))))

    def _order(self, order):
        with self._lock:
            self._switch.stdin.write(order + "\n")
            self._switch.stdin.flush()
            answer = self._read_line()
        assert answer.startswith("ok"), f"labsw says to {order!r}: {answer!r}"
        return answer[2:].strip()

    def _read_line(self):
        readable, _, _ = select.select([self._switch.stdout], [], [], START_SECONDS)
        assert readable, f"labsw has not answered in {START_SECONDS} s"
        return self._switch.stdout.readline()

    def _wait(self):
        """Until the switch has ended, by force if need be; what it has complained of."""
        try:
            self._switch.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._switch.send_signal(signal.SIGABRT)
            self._switch.wait()
        complaint = self._switch.stderr.read().strip()
        self._switch.stdout.close()
        self._switch.stderr.close()
        return complaint

    def _end(self):
        """labsw has not become ready."""
        self._switch.stdin.close()
        why = self._wait()
        if self._switch.returncode == CANNOT:
            raise LabUnavailable(why)
        raise AssertionError(f"labsw ended with status {self._switch.returncode}: {why}")
