"""Clusters for tests: etcd, nats-server, frontends and workers on places (places.py, lab.py), and clients that load them.

    with Cluster(program, folder, Settings(discovery="file")) as cluster:
        cluster.worker(here, "prefill")
        cluster.worker(here, "decode")
        frontend = cluster.frontend(here)
        cluster.wait_ready()
        outcomes = cluster.load(here, Load(urls=[frontend.url])).wait(60)

Everything that a cluster has started ends with it; when the test fails, the ends of all logs are printed.
"""
import base64
import collections
import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time

import httpx

import proof
from conftest import BUILD, TOP
from places import Process

STANDIN_NIXL = BUILD / "tests" / "fake" / "libnixl_standin.so"  # copies between processes of one host
READY_SECONDS = 30
STOP_SECONDS = 15
TINY = TOP / "models" / "tiny-r1"
HELD = ("proa:num_running_reqs", "proa:num_queue_reqs", "proa:num_used_tokens", "proa:kv_rooms", "proa:kv_blocks_quarantined")
COMPONENTS = {"prefill": "prefill", "decode": "backend", "null": "backend"}


def wait_for(condition, seconds, what):
    """Waits until condition() is true and returns what it is; it may raise transport errors meanwhile."""
    deadline, seen = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            seen = condition()
            if seen:
                return seen
        except (httpx.TransportError, OSError) as error:
            seen = error
        time.sleep(0.03)
    raise AssertionError(f"{what} not after {seconds} s; last seen: {seen!r}")


def real_nixl():
    """NIXL's library, and why there is none: PROA_TEST_NIXL_LIBRARY, or where the loader finds it."""
    path = os.environ.get("PROA_TEST_NIXL_LIBRARY", "libnixl_capi.so")
    try:
        ctypes.CDLL(path)
    except OSError as why:
        return None, f"set PROA_TEST_NIXL_LIBRARY to NIXL's libnixl_capi.so: {why}"
    return path, None


def nixl_environment(path):
    """What workers need to use the library and the plugins that lie beside it."""
    return {"PROA_NIXL_LIBRARY": str(path), "NIXL_PLUGIN_DIR": str(pathlib.Path(path).parent / "plugins")}


@dataclasses.dataclass
class Settings:
    """What the programs of a cluster have in common."""
    discovery: str = "file"  # or "etcd": then cluster.etcd() is called first
    request_plane: str = "tcp"  # or "nats": then cluster.nats() is called first
    transfer: str = "ucx"
    key: str = "a key for tests, 32 bytes long..."  # None: none, and loopback alone
    model: pathlib.Path = TINY
    load_format: str = "auto"  # "proof"
    worker_flags: tuple = ("--threads", "1")
    environment: dict = dataclasses.field(default_factory=dict)


class Part:
    """A program of the cluster at a place. It can be started again after its end."""

    def __init__(self, name, place, folder):
        self.name = name
        self.place = place
        self.folder = folder
        self.process = None

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def start(self):
        assert self.process is None or not self.process.alive, f"{self.name} is running"
        self.process = self.place.popen(self.name, self.command(), self.folder / f"{self.name}.log", self.environment())

    def kill(self, number=signal.SIGKILL):
        self.process.kill(number)

    def stop(self, seconds=STOP_SECONDS):
        """Ends it as an operator would; returns its exit status."""
        self.process.kill(signal.SIGTERM)
        return self.process.wait(seconds)

    @property
    def alive(self):
        return self.process is not None and self.process.alive

    @property
    def life(self):
        """Its name and which of its processes it is: one that was started again is another."""
        return f"{self.name}, process {self.process.pid}"


# --- servers of others ---

