"""`proa env`: what it refuses, and that the lines which it prints do what they are for: they are given to a shell."""
import os
import re
import shutil
import subprocess

import pytest

from cluster import TINY, Settings, wait_for
from conftest import clean_environment
from places import Loopback

EXPORTS = ["NATS_SERVER", "ETCD_ENDPOINTS", "HEAD_PREFILL_NODE_IP", "HEAD_DECODE_NODE_IP"]
HEAD = ["--head-prefill-node-ip", "10.0.0.1", "--head-decode-node-ip", "n7.cluster.local"]
KEY = "a key with 'quotes' and $words"
READY_SECONDS = 60
STOP_SECONDS = 20


def evaluate(shell, lines):
    """The variables of a shell that has read the lines."""
    done = subprocess.run([shell, "-c", 'eval "$1"; env -0', shell, lines], capture_output=True, text=True, check=True, env={"PATH": os.defpath})
    return dict(v.split("=", 1) for v in done.stdout.split("\0") if "=" in v)


def test_both_parts(run):
    done = run("env", *HEAD)
    assert done.returncode == 0 and done.stderr == ""
    head, others = done.stdout.split("=== ALL OTHER NODES ===\n")
    assert head.startswith("=== HEAD PREFILL NODE (10.0.0.1) ===\n")
    exports = [[line for line in part.splitlines() if line.startswith("export ")] for part in (head, others)]
    assert exports[0] == exports[1] and [re.match(r"export (\w+)=", line)[1] for line in exports[0]] == EXPORTS + ["PROA_CLUSTER_KEY"]
    assert exports[0][:4] == ["export NATS_SERVER=nats://10.0.0.1:4222", "export ETCD_ENDPOINTS=http://10.0.0.1:2379",
                              "export HEAD_PREFILL_NODE_IP=10.0.0.1", "export HEAD_DECODE_NODE_IP=n7.cluster.local"]
    assert "nats-server --addr 10.0.0.1" in head and "nats-server" not in others and "etcd " not in others
    assert run("env", *HEAD).stdout != done.stdout, "each run makes a key of its own"


