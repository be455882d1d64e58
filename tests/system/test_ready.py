"""What a service manager hears of the program, in systemd's protocol: once, and not before it serves."""
import socket

import pytest

from cluster import TINY, wait_for
from places import Loopback

HERE = Loopback()
READY_SECONDS = 60


class Manager:
    """A socket as systemd gives it to a service, and programs that are told of it."""

    def __init__(self, proa, folder):
        self.proa, self.folder, self.processes = proa, folder, []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(folder / "notify"))

    def start(self, *words, name="proa", **environment):
        process = HERE.popen(name, [self.proa, *words], self.folder / f"{name}.log",
                             {"NOTIFY_SOCKET": str(self.folder / "notify"), "PROA_DISCOVERY_PATH": str(self.folder / "discovery"), **environment})
        self.processes.append(process)
        return process

    def heard(self):
        try:
            return self.socket.recv(4096).decode()
        except BlockingIOError:
            return None

    def close(self):
        for process in self.processes:
            process.end()
        self.socket.close()


@pytest.fixture
def manager(proa, tmp_path):
    one = Manager(proa, tmp_path)
    yield one
    one.close()


def end(process):
    process.kill(15)
    assert process.wait(20) == 0, process.log_tail()


@pytest.mark.parametrize("words, says", [
    (["serve", "--port", "0", "--threads", "1"], "ready: tiny-r1"),
    (["worker", "--model-path", TINY, "--threads", "1"], "worker ready on"),
    (["worker", "--model-path", TINY, "--tp-size", "2", "--dp-size", "2", "--enable-dp-attention"], "worker ready, ranks 0 to 1 of 2"),
], ids=["serve", "worker", "ranks"])
def test_ready_is_told_once_and_not_before(manager, words, says):
    process = manager.start(*words)

    def told():
        assert process.alive, process.log_tail()
        return manager.heard()

    assert wait_for(told, READY_SECONDS, "READY=1") == "READY=1"
    assert says in process.log()
    end(process)
    assert manager.heard() is None


def test_a_frontend_is_ready_when_it_listens(manager):
    """Workers may come later, and their units may wait for it."""
    process = manager.start("frontend", "--http-port", "0")
    assert wait_for(manager.heard, READY_SECONDS, "READY=1") == "READY=1"
    assert "listening on" in process.log()
    end(process)


def test_a_manager_that_is_gone(manager):
    """It is said, and the program serves."""
    process = manager.start("frontend", "--http-port", "0", NOTIFY_SOCKET=str(manager.folder / "gone"))
    wait_for(lambda: "does not hear" in process.log(), READY_SECONDS, "a warning")
    assert process.alive and "gone: No such file" in process.log()
    end(process)


def test_a_model_that_is_not_there_is_never_ready(manager):
    process = manager.start("worker", "--model-path", "/nowhere")
    assert process.wait(READY_SECONDS) == 1
    assert manager.heard() is None
