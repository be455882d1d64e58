"""Fixtures of the system tests: the program, the test data, a running server, a lab of hosts.

Tests of this folder use the built program from outside, as its users do. Data that is not in the repository lies in the
folder PROA_TEST_DATA (default: ../shared beside the repository); tests that need it are skipped, and the report says so.

PROA_TEST_DEVICE is what the program computes on unless a test says otherwise: cpu (the default), cuda, or stand-in, the GPU
in host memory (tests/stand_in). Tests that it makes no sense for are marked cpu("why") and skipped elsewhere.
"""
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

import httpx
import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = TOP / os.environ.get("PROA_TEST_BUILD", "build")
DATA = pathlib.Path(os.environ.get("PROA_TEST_DATA", TOP / "../shared")).resolve()
DEVICES = ("cpu", "cuda", "stand-in")
DEVICE = os.environ.get("PROA_TEST_DEVICE", "cpu")
START_SECONDS = 60
STOP_SECONDS = 10


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked long too")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes more than ten seconds; runs with --long")
    config.addinivalue_line("markers", "cpu(why): what is tested is the CPU's alone; skipped with another PROA_TEST_DEVICE")
    if DEVICE not in DEVICES:
        raise pytest.UsageError(f"PROA_TEST_DEVICE={DEVICE} is none of {', '.join(DEVICES)}")


def pytest_collection_modifyitems(config, items):
    for item in items:
        cpu = item.get_closest_marker("cpu")
        if cpu and DEVICE != "cpu":
            item.add_marker(pytest.mark.skip(reason=f"of the CPU alone: {cpu.args[0]}"))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="long: runs under `make test-long`"))


def pytest_report_header():
    absent = "" if DATA.is_dir() else " (ABSENT: tests that need it are skipped; set PROA_TEST_DATA)"
    return [f"device: {DEVICE}, the program: {program(DEVICE)}", f"test data: {DATA}{absent}"]


def program(device):
    """The path of the program that has such a device."""
    return BUILD / ("tests/stand_in/proa_stand_in" if device == "stand-in" else "proa")


def built(device):
    path = program(device)
    assert path.is_file(), f"{path} is not built: run `make`"
    return path


@pytest.fixture(scope="session")
def proa():
    """The path of the program."""
    return built(DEVICE)


@pytest.fixture(scope="session")
def gpu_proa():
    """The path of a program with a GPU, for tests of `--device cuda`: the stand-in's where the tests are to run without one."""
    return built("stand-in" if DEVICE == "cpu" else DEVICE)


@pytest.fixture(scope="session")
def data():
    """data("models/tiny-r1") is that path under the test data; the test is skipped when it is absent."""

    def find(relative):
        if not (DATA / relative).exists():
            pytest.skip(f"{DATA / relative} is absent: set PROA_TEST_DATA to the folder of the test data")
        return DATA / relative

    return find


def clean_environment(**more):
    """This process's environment without the program's own variables, which would change what is tested; but for the device."""
    device = {} if DEVICE == "cpu" else {"PROA_DEVICE": "cuda"}
    if DEVICE == "stand-in":  # no model is beside that program
        device["PROA_MODEL_PATH"] = str(TOP / "models/tiny-r1")
    return {k: v for k, v in os.environ.items() if not k.startswith("PROA_")} | device | more


@pytest.fixture
def run(proa):
    """run("help", PROA_FORMAT="man", input="...") runs the program to its end."""

    def run_proa(*arguments, input=None, timeout=60, **environment):
        variables = clean_environment(**environment)
        if arguments and arguments[0] == "bench":  # its parts know what they run on
            variables.pop("PROA_DEVICE", None)
        return subprocess.run([proa, *map(str, arguments)], input=input, capture_output=True, text=True,
                              timeout=timeout, env=variables)

    return run_proa


class Server:
    """A running `proa serve`. `url` is its address, `log()` what it has written so far."""

    def __init__(self, program, arguments, log_path, environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen([program, "serve", "--port", str(self.port), *map(str, arguments)],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                            env=clean_environment(**environment))

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_until_ready(self, seconds=START_SECONDS):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with status {self.process.returncode} before it was ready:\n{self.log()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        pytest.fail(f"the server was not ready after {seconds} s:\n{self.log()}")

    def stop(self):
        """Ends it as an operator would; returns its exit status. Accepts one that has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                pytest.fail(f"the server did not end {STOP_SECONDS} s after SIGTERM:\n{self.log()}")
        return self.process.returncode


@pytest.fixture(scope="module")
def server(proa, tmp_path_factory):
    """server("--model-path", dir, ..., PROA_X="1") starts a server on a free port and waits until it is healthy. One
    that was started with the same arguments in the same module is used again; all end with the module."""
    started = {}

    def start(*arguments, **environment):
        key = (*map(str, arguments), *sorted(environment.items()))
        if key not in started or started[key].process.poll() is not None:
            log_path = tmp_path_factory.mktemp("server") / "log"
            started[key] = Server(proa, arguments, log_path, environment)
            started[key].wait_until_ready()
        return started[key]

    yield start
    for one in started.values():
        one.stop()


@pytest.fixture
def lab():
    """lab(4) is a lab of four hosts (lab.py); the test is skipped on a machine that cannot have one."""
    from lab import Lab, LabUnavailable  # needs this file

    with contextlib.ExitStack() as stack:

        def make(hosts, **options):
            try:
                return stack.enter_context(Lab(hosts, **options))
            except LabUnavailable as why:
                pytest.skip(f"no lab of hosts on this machine: {why}")

        yield make
