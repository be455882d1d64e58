"""Where the parts of a cluster run. A place is this machine's loopback (here) or a host of a lab (lab.py); both start processes,
fetch pages and choose ports with the same calls, so that a cluster is built the same way anywhere."""
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import httpx

from conftest import clean_environment

START_SECONDS = 5


class Process:
    """A process that a test has started. `pid` is its number as this machine sees it, wherever it runs."""

    def __init__(self, name, popen, pid, log_path):
        self.name = name
        self.popen = popen
        self.pid = pid
        self.log_path = log_path

    @property
    def alive(self):
        return self.popen.poll() is None

    @property
    def wrapped(self):
        """Whether another process waits in its place: nsenter, which stops when it stops."""
        return self.popen.pid != self.pid

    def kill(self, number=signal.SIGKILL):
        """Sends a signal; one that has ended is left alone."""
        if not self.alive:
            return
        try:
            os.kill(self.pid, number)
            if self.wrapped and number in (signal.SIGKILL, signal.SIGCONT):
                os.kill(self.popen.pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def wait(self, seconds):
        """Its exit status (negative: the signal that ended it); fails when it has not ended in that time."""
        deadline = time.monotonic() + seconds
        while self.alive:
            assert time.monotonic() < deadline, f"{self.name} has not ended after {seconds} s:\n{self.log_tail()}"
            if self.wrapped:
                os.kill(self.popen.pid, signal.SIGCONT)
            time.sleep(0.01)
        return self.popen.returncode

    def end(self):
        """Kills it if need be; afterwards nothing is left of it."""
        self.kill(signal.SIGKILL)
        self.wait(START_SECONDS)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path else ""

    def log_tail(self, lines=40):
        return "\n".join(self.log().splitlines()[-lines:])

    def descriptors(self):
        """What each open descriptor is, by number; a TCP socket is "tcp here -> there"."""
        sockets = {}
        for line in pathlib.Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            sockets[f"socket:[{words[9]}]"] = f"tcp {plain_address(words[1])} -> {plain_address(words[2])}"
        folder, found = pathlib.Path(f"/proc/{self.pid}/fd"), {}
        for number in os.listdir(folder):
            try:
                target = os.readlink(folder / number)
            except FileNotFoundError:
                continue  # closed meanwhile
            found[int(number)] = sockets.get(target, target)
        return found

    def resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has no memory any more")


def plain_address(text):
    """Of /proc/net/tcp: 0100007F:1F90 is 127.0.0.1:8080."""
    address, _, port = text.partition(":")
    return f"{socket.inet_ntoa(bytes.fromhex(address)[::-1])}:{int(port, 16)}"


def children_of(pid):
    """The processes that `pid` has started and that live."""
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def start(name, command, prefix, log_path, environment, pipes):
    """A Popen of `command` behind `prefix`. Its output goes to the log, or, with pipes, standard input and output are this
    process's to write and read."""
    with open(log_path, "ab") as log:
        return subprocess.Popen([*prefix, *map(str, command)], stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                                stdout=subprocess.PIPE if pipes else log, stderr=log, text=True if pipes else None,
                                env=clean_environment(**environment))


class Loopback:
    """This machine, on 127.0.0.1. Processes die with this one: start them from its main thread."""

    name = "here"
    address = "127.0.0.1"

    def popen(self, name, command, log_path, environment=None, pipes=False):
        prefix = ["setpriv", "--pdeathsig", "KILL", "--"]
        popen = start(name, command, prefix, log_path, environment or {}, pipes)
        return Process(name, popen, popen.pid, log_path)

    def get(self, url, timeout=2):
        return httpx.get(url, timeout=timeout)

    def post(self, url, body, timeout=2):
        return httpx.post(url, json=body, timeout=timeout)

    def connect(self, address, port, timeout=5):
        return socket.create_connection((address, port), timeout=timeout)

    def free_port(self):
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            return probe.getsockname()[1]


def in_thread(function, prepare):
    """Runs prepare() and function() in a thread of their own and returns or raises what function did: for what changes the
    thread for good."""
    result, failure = [], []

    def body():
        try:
            prepare()
            result.append(function())
        except BaseException as error:  # handed on below
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
