"""deploy/: units and manifests are well formed, every flag in them is one of the program's, and what they start serves."""
import re
import shutil
import subprocess

import pytest

from cluster import TINY, Cluster, Settings, wait_for
from conftest import TOP, clean_environment
from deployed import KUBERNETES, SYSTEMD, Variables, image_commands, is_ours, manifests, pod_commands, pods, read_unit, unit_command
from places import Loopback

HERE = Loopback()
RANKS_GRACE = 5  # src/cmd/ranks.h
KEY = "a key for tests, 32 bytes long..."
UNITS = [("proa-frontend.service", "")] + [("proa-worker@.service", mode) for mode in ("prefill", "decode", "null")]
VERSIONS = ("1.30", "1.34")
SAMPLE = {"LWS_LEADER_ADDRESS": "proa-0.proa.default", "LWS_GROUP_SIZE": "4", "LWS_WORKER_INDEX": "3", "NODE_RANK": "1", "POD_IP": "10.0.0.7",
          "HOST_IP": "10.0.0.7", "PROA_CLUSTER_KEY": KEY}


@pytest.fixture(scope="module")
def accepts(proa):
    """accepts(command): the program takes the words and the variables; with --help behind them, nothing is started."""
    def run(*words):
        return subprocess.run([proa, *words], capture_output=True, text=True, timeout=30, env=clean_environment())

    variables = Variables.read(run("help", "--format=markdown").stdout)

    def check(command):
        words = variables.as_flags(command)
        result = run(*words, "--help")
        assert result.returncode == 0, f"{command.where}: {words}\n{result.stderr}"
        assert result.stdout.startswith(f"Usage: proa {words[0]}")

    return check


# --- flags ---

@pytest.mark.parametrize("unit, instance", UNITS)
def test_flags_of_units(accepts, unit, instance):
    """As the files are (but worker-null.env, which is the user's own), and with all that is commented out in them."""
    if instance != "null":
        accepts(unit_command(SYSTEMD / unit, instance))
    accepts(unit_command(SYSTEMD / unit, instance, commented=True))


def test_flags_of_manifests(accepts):
    checked = 0
    for name, _, pod in pods():
        if is_ours(pod["spec"]["containers"][0]):
            command, probes = pod_commands(name, pod, SAMPLE)
            for one in command, *probes:
                accepts(one)
                checked += 1
    assert checked == 1 + 4 * 3


def test_flags_of_the_image(accepts):
    for command in image_commands():
        accepts(command)


def test_a_wrong_flag_is_found(accepts):
    """That the tests above can fail."""
    command, _ = image_commands()
    command.words.append("--no-such-flag")
    with pytest.raises(AssertionError, match="no-such-flag"):
        accepts(command)
    command, _ = image_commands()
    command.environment["PROA_HSOT"] = "0.0.0.0"
    with pytest.raises(AssertionError, match="PROA_HSOT"):
        accepts(command)


# --- systemd ---

