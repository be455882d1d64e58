"""What tools/gpu_model.sh relies on, on a machine without a GPU: its client, and what it takes for a sign of a compiler at run time."""
import http.server
import subprocess
import sys
import threading
import time

import pytest
from conftest import TOP

CLIENT = TOP / "tools/gpu_client.py"
COMPILERS = TOP / "tools/gpu_compilers.sh"


def wait(port, seconds, *pid):
    begin = time.monotonic()
    done = subprocess.run([sys.executable, CLIENT, f"http://127.0.0.1:{port}", "wait", str(seconds), *map(str, pid)],
                          capture_output=True, text=True, timeout=seconds + 60)
    return done.returncode, done.stderr, time.monotonic() - begin


@pytest.mark.parametrize("reaped", [False, True])
def test_a_server_that_has_ended_is_not_waited_for(reaped):
    server = subprocess.Popen(["false"])
    if reaped:
        server.wait()
    status, text, seconds = wait(1, 300, server.pid)
    server.wait()
    assert status == 1 and f"process {server.pid}, has ended" in text and "refused" in text
    assert seconds < 60


class Health(http.server.BaseHTTPRequestHandler):
    """503 twice, then 200, as a server that loads its model."""

    def do_GET(self):
        self.server.asked += 1
        self.send_response(200 if self.server.asked > self.server.refusals else 503)
        self.end_headers()
        self.wfile.write(b"the model is loading")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("refusals, seconds, status", [(2, 60, 0), (1 << 30, 1, 1)])
def test_a_server_that_lives_is_waited_for(refusals, seconds, status):
    alive = subprocess.Popen(["sleep", "100"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        server.asked, server.refusals = 0, refusals
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            got, text, _ = wait(server.server_port, seconds, alive.pid)
        finally:
            server.shutdown()
            alive.kill()
            alive.wait()
    assert got == status
    assert status == 0 or "503 the model is loading" in text


MAPPER = """
import mmap, sys
files = [open(path, "rb") for path in sys.argv[1:]]
kept = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) for file in files]
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path):
    """process("libcuda.so.1", ...) -> the pid of one that has mapped files of these names."""
    started = []

    def start(*names):
        for name in names:
            (tmp_path / name).write_bytes(b"x" * 4096)
        one = subprocess.Popen([sys.executable, "-c", MAPPER, *(tmp_path / name for name in names)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(one)
        assert one.stdout.readline() == "mapped\n"
        return one.pid

    yield start
    for one in started:
        one.kill()
        one.communicate()


def compilers(*arguments):
    done = subprocess.run(["bash", COMPILERS, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("names, status, says", [
    (["libcuda.so.580.159.04"], 0, "libcuda.so among them, none compiles"),
    (["libcuda.so.1", "libnvrtc.so.13"], 1, "libnvrtc.so.13"),
    (["libcuda.so.1", "libnvidia-ptxjitcompiler.so.1"], 1, "libnvidia-ptxjitcompiler.so.1"),
    (["libcuda.so.1", "libnvJitLink.so.13"], 1, "libnvJitLink.so.13"),
    (["libcudart.so.13"], 1, "has not mapped libcuda.so"),
])
def test_compilers_among_a_process_s_libraries(process, names, status, says):
    got, text = compilers(process(*names))
    assert got == status and says in text and ("FAILED" in text) == (status == 1)


def test_a_process_that_is_gone_shows_nothing():
    gone = subprocess.Popen(["true"])
    gone.wait()
    got, text = compilers(gone.pid)
    assert got == 1 and f"/proc/{gone.pid}/maps" in text


DRIVER = '7 openat(AT_FDCWD, "/lib/libcuda.so.1", O_RDONLY|O_CLOEXEC) = 3\n'


@pytest.mark.parametrize("log, status, says", [
    (DRIVER, 0, "passed compilers: 1 files opened"),
    (DRIVER + '7 openat(AT_FDCWD, "/a/libnvrtc.so.13", O_RDONLY) = -1 ENOENT (No such file or directory)\n', 0,
     "looked for and not found:\n7 openat(AT_FDCWD, \"/a/libnvrtc.so.13\""),
    (DRIVER + '8 openat(AT_FDCWD, "/a/libnvidia-ptxjitcompiler.so.580", O_RDONLY) = 4\n', 1, "libnvidia-ptxjitcompiler.so.580"),
    (DRIVER + '8 openat(AT_FDCWD, "/a/libnvidia-nvvm.so.4", O_RDONLY) = 4\n', 1, "libnvidia-nvvm.so.4"),
    (DRIVER + '8 execve("/usr/local/cuda/bin/ptxas", ["ptxas"], 0x0 /* 3 vars */) = 0\n', 1, "bin/ptxas"),
    ('7 openat(AT_FDCWD, "/lib/libcuda.so.1", O_RDONLY) = -1 ENOENT (No such file or directory)\n', 1, "this shows nothing"),
    ("", 1, "this shows nothing"),
], ids=["the driver", "looked for", "the driver's compiler", "the driver's nvvm", "ptxas", "no driver", "nothing"])
def test_compilers_in_a_trace(process, tmp_path, log, status, says):
    (tmp_path / "strace.log").write_text(log)
    got, text = compilers(process("libcuda.so.1"), tmp_path / "strace.log")
    assert got == status and says in text
