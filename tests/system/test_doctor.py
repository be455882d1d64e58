"""proa doctor: what it finds on this machine, on machines that are unlike it, and at the servers and workers of a cluster."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

from cluster import Cluster, Settings
from conftest import clean_environment
from places import Loopback

HERE = Loopback()


@pytest.fixture
def examine(proa, tmp_path):
    """examine(flags..., prefix=[...], VARIABLE="x") -> exit status, {name: [rows of --json]}, output."""

    def run_doctor(*flags, prefix=(), **environment):
        path = tmp_path / "doctor.json"
        result = subprocess.run([*prefix, proa, "doctor", "--json", path, *map(str, flags)], capture_output=True,
                                text=True, timeout=60, env=clean_environment(**environment))
        report = json.loads(path.read_text())
        rows = {}
        for row in report["checks"]:
            rows.setdefault(row["name"], []).append(row)
        states = [row["state"] for row in report["checks"]]
        assert report["failures"] == states.count("failure")
        assert report["warnings"] == states.count("warning")
        assert result.returncode == (1 if report["failures"] else 0), result.stderr
        for row in report["checks"]:  # the table says the same
            assert row["value"] in result.stdout and row.get("remedy", "") in result.stdout
        return result.returncode, rows, result.stdout

    return run_doctor


def only(rows, name):
    assert len(rows[name]) == 1, rows[name]
    return rows[name][0]


def of_text(rows, name, text):
    return next(row for row in rows[name] if text in row["value"])


def test_this_machine(examine, run):
    status, rows, text = examine()
    assert status == 0
    assert only(rows, "program")["value"] == run("version").stdout.strip()
    assert re.search(r"kernels: \S+; \d+ cores?, \d+ NUMA nodes?", only(rows, "processor")["value"])
    assert re.search(r"GB, .* available", only(rows, "memory")["value"])
    assert only(rows, "nats.c")["value"].startswith("3.")
    assert only(rows, "OpenSSL")["value"].startswith("OpenSSL 3")
    assert only(rows, "etcd")["state"] == only(rows, "nats-server")["state"] == "plain"
    assert "\033" not in text  # it is no terminal


def test_ucx_carries_rows(examine):
    _, rows, _ = examine()
    if "1." not in only(rows, "ucx")["value"]:
        pytest.skip("UCX is not installed here")
    trial = only(rows, "ucx trial")
    assert trial["state"] == "ok" and re.search(r"(posix|sysv).*B/s", trial["value"])
    assert of_text(rows, "within this host", "posix")["state"] == "ok"
    _, rows, _ = examine(UCX_TLS="tcp", UCX_NET_DEVICES="lo")
    assert only(rows, "within this host")["state"] == "warning"
    assert "UCX_TLS" in only(rows, "within this host")["remedy"]
    assert "tcp/lo" in only(rows, "ucx trial")["value"] and only(rows, "ucx trial")["state"] == "ok"
    _, rows, _ = examine(UCX_TLS="nonsense")
    assert only(rows, "ucx")["state"] == "warning"


def make_rdma(root, device="mlx5_0", state="4: ACTIVE"):
    port = root / "class/infiniband" / device / "ports/1"
    port.mkdir(parents=True)
    (port / "state").write_text(state + "\n")
    (port / "rate").write_text("400 Gb/sec (4X NDR)\n")
    (port / "link_layer").write_text("InfiniBand\n")


def test_rdma_that_is_not_used(examine, tmp_path):
    make_rdma(tmp_path / "sys")
    make_rdma(tmp_path / "sys", "mlx5_1", "1: DOWN")
    limited = ["prlimit", "--memlock=65536:65536"]
    status, rows, _ = examine("--sysfs", tmp_path / "sys", prefix=limited)
    assert status == 0  # a warning is no failure
    assert only(rows, "rdma mlx5_0:1")["state"] == "ok"
    assert "400 Gb/sec" in only(rows, "rdma mlx5_0:1")["value"]
    assert only(rows, "rdma mlx5_1:1")["state"] == "warning"
    assert only(rows, "locked memory")["state"] == "warning" and "ulimit -l" in only(rows, "locked memory")["remedy"]
    assert of_text(rows, "between hosts", "though this machine has 2 RDMA devices")["state"] == "warning"
    _, rows, _ = examine(prefix=limited)
    assert only(rows, "locked memory")["state"] == "plain"  # without RDMA nothing is locked


def test_low_limits(examine):
    _, rows, _ = examine(prefix=["prlimit", "--nofile=256:1024"])
    assert only(rows, "open files")["state"] == "warning"
    assert "ulimit -n" in only(rows, "open files")["remedy"]


def test_other_networks(examine):
    """A host with two networks and a small /dev/shm, as containers have them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip for namespaces")
    script = ("ip link set lo up; for i in 1 2; do ip link add v$i type veth peer name w$i; "
              "ip addr add 10.99.$i.1/24 dev v$i; ip link set v$i up; done; "
              "mount -t tmpfs -o size=64m tmpfs /dev/shm; exec \"$@\"")
    inside = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    _, rows, _ = examine(prefix=inside)
    assert only(rows, "network v1")["value"].startswith("10.99.1.1")
    assert only(rows, "ucx devices")["state"] == "warning"
    assert "UCX_NET_DEVICES" in only(rows, "ucx devices")["remedy"]
    assert only(rows, "shared memory")["state"] == "warning"
    assert "--shm-size" in only(rows, "shared memory")["remedy"]
    _, rows, _ = examine(prefix=inside, UCX_NET_DEVICES="v1")
    assert "ucx devices" not in rows