def verify(tmp_path, edit=lambda text: text):
    """systemd-analyze's word on the units, installed beside systemd's own."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    root = tmp_path / "root"
    units = root / "etc/systemd/system"
    shutil.copytree("/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    (root / "usr/bin").mkdir()
    shutil.copy("/bin/true", root / "usr/bin/proa")
    units.mkdir(parents=True)
    for name in {unit for unit, _ in UNITS}:
        (units / name).write_text(edit((SYSTEMD / name).read_text()))
    names = [f"/etc/systemd/system/{unit.replace('@', '@' + instance)}" for unit, instance in UNITS]
    return subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={root}", *names], capture_output=True,
                          text=True, timeout=60)


def test_units_are_well_formed(tmp_path):
    result = verify(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_malformed_unit_is_found(tmp_path):
    result = verify(tmp_path, lambda text: text.replace("Restart=always", "Restart=forever"))
    assert "restart specifier, ignoring: forever" in result.stderr


@pytest.mark.parametrize("unit, exposure", [("proa-frontend.service", 2.0), ("proa-worker@.service", 2.5)])
def test_units_are_confined(unit, exposure):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    result = subprocess.run(["systemd-analyze", "security", "--offline=yes", SYSTEMD / unit], capture_output=True, text=True, timeout=60)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert level, result.stderr
    assert float(level[1]) <= exposure


@pytest.mark.parametrize("unit, instance", UNITS)
def test_units_end_in_time(unit, instance):
    """A kill comes after what the program takes by itself, and not much later."""
    service = read_unit(SYSTEMD / unit)["Service"]
    drain = float(unit_command(SYSTEMD / unit, instance, commented=True).environment["PROA_SHUTDOWN_TIMEOUT"])
    assert drain + RANKS_GRACE < float(service["TimeoutStopSec"][0]) <= drain + 15
    if instance:
        assert service["KillMode"] == ["mixed"]  # ranks take a second signal as an order to end at once
        for hides_devices in "PrivateDevices", "ProtectClock", "DeviceAllow":
            assert hides_devices not in service


@pytest.mark.long
def test_what_the_units_start_serves(proa, tmp_path):
    """One host, without etcd, as the files are but for ports and places."""
    (tmp_path / "cluster-key").write_text(KEY)
    ports = {"frontend": HERE.free_port(), "prefill": HERE.free_port(), "decode": HERE.free_port()}
    more = {"PROA_DISCOVERY_PATH": str(tmp_path / "discovery"), "PROA_MODEL_PATH": str(TINY), "PROA_HOST": "127.0.0.1", "PROA_HTTP_HOST": "127.0.0.1",
            "PROA_DISAGGREGATION_BOOTSTRAP_PORT": "0"}
    processes = []
    for unit, instance in UNITS[:3]:
        command = unit_command(SYSTEMD / unit, instance)
        words = [word.replace("/etc/proa/", f"{tmp_path}/") for word in command.words]
        own = {"PROA_PORT": str(ports[instance])} if instance else {"PROA_HTTP_PORT": str(ports["frontend"])}
        name = instance or "frontend"
        processes.append(HERE.popen(name, [proa, *words], tmp_path / f"{name}.log", command.environment | more | own))
    serves_and_ends(HERE, f"http://127.0.0.1:{ports['frontend']}", processes, 2)


def serves_and_ends(client, url, processes, workers):
    def listed():
        for process in processes:
            assert process.alive, f"{process.name} has ended:\n{process.log_tail()}"
        return len(client.get(f"{url}/health").json().get("instances", [])) == workers and client.get(f"{url}/health").status_code == 200

    wait_for(listed, 120, f"{workers} workers at the frontend")
    body = {"messages": [{"role": "user", "content": "what is 12+34?"}], "max_tokens": 60, "temperature": 0}
    answer = client.post(f"{url}/v1/chat/completions", body, timeout=60)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "46"
    for process in processes:
        process.kill(15)
    for process in processes:
        assert process.wait(40) == 0, process.log_tail()


# --- Kubernetes ---

@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_fit_the_schema(version):
    """Of a LeaderWorkerSet, which is no part of Kubernetes, the pods."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: make test does")
    kinds = []
    for name, document in manifests():
        kinds.append(document["kind"])
        if document["kind"] == "LeaderWorkerSet":
            _, _, pod = next(one for one in pods(name) if one[1] == document)
            document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **pod["metadata"]}, "spec": pod["spec"]}
        validator.validate(document, version, strict=True)
    assert kinds.count("LeaderWorkerSet") == kinds.count("StatefulSet") == 2


def test_a_malformed_manifest_is_found():
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: make test does")
    _, document = next(one for one in manifests("frontend.yaml") if one[1]["kind"] == "Deployment")
    document["spec"]["replicsa"] = 3
    with pytest.raises(validator.ValidationError):
        validator.validate(document, VERSIONS[0], strict=True)