def test_roles_are_the_parts(run):
    """With a key that is given, each part alone is what it is of the whole."""
    whole = run("env", *HEAD, PROA_CLUSTER_KEY=KEY).stdout
    parts = [run("env", *HEAD, "--role", role, PROA_CLUSTER_KEY=KEY).stdout for role in ("head", "other")]
    assert "\n".join(parts) == whole


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh"])
def test_exports_by_eval(run, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = run("env", "--shell", "--head-prefill", "fd00::1", "--head-decode", "fd00::2", PROA_CLUSTER_KEY=KEY)
    assert done.returncode == 0 and done.stderr == ""
    found = evaluate(shell, done.stdout)
    assert {name: found[name] for name in EXPORTS} == {
        "NATS_SERVER": "nats://[fd00::1]:4222", "ETCD_ENDPOINTS": "http://[fd00::1]:2379",
        "HEAD_PREFILL_NODE_IP": "[fd00::1]", "HEAD_DECODE_NODE_IP": "[fd00::2]"}
    assert found["PROA_CLUSTER_KEY"] == KEY


def test_addresses_are_asked_for(run):
    done = run("env", "--shell", input=" 10.0.0.1 \r\nn7\n", PROA_CLUSTER_KEY=KEY)
    assert done.returncode == 0 and done.stderr == "", "nobody types, nobody is asked"
    assert {"10.0.0.1", "n7"} <= set(evaluate("sh", done.stdout).values())


def test_a_person_is_asked(proa):
    """On a terminal there are prompts, and not among the lines."""
    mine, terminal = os.openpty()
    process = subprocess.Popen([proa, "env", "--shell"], stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=clean_environment(PROA_CLUSTER_KEY=KEY))
    os.write(mine, b"10.0.0.1\n10.0.0.2\n")
    lines, prompts = process.communicate(timeout=READY_SECONDS)
    for descriptor in mine, terminal:
        os.close(descriptor)
    assert process.returncode == 0 and prompts == "Enter HEAD_PREFILL_NODE IP: Enter HEAD_DECODE_NODE IP: "
    assert evaluate("sh", lines)["HEAD_DECODE_NODE_IP"] == "10.0.0.2"


@pytest.mark.parametrize("arguments, input, says", [
    ([], "", ["--head-prefill-node-ip: standard input has ended"]),
    ([], "\n\n", ['--head-prefill-node-ip: "" is empty']),
    ([], "10.0.0.1\n", ["--head-decode-node-ip: standard input has ended"]),
    ([], "10.0.0.1\n10.0.0.300\n", ['--head-decode-node-ip: "10.0.0.300" is no IPv4 address', "such as 10.0.0.1"]),
    ([], "n1\0n2\nn3\n", ['--head-prefill-node-ip: "n1\\x00n2" has a character']),
    ([], "x" * 100000, ["longer than 4096 bytes"]),
    (["--head-prefill", "a'b", "--head-decode", "n2"], None, ["\"a'b\" has a character"]),
    (["--head-prefill", "n1", "--head-decode", "\x1b[2Jn2"], None, ['--head-decode-node-ip: "\\x1b[2Jn2"']),
    (["--head-prefill", "fd00:::1", "--head-decode", "n2"], None, ['"fd00:::1" is no IPv6 address']),
    (["--head-prefill", "", "--head-decode", "n2"], None, ['--head-prefill-node-ip: "" is empty']),
    (["--head-prefill", "127.0.0.1", "--head-decode", "n2"], None, ["127.0.0.1 is this machine's own address"]),
    ([*HEAD, "--etcd-port", "4222"], None, ["--etcd-port 4222", "two servers cannot listen on one port"]),
    ([*HEAD, "--cluster-key-file", "/nowhere/key"], None, ["/nowhere/key"]),
], ids=lambda value: None)
def test_refused(run, arguments, input, says):
    for flags in [], ["--shell"], ["--shell", "--role", "head"]:
        done = run("env", *arguments, *flags, input=input or "")
        assert done.returncode == 1, done
        assert done.stdout == ("false\n" if flags else ""), "nothing that a node could take for its half"
        assert all(text in done.stderr for text in says), done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr[:-1].isprintable()


def test_a_script_notices(run, proa):
    """eval of nothing would succeed."""
    script = f'set -e; eval "$({proa} env --shell --head-prefill 10.0.0.999 --head-decode n2)"; echo went on'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=clean_environment())
    assert done.returncode == 1 and done.stdout == ""


def test_keys(run, tmp_path):
    """A short one is refused, a file is named so that it is found from any folder, and who has none is told so."""
    done = run("env", *HEAD, PROA_CLUSTER_KEY="short")
    assert done.returncode == 1 and "needs at least 16" in done.stderr
    path = tmp_path / "the key"
    path.write_text("0123456789abcdef")
    done = run("env", "--shell", *HEAD, "--cluster-key-file", os.path.relpath(path))
    assert done.returncode == 0 and evaluate("sh", done.stdout)["PROA_CLUSTER_KEY_FILE"] == str(path)
    done = run("env", "--shell", *HEAD)
    assert done.returncode == 0 and "PROA_CLUSTER_KEY" not in done.stdout and "no cluster key" in done.stderr
    done = run("env", "--shell", "--head-prefill", "localhost", "--head-decode", "localhost")
    assert done.returncode == 0 and done.stderr == "", "one machine needs none"


def test_a_full_disk(proa):
    with open("/dev/full", "w") as full:
        done = subprocess.run([proa, "env", *HEAD], stdout=full, stderr=subprocess.PIPE, text=True, env=clean_environment())
    assert done.returncode == 1 and "cannot write to standard output" in done.stderr


# --- the lines at work ---

HEAD_SCRIPT = """
cd "$1"
end() { kill $(jobs -p); wait; exit 0; }
trap end TERM
eval "$2"
jobs -p > pids
wait
"""