class EtcdNode(Part):
    def __init__(self, name, place, folder):
        super().__init__(name, place, folder)
        self.client_url = f"http://{place.address}:{place.free_port()}"
        self.peer_url = f"http://{place.address}:{place.free_port()}"
        self.members = ""

    def command(self):
        return ["etcd", "--name", self.name, "--data-dir", self.folder / self.name, "--initial-cluster", self.members,
                "--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url,
                "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url, "--logger", "zap"]

    def ask(self, path, body):
        answer = self.place.post(f"{self.client_url}/v3/{path}", body)
        answer.raise_for_status()
        return answer.json()

    def healthy(self):
        return self.place.get(f"{self.client_url}/health").json().get("health") == "true"

    def leads(self):
        status = self.ask("maintenance/status", {})
        return status.get("leader") == status["header"]["member_id"]


class Etcd:
    """A cluster of etcd with a node at each place."""

    def __init__(self, places, folder):
        self.nodes = [EtcdNode(f"etcd{i}", place, folder) for i, place in enumerate(places)]
        members = ",".join(f"{n.name}={n.peer_url}" for n in self.nodes)
        for node in self.nodes:
            node.members = members

    def start(self):
        for node in self.nodes:
            node.start()
        self.wait_ready()

    def wait_ready(self):
        for node in self.nodes:
            wait_for(node.healthy, READY_SECONDS, f"{node.name} is healthy")

    @property
    def endpoints(self):
        return ",".join(n.client_url for n in self.nodes)

    def leader(self):
        """The node that leads, when all are asked that live."""
        return wait_for(lambda: next((n for n in self.nodes if n.alive and n.leads()), None), READY_SECONDS, "etcd has a leader")

    def keys(self, prefix="v1/"):
        node = next(n for n in self.nodes if n.alive)
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = node.ask("kv/range", {"key": encode(prefix), "range_end": encode(end), "keys_only": True})
        return [base64.b64decode(kv["key"]).decode() for kv in found.get("kvs", [])]

    def leases(self):
        node = next(n for n in self.nodes if n.alive)
        return [lease["ID"] for lease in node.ask("lease/leases", {}).get("leases", [])]


def encode(text):
    return base64.b64encode(text.encode()).decode()


class Nats(Part):
    def __init__(self, place, folder):
        super().__init__("nats", place, folder)
        self.port, self.monitor_port = place.free_port(), place.free_port()
        self.url = f"nats://{place.address}:{self.port}"

    def command(self):
        return ["nats-server", "--addr", self.place.address, "--port", str(self.port), "--http_port", str(self.monitor_port)]

    def wait_ready(self):
        url = f"http://{self.place.address}:{self.monitor_port}/healthz"
        wait_for(lambda: self.place.get(url).status_code == 200, READY_SECONDS, "nats-server is healthy")

    def connections(self):
        return self.place.get(f"http://{self.place.address}:{self.monitor_port}/connz").json()["num_connections"]


# --- ours ---

class Role(Part):
    """What frontends and workers share: the program, discovery, the request plane, the key."""

    def __init__(self, name, place, cluster, flags):
        super().__init__(name, place, cluster.folder)
        self.cluster = cluster
        self.flags = flags

    def shared_flags(self):
        settings = self.cluster.settings
        flags = ["--discovery-backend", settings.discovery, "--request-plane", settings.request_plane]
        if settings.discovery == "file":
            flags += ["--discovery-path", self.folder / "discovery"]
        return flags

    def environment(self):
        settings, more = self.cluster.settings, {}
        if settings.discovery == "etcd":
            more["ETCD_ENDPOINTS"] = self.cluster.etcd_servers.endpoints
        if settings.request_plane == "nats":
            more["NATS_SERVER"] = self.cluster.nats_server.url
        if settings.key is not None:
            more["PROA_CLUSTER_KEY"] = settings.key
        return more | settings.environment


class Frontend(Role):
    def __init__(self, name, place, cluster, flags):
        super().__init__(name, place, cluster, flags)
        self.port = place.free_port()
        self.url = f"http://{place.address}:{self.port}"

    def command(self):
        return [self.cluster.program, "frontend", "--http-host", self.place.address, "--http-port", str(self.port),
                *self.shared_flags(), *self.flags]

    def health(self):
        return self.place.get(f"{self.url}/health")

    def instances(self):
        """The workers that it could use now, by component."""
        answer = self.health().json()
        ready = (i for i in answer.get("instances", []) if i.get("status", "ready") == "ready")
        return collections.Counter(i["component"] for i in ready)

    def metrics(self):
        return parse_metrics(self.place.get(f"{self.url}/metrics").text)

    def post(self, path, body, timeout=30):
        return self.place.post(self.url + path, body, timeout)


class Worker(Role):
    def __init__(self, name, place, cluster, mode, flags, ranks=1):
        super().__init__(name, place, cluster, flags)
        self.mode = mode
        self.ranks = ranks  # of those that this process is the parent of, how many have requests
        self.port, self.bootstrap_port = place.free_port(), place.free_port()

    def command(self):
        settings = self.cluster.settings
        return [self.cluster.program, "worker", "--model-path", settings.model, "--load-format", settings.load_format,
                "--host", self.place.address, "--port", str(self.port), "--disaggregation-mode", self.mode,
                "--disaggregation-transfer-backend", settings.transfer,
                "--disaggregation-bootstrap-port", str(self.bootstrap_port),
                *self.shared_flags(), *settings.worker_flags, *self.flags]


def parse_metrics(text):
    """{"name": {"labels": value}} of a Prometheus page."""
    found = collections.defaultdict(dict)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            found[name][labels.rstrip("}")] = float(value)
    return found


class LoadRun:
    """A load that runs in a process of its own. `done` is how many requests have ended."""

    def __init__(self, place, load, log_path):
        command = [sys.executable, "-B", proof.__file__]
        self.process = place.popen("load", command, log_path, pipes=True)
        self.done = 0
        self._outcomes = None
        self.process.popen.stdin.write(json.dumps(dataclasses.asdict(load)))
        self.process.popen.stdin.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.popen.stdout:
            message = json.loads(line)
            self.done = message.get("done", self.done)
            self._outcomes = message.get("outcomes", self._outcomes)

    def wait_done(self, count, seconds=60):
        """Waits until `count` requests have ended."""
        wait_for(lambda: self.done >= count or not self.process.alive, seconds, f"{count} requests have ended")

    def wait(self, seconds):
        """The outcomes of all requests."""
        self.process.wait(seconds)
        self._reader.join(5)
        assert self._outcomes is not None, f"the load has failed:\n{self.process.log_tail()}"
        return [proof.Outcome(**o) for o in self._outcomes]


class Cluster:
    def __init__(self, program, folder, settings=None):
        self.program = program
        self.folder = pathlib.Path(folder)
        self.settings = settings or Settings()
        self.etcd_servers = None
        self.nats_server = None
        self.frontends = []
        self.workers = []
        self._loads = []
        self._numbers = collections.Counter()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.print_logs()
        for process in self._processes():
            process.end()

    def _processes(self) -> list[Process]:
        parts = [*self.frontends, *self.workers, *(self.etcd_servers.nodes if self.etcd_servers else [])]
        parts += [self.nats_server] if self.nats_server else []
        return [load.process for load in self._loads] + [p.process for p in parts if p.process is not None]

    def print_logs(self):
        for process in self._processes():
            print(f"--- {process.name}, process {process.pid}, status {process.popen.poll()}\n{process.log_tail()}")

    def _name(self, kind):
        self._numbers[kind] += 1
        return f"{kind}{self._numbers[kind] - 1}"

    def etcd(self, *places):
        self.etcd_servers = Etcd(places, self.folder)
        self.etcd_servers.start()
        return self.etcd_servers

    def nats(self, place):
        self.nats_server = Nats(place, self.folder)
        self.nats_server.start()
        self.nats_server.wait_ready()
        return self.nats_server

    def frontend(self, place, *flags):
        self.frontends.append(Frontend(self._name("frontend"), place, self, flags))
        self.frontends[-1].start()
        return self.frontends[-1]

    def worker(self, place, mode, *flags, ranks=1):
        self.workers.append(Worker(self._name(mode), place, self, mode, flags, ranks))
        self.workers[-1].start()
        return self.workers[-1]

    def wait_ready(self, seconds=READY_SECONDS):
        """Until every frontend that lives lists every worker that lives, and no other."""
        wanted = collections.Counter()
        for worker in self.workers:
            wanted[COMPONENTS[worker.mode]] += worker.ranks if worker.alive else 0
        wanted = +wanted
        for frontend in self.frontends:
            if frontend.alive:
                wait_for(lambda: self._lists(frontend, wanted), seconds, f"{frontend.name} lists {dict(wanted)}")

    def _lists(self, frontend, wanted):
        for part in (frontend, *self.workers):
            assert part.alive or part.process.popen.returncode <= 0, f"{part.name} has ended:\n{part.process.log_tail()}"
        return frontend.health().status_code == 200 and frontend.instances() == wanted

    def leftovers(self):
        """What the frontends still see held by requests, by name: nothing, once all have ended."""
        found = {}
        for frontend in self.frontends:
            if frontend.alive:
                metrics = frontend.metrics()
                for name in HELD:
                    assert name in metrics, f"{frontend.name} has no metric {name}"
                    if (value := sum(metrics[name].values())) != 0:
                        found[f"{frontend.name} {name}"] = value
        return found

    def descriptors(self):
        """How many descriptors each process of ours has open, by its life. Connections to etcd do not count: libcurl keeps as many as it
        has ever used at once."""
        nodes = self.etcd_servers.nodes if self.etcd_servers else []
        etcd = tuple(f"-> {node.client_url.removeprefix('http://')}" for node in nodes)
        return {part.life: sum(not what.endswith(etcd) for what in part.process.descriptors().values())
                for part in (*self.frontends, *self.workers) if part.alive}

    def load(self, place, load):
        self._loads.append(LoadRun(place, load, self.folder / f"{self._name('load')}.log"))
        return self._loads[-1]

    def stop(self):
        """Ends frontends and workers as an operator would."""
        for part in (*self.frontends, *self.workers):
            if part.alive:
                status = part.stop()
                assert status == 0, f"{part.name} ended with status {status}:\n{part.process.log_tail()}"