def test_leader_worker_sets():
    """Their own keys, by the definition of leaderworkerset.x-k8s.io/v1."""
    for name, document, pod in pods("prefill.yaml", "decode.yaml"):
        template = document["spec"]["leaderWorkerTemplate"]
        assert document["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
        assert set(document["spec"]) <= {"replicas", "rolloutStrategy", "startupPolicy", "networkConfig", "leaderWorkerTemplate"}
        assert set(template) <= {"leaderTemplate", "workerTemplate", "size", "restartPolicy", "subGroupPolicy", "volumeClaimTemplates"}
        assert template["restartPolicy"] in ("None", "RecreateGroupOnPodRestart")
        command, _ = pod_commands(name, pod, SAMPLE)
        gpus = int(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        assert int(command.value("--tp-size")) == template["size"] * gpus == int(command.value("--dp-size"))


def test_pods():
    """What the program needs of every pod that runs it, and what nobody should miss."""
    version = re.search(r"version: '(.*?)'", (TOP / "meson.build").read_text())[1]
    for name, document, pod in pods():
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["enableServiceLinks"] is False, name  # else a Service's variables are taken for flags
        assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        selector = document["spec"].get("selector", {}).get("matchLabels", pod["metadata"]["labels"])
        assert selector.items() <= pod["metadata"]["labels"].items()
        if not is_ours(container):
            continue
        assert container["image"] == f"proa:{version}"
        command, probes = pod_commands(name, pod, SAMPLE)
        pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = float(command.value("--shutdown-timeout")) + pause
        assert drain + RANKS_GRACE <= spec["terminationGracePeriodSeconds"] <= drain + RANKS_GRACE + 5, name
        ports = {port["containerPort"] for port in container["ports"]}
        if command.words[0] == "worker":
            assert ports == {int(command.value("--port"))} and "livenessProbe" not in container
            assert all(probe.value("--address") == f"127.0.0.1:{command.value('--port')}" for probe in probes) and len(probes) == 2
            assert all(container[kind]["timeoutSeconds"] > 6 for kind in ("startupProbe", "readinessProbe"))  # the program's own limit is 5 s
        else:
            assert ports == {int(command.value("--http-port"))}
            assert [container[kind]["httpGet"]["path"] for kind in ("readinessProbe", "livenessProbe")] == ["/health", "/ping"]


def test_budgets_and_services_select_pods():
    labels = {document["metadata"]["name"]: pod["metadata"]["labels"] for _, document, pod in pods()}
    seen = set()
    for _, document in manifests():
        if document["kind"] in ("Service", "PodDisruptionBudget"):
            selector = document["spec"]["selector"]
            assert selector.get("matchLabels", selector) == labels[document["metadata"]["name"]]
            seen.add((document["kind"], document["metadata"]["name"]))
    assert {("PodDisruptionBudget", f"proa-{name}") for name in ("frontend", "prefill", "decode")} <= seen


def nodes_of(name, document):
    if document["kind"] == "StatefulSet":
        return document["spec"]["replicas"]
    return 2  # of its group: that many ranks on two cores answer in time


@pytest.mark.long
@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet"])
def test_what_the_manifests_start_serves(proa, tmp_path, lab, kind):
    """Pods as hosts of a lab. A StatefulSet's run as they are; of LeaderWorkerSets, two nodes with a rank each and the small model."""
    suffix = "-statefulset.yaml" if kind == "StatefulSet" else ".yaml"
    sets = [one for one in pods(f"prefill{suffix}", f"decode{suffix}")]
    hosts, processes, asked = lab(1 + sum(nodes_of(name, document) for name, document, _ in sets)), [], []
    front = hosts.host(0)
    with Cluster(proa, tmp_path, Settings()) as cluster:
        etcd = cluster.etcd(front).endpoints

        def start(name, pod, host, variables, change=lambda words: words):
            command, probes = pod_commands(name, pod, variables | {"PROA_CLUSTER_KEY": KEY})
            environment = {**command.environment, "ETCD_ENDPOINTS": etcd, "PROA_CLUSTER_KEY": KEY}
            label = f"{pod['metadata']['labels']['app.kubernetes.io/component']}{host.index}"
            processes.append(host.popen(label, [proa, *change(command.words)], tmp_path / f"{label}.log", environment))
            asked.extend((host, label, probe, environment) for probe in probes)

        (name, _, frontend), = pods("frontend.yaml")
        start(name, frontend, front, {})
        free = 1
        for name, document, pod in sets:
            nodes, leader = nodes_of(name, document), hosts.host(free).address
            for node in range(nodes):
                host = hosts.host(free + node)
                start(name, pod, host, {"POD_IP": host.address, "HOST_IP": host.address, "NODE_RANK": str(node), "LWS_GROUP_SIZE": str(nodes),
                                        "LWS_LEADER_ADDRESS": leader, "LWS_WORKER_INDEX": str(node)},
                      lambda words: [small(word, leader, kind) for word in words])
            free += nodes
        for host, label, probe, environment in asked:
            answered = host.popen(f"{label}-probe", [proa, *probe.words, "--wait", "120"], tmp_path / f"{label}-probe.log", environment)
            assert answered.wait(150) == 0, answered.log_tail()
        ranks = 8 if kind == "StatefulSet" else 4
        serves_and_ends(front, f"http://{front.address}:8000", processes, ranks)


def small(word, leader, kind):
    """A word of a pod's command as it is here: names are addresses; of a LeaderWorkerSet, which is large, few ranks of the small model."""
    flag, _, value = word.partition("=")
    if flag == "--dist-init-addr":
        return f"{flag}={leader}:29500"
    changes = {"--model-path": str(TINY)}
    if kind == "LeaderWorkerSet":
        changes |= {"--tp-size": "2", "--dp-size": "2"}
    return f"{flag}={changes[flag]}" if flag in changes else word