class Nodes:
    """A head and others, each a shell at its place that reads its lines, and what the shells start. The head's shell stays, with the
    servers that the lines have started; they end with it."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill(15)
        for process in self.processes:
            process.wait(STOP_SECONDS)

    def _start(self, name, place, command):
        self.processes.append(place.popen(name, command, self.folder / f"{name}.log"))
        return self.processes[-1]

    def head(self, place, lines):
        """bash keeps the background jobs of `eval` as its own."""
        return self._start("head", place, ["bash", "-c", HEAD_SCRIPT, "bash", self.folder, lines])

    def run(self, name, place, lines, command):
        return self._start(name, place, ["sh", "-c", 'eval "$1"; shift; exec "$@"', "sh", lines, *map(str, command)])


def programs(proa, port):
    """A frontend and two workers that learn everything from their shells."""
    worker = [proa, "worker", "--model-path", TINY, "--threads", 1, "--host", "0.0.0.0", "--disaggregation-mode"]
    return {"frontend": [proa, "frontend", "--http-port", port, "--request-plane", "nats"],
            "prefill": [*worker, "prefill", "--disaggregation-bootstrap-port", 0, "--request-plane", "nats"],
            "decode": [*worker, "decode", "--request-plane", "nats"]}


def serve(nodes, client, url):
    def ready():
        for process in nodes.processes:
            assert process.alive, f"{process.name} has ended:\n{process.log_tail()}"
        instances = client.get(f"{url}/health").json().get("instances", [])
        return {i["component"] for i in instances if i["endpoint"] == "generate"} == {"prefill", "backend"}

    wait_for(ready, READY_SECONDS, "the frontend lists both workers")
    body = {"model": str(TINY), "messages": [{"role": "user", "content": "what is 12+34?"}], "max_tokens": 60, "temperature": 0}
    answer = client.post(f"{url}/v1/chat/completions", body, timeout=30)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "46"


def test_eval_on_one_machine(proa, run, tmp_path):
    """The head evaluates its lines, which start both servers on other ports; frontend and workers evaluate theirs."""
    here = Loopback()
    ports = [here.free_port() for _ in range(4)]
    flags = ["--shell", "--head-prefill", "127.0.0.1", "--head-decode", "127.0.0.1", "--etcd-port", ports[0], "--etcd-peer-port", ports[1],
             "--nats-port", ports[2]]
    with Nodes(tmp_path) as nodes:
        nodes.head(here, run("env", *flags, "--role", "head").stdout)
        for name, command in programs(proa, ports[3]).items():
            nodes.run(name, here, run("env", *flags).stdout, command)
        serve(nodes, here, f"http://127.0.0.1:{ports[3]}")
        servers = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(servers) == 2
    assert not any(os.path.exists(f"/proc/{pid}") for pid in servers)
    assert "Server is ready" in (tmp_path / "nats-server.log").read_text()
    assert "ready to serve client requests" in (tmp_path / "etcd.log").read_text()


def test_the_printed_commands_on_three_hosts(proa, run, tmp_path, lab):
    """As a person does it: one run, the first part pasted on the head prefill node, the second one on the others; with the key that
    the run made, so that workers listen to other hosts."""
    lab_of_three = lab(3)
    hosts = [lab_of_three.host(i) for i in range(3)]
    done = run("env", input=f"{hosts[0].address}\n{hosts[1].address}\n")
    assert done.returncode == 0, done.stderr
    head, others = re.findall(r"^Run [^\n]*:\n(.*?)(?=^===|\Z)", done.stdout, re.DOTALL | re.MULTILINE)
    assert head.rstrip().endswith("\nproa doctor")
    head = head.replace("\nproa doctor", "")  # later: the servers have not begun to listen
    exports = head[head.index("# Export"):]
    with Nodes(tmp_path) as nodes:
        nodes.head(hosts[0], head)
        for (name, command), place, lines in zip(programs(proa, 8000).items(), hosts, [exports, others, others]):
            nodes.run(name, place, lines, command)
        serve(nodes, hosts[2], f"http://{hosts[0].address}:8000")
        doctor = nodes.run("doctor", hosts[0], exports, [proa, "doctor"])
        assert doctor.wait(STOP_SECONDS) == 0, doctor.log()
        assert re.search(r"^ *ok +etcd .*healthy", doctor.log(), re.MULTILINE) and re.search(r"^ *ok +nats-server", doctor.log(), re.MULTILINE)