def test_nixl(examine, tmp_path):
    _, rows, _ = examine()
    if only(rows, "nixl")["state"] == "ok":
        pytest.skip("NIXL is installed here")
    assert only(rows, "nixl")["state"] == "plain"
    assert "pip install nixl" in only(rows, "nixl")["value"]
    broken = tmp_path / "libnixl_capi.so"
    broken.write_bytes(b"no library")
    _, rows, _ = examine("--nixl-library", broken)
    assert str(broken) in only(rows, "nixl")["value"]


def test_ports(examine):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, rows, _ = examine("--ports", f"{port},{HERE.free_port()}")
        assert status == 1
        assert only(rows, f"port {port}")["value"] == "in use"
    assert examine("--ports", port)[0] == 0
    assert examine("--ports", "0")[0] == 1


def test_nothing_is_there(examine):
    """Each is said, with where it was looked for; passwords are not."""
    nobody = HERE.free_port()
    status, rows, text = examine("--etcd-endpoints", f"http://127.0.0.1:{nobody}/", "--nats-server",
                                 f"nats://joe:hush@127.0.0.1:{nobody}", "--address",
                                 f"127.0.0.1:{nobody}, http://127.0.0.1:{nobody}", "--log-level", "error")
    assert status == 1
    for name in "etcd", "nats-server", "address":
        for row in rows[name]:
            assert row["state"] == "failure" and f"127.0.0.1:{nobody}" in row["value"] and row["remedy"]
    assert len(rows["address"]) == 2
    assert "hush" not in text


def test_something_else_is_there(examine, server):
    """An HTTP server is no etcd, no nats-server and no worker."""
    url = server().url
    address = url.removeprefix("http://")
    status, rows, _ = examine("--etcd-endpoints", url, "--nats-server", address)
    assert status == 1
    assert "no etcd" in only(rows, "etcd")["value"]
    assert only(rows, "nats-server")["state"] == "failure"
    status, rows, _ = examine("--address", f"{address},{url}")
    assert status == 0
    assert all("by HTTP, healthy" in row["value"] for row in rows["address"])


@pytest.fixture(scope="module")
def cluster(proa, tmp_path_factory):
    for program in "etcd", "nats-server":
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    settings = Settings(discovery="etcd", request_plane="nats")
    with Cluster(proa, tmp_path_factory.mktemp("cluster"), settings) as one:
        one.etcd(HERE)
        one.nats(HERE)
        one.worker(HERE, "prefill")
        one.worker(HERE, "decode")
        one.frontend(HERE)
        one.wait_ready()
        yield one


def addresses(cluster):
    prefill, decode = cluster.workers
    return [f"127.0.0.1:{prefill.port}", f"127.0.0.1:{prefill.bootstrap_port}", f"127.0.0.1:{decode.port}",
            f"127.0.0.1:{cluster.frontends[0].port}"]


def test_a_cluster(examine, cluster):
    status, rows, _ = examine("--address", ",".join(addresses(cluster)), PROA_CLUSTER_KEY=cluster.settings.key,
                              ETCD_ENDPOINTS=cluster.etcd_servers.endpoints, NATS_SERVER=cluster.nats_server.url)
    assert status == 0
    assert re.search(r"version 3\.\d+\.\d+, healthy, the leader", only(rows, "etcd")["value"])
    assert "1.0 MB" in only(rows, "nats-server")["value"]
    prefill, bootstrap, decode, frontend = (row["value"] for row in rows["address"])
    assert "worker for prefill" in prefill and re.search(r"epoch [0-9a-f]{16}, model .*handshake in", prefill)
    assert ": prefill (" in bootstrap  # the port of room links: the same process
    assert re.search(r"epoch (\w+)", prefill)[1] == re.search(r"epoch (\w+)", bootstrap)[1]
    assert "worker for decode" in decode
    assert "by HTTP, healthy, workers: 2" in frontend


def test_a_wrong_key(examine, cluster):
    status, rows, _ = examine("--address", addresses(cluster)[0], PROA_CLUSTER_KEY="another key, of another cluster")
    assert status == 1
    assert "cluster key" in only(rows, "address")["remedy"]


def test_a_frozen_worker_is_not_waited_for(examine, cluster):
    worker = cluster.workers[1]
    worker.kill(signal.SIGSTOP)
    try:
        status, rows, _ = examine("--address", f"127.0.0.1:{worker.port}", PROA_CLUSTER_KEY=cluster.settings.key)
    finally:
        worker.kill(signal.SIGCONT)
    assert status == 1
    assert only(rows, "address")["state"] == "failure"
