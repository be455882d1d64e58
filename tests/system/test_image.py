"""The container image: built for real, and served from. And what `make image` says where it cannot.

Long: Debian is fetched, its packages are installed and the program is compiled, which takes some minutes."""
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time

import httpx
import pytest

from cluster import wait_for
from conftest import TOP
from containers import BASE, Container, Store, Unavailable
from deployed import SYSTEMD
from places import Loopback

HERE = Loopback()
SIZE_MAX = 300e6
TOOLKIT = pathlib.Path(os.environ.get("CUDA_TOOLKIT", "/usr/local/cuda"))
GRACE = 10  # podman's own
QUESTION = {"messages": [{"role": "user", "content": "what is 384+967?"}], "temperature": 0}
KEY = "a key for tests, 32 bytes long..."


# --- make image, without an image ---

def make_image(tmp_path, tools=(), **environment):
    """`make image` where no tools are but those of `tools`, which do nothing but print their words."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in "bash", "dirname", "git", "make", "sed", "sh", "uname":
        (programs / name).symlink_to(shutil.which(name))
    for name in tools:
        (programs / name).write_text('#!/bin/sh\necho "ran: $0 $*"\n')
        (programs / name).chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", "-C", TOP, "image"], capture_output=True, text=True, timeout=60,
                          env=clean | {"PATH": str(programs), **environment})


def toolkit(tmp_path):
    """The folder of a CUDA toolkit, by a link."""
    real = tmp_path / "cuda-13.0"
    (real / "bin").mkdir(parents=True)
    (real / "bin" / "nvcc").touch(0o755)
    (tmp_path / "cuda").symlink_to(real)
    return tmp_path / "cuda"


@pytest.mark.parametrize("tools, environment, says", [
    ((), {}, "none of docker, podman and buildah is installed: `apt-get install buildah` suffices"),
    ((), {"IMAGE_TOOL": "/opt/docker --tls"}, 'IMAGE_TOOL is "/opt/docker --tls", and there is no /opt/docker'),
    (("kaniko",), {"IMAGE_TOOL": "kaniko"}, 'IMAGE_TOOL is "kaniko": give docker, podman or buildah'),
    (("docker",), {"ARCH": "x86_64"}, 'ARCH is "x86_64": give amd64 or arm64'),
    (("buildah",), {"CUDA_TOOLKIT": "/nowhere"}, 'CUDA_TOOLKIT is "/nowhere", and there is no bin/nvcc in it: give the folder of a CUDA toolkit, '
                                                 'such as /usr/local/cuda'),
    (("buildah",), {"CUDA_TOOLKIT": "{toolkit}"}, "CUDA_TOOLKIT compiles for GPU_TARGETS, which is empty: give GPU_TARGETS=90a too"),
    (("docker",), {"CUDA_TOOLKIT": "{toolkit}", "GPU_TARGETS": "90a"},
     "docker's builder is shown no folders: build with podman or buildah, or leave CUDA_TOOLKIT out for NVIDIA's image"),
])
def test_make_image_says_what_is_missing(tmp_path, tools, environment, says):
    place = toolkit(tmp_path)
    result = make_image(tmp_path, tools, **{k: v.format(toolkit=place) for k, v in environment.items()})
    assert result.returncode == 2 and f"make image: {says}\n" in result.stderr


@pytest.mark.parametrize("tools, environment, runs", [
    (("docker", "buildah"), {"IMAGE": "registry.example/proa:7"}, "docker build --platform linux/{own} --tag registry.example/proa:7 "),
    (("podman", "buildah"), {}, "podman build "),
    (("buildah",), {"IMAGE_TOOL": "buildah --root /x", "IMAGE_FLAGS": "--pull-never --quiet"}, "buildah --root /x build "),
    (("buildah",), {"ARCH": "arm64", "GPU_TARGETS": "90a"}, "buildah build --platform linux/arm64 "),
])
def test_make_image_picks_the_tool_at_hand(tmp_path, tools, environment, runs):
    result = make_image(tmp_path, tools, **environment)
    own = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("ran: "))
    assert f"/{runs.format(own=own)}" in line and line.endswith(" --file Containerfile .")
    assert ("--format docker" in line) == ("/docker " not in line)
    assert ("--build-arg GPU_TARGETS=90a" in line) == ("GPU_TARGETS" in environment)
    assert environment.get("IMAGE_FLAGS", "") in line


def test_make_image_shows_the_builder_a_toolkit(tmp_path):
    result = make_image(tmp_path, ("buildah",), CUDA_TOOLKIT=str(toolkit(tmp_path)), GPU_TARGETS="90a")
    assert result.returncode == 0, result.stderr
    for words in ("--build-arg GPU_TARGETS=90a ", "--build-arg BASE=docker.io/library/debian:bookworm-slim ",
                  f"--volume {tmp_path}/cuda-13.0:/usr/local/cuda:ro "):
        assert words in result.stdout


# --- the image ---

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    try:
        one = Store(tmp_path_factory.mktemp("containers"))
    except Unavailable as why:
        pytest.skip(f"no containers here: {why}")
    try:
        one.make_base()
        yield one
    except Unavailable as why:
        pytest.skip(f"no base image: {why}")
    finally:
        one.close()


def build(store, name="localhost/proa:test", **environment):
    return store.run("make", "-C", TOP, "image", timeout=3000, IMAGE_TOOL="buildah", IMAGE=name, IMAGE_FLAGS="--pull-never",
                     **environment)


@pytest.fixture(scope="module")
def image(store):
    begin = time.monotonic()
    build(store)
    inspected = store.inspect("localhost/proa:test")
    print(f"built in {time.monotonic() - begin:.0f} s: {inspected['Size'] / 1e6:.0f} MB")
    return inspected


def health_of(image):
    kind, *command = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    return command


@pytest.mark.long
def test_what_the_image_is(image):
    config = image["Config"]
    assert config["Entrypoint"] == ["proa"] and config["Cmd"] == ["serve"]
    assert config["User"] == "10001:10001" and config["StopSignal"] == "SIGTERM" and list(config["ExposedPorts"]) == ["8000/tcp"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Labels"]["org.opencontainers.image.revision"] != "unknown"
    assert image["Size"] < SIZE_MAX
    assert health_of(image) == ["proa", "health"]


@pytest.mark.long
def test_what_the_image_holds(store, image):
    """The program, libraries and the model; nothing else that could be run, and the licence of each."""
    top = store.run("buildah", "from", image["Id"]).stdout.strip()
    root = store.run("buildah", "mount", top).stdout.strip()
    files = store.run("find", root, "-type", "f", "-printf", "%m %P\n").stdout.splitlines()
    names = {name for _, name in (line.split(" ", 1) for line in files)}
    programs = {name for name in names if "/bin/" in name or "/sbin/" in name}
    assert programs == {"usr/bin/proa"}
    assert "usr/share/proa/models/tiny-r1/config.json" in names
    strange = [name for name in names if not name.startswith(("usr/bin/", "usr/lib/", "lib64/", "lib/ld-", "usr/share/doc/", "usr/share/proa/",
                                                              "etc/libibverbs.d/", "etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt"))]
    assert not strange
    owners = {name.split("/")[3] for name in names if name.startswith("usr/share/doc/")}
    assert {"proa", "libc6", "libevent-core-2.1-7", "libucx0"} <= owners
    assert not [line for line in files if int(line.split()[0], 8) & 0o6022]  # set-uid, or others may write
    store.run("buildah", "rm", top)


@pytest.mark.long
def test_nothing_is_built_twice(store, image):
    begin = time.monotonic()
    build(store)
    assert store.inspect("localhost/proa:test")["Id"] == image["Id"]
    assert time.monotonic() - begin < 60


@pytest.mark.long
def test_a_wrong_target_is_explained(store, image):
    result = store.run("make", "-C", TOP, "image", IMAGE_TOOL="buildah", IMAGE_FLAGS="--pull-never", GPU_TARGETS="80",
                       BASE="docker.io/library/debian:bookworm-slim", timeout=300, check=False)
    assert result.returncode != 0 and 'choices: "90a", "100a"' in result.stdout + result.stderr


@pytest.mark.long
def test_with_kernels(store, image):
    """Compiled by this machine's toolkit; without a driver it says so, and serves on processors."""
    if not (TOOLKIT / "bin" / "nvcc").exists():
        pytest.skip(f"no CUDA toolkit in {TOOLKIT}")
    begin = time.monotonic()
    build(store, "localhost/proa:cuda", CUDA_TOOLKIT=str(TOOLKIT), GPU_TARGETS="90a")
    size = store.inspect("localhost/proa:cuda")["Size"]
    print(f"with kernels, built in {time.monotonic() - begin:.0f} s: {size / 1e6:.0f} MB")
    assert size < SIZE_MAX
    top = store.run("buildah", "from", "localhost/proa:cuda").stdout.strip()
    root = pathlib.Path(store.run("buildah", "mount", top).stdout.strip())
    program = root / "usr/bin/proa"
    assert ".nv_fatbin" in store.run("readelf", "--wide", "--sections", program).stdout
    assert "libcud" not in store.run("readelf", "--wide", "--dynamic", program).stdout  # neither the runtime nor the driver
    if cuobjdump := shutil.which("cuobjdump", path=f"{TOOLKIT}/bin:{os.environ['PATH']}"):
        kernels = store.run(cuobjdump, "--list-elf", program).stdout.splitlines()
        assert kernels and all("sm_90a" in line for line in kernels)
    assert (root / "usr/share/doc/cuda-cudart/copyright").stat().st_size > 0
    store.run("buildah", "rm", top)

    refused = store.run("podman", "--tmpdir", store.folder / "podman", "run", "--rm", "--read-only", "localhost/proa:cuda", "serve", "--device", "cuda",
                        check=False)
    assert refused.returncode == 1 and "driver" in refused.stderr, refused.stderr
    port = HERE.free_port()
    one = store.start("localhost/proa:cuda", "kernels", PROA_HOST="127.0.0.1", PROA_PORT=port, PROA_ADDRESS=f"http://127.0.0.1:{port}")
    one.wait_healthy(health_of(image))
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=QUESTION, timeout=60)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "1351"
    assert one.stop(GRACE)[0] == 0, one.log()


# --- the service ---

@pytest.mark.long
def test_it_serves_and_stops(store, image):
    """With the bundled model, nothing writable but /tmp, no flag; a request in flight is answered before the end."""
    port = HERE.free_port()
    url = f"http://127.0.0.1:{port}"
    one = store.start(image["Id"], "serves", PROA_HOST="127.0.0.1", PROA_PORT=port, PROA_ADDRESS=url)
    assert "healthy" in one.wait_healthy(health_of(image))
    assert store.podman("top", "serves", "user,args").splitlines()[1:] == ["proa        proa serve"]
    answer = httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "1351"
    doctor = one.exec("proa", "doctor").stdout
    assert "rows arrive in another process of this host" in doctor and "0 failures" in doctor

    begun, ended = threading.Event(), []
    streamed = QUESTION | {"stream": True, "max_tokens": 40, "ignore_eos": True}

    def read():
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=streamed, timeout=60) as lines:
            events = [json.loads(line[6:]) for line in lines.iter_lines() if line.startswith("data: {") and (begun.set() or True)]
        ended.append(events[-1]["choices"][0]["finish_reason"])

    client = threading.Thread(target=read)
    client.start()
    assert begun.wait(60)
    status, seconds = one.stop(GRACE)
    client.join(60)
    assert ended == ["length"], one.log()
    assert status == 0 and seconds < GRACE, one.log()


@pytest.mark.long
def test_prefill_and_decode_in_containers(store, image, tmp_path):
    """Three containers that find each other through a folder, with a key, as another user than the image's."""
    ports = {name: HERE.free_port() for name in ("frontend", "prefill", "decode", "bootstrap")}
    (tmp_path / "discovery").mkdir(mode=0o777)
    (tmp_path / "discovery").chmod(0o777)
    common = {"PROA_DISCOVERY_PATH": "/discovery", "PROA_CLUSTER_KEY": KEY, "PROA_HOST": "127.0.0.1"}
    flags = ("--volume", f"{tmp_path}/discovery:/discovery", "--user", "12345:12345")
    model = ("--model-path", "/usr/share/proa/models/tiny-r1", "--threads", 1)
    parts = [store.start(image["Id"], "frontend", "frontend", "--http-host", "127.0.0.1", "--http-port", ports["frontend"], flags=flags, **common)]
    for mode in "prefill", "decode":
        parts.append(store.start(image["Id"], mode, "worker", *model, "--disaggregation-mode", mode, "--port", ports[mode],
                                 "--disaggregation-bootstrap-port", ports["bootstrap"], flags=flags, **common))
        assert f"worker for {mode}" in parts[-1].wait_healthy(["proa", "health", "--address", f"127.0.0.1:{ports[mode]}"])
    url = f"http://127.0.0.1:{ports['frontend']}"
    assert "workers: 2" in parts[0].wait_healthy(["proa", "health", "--address", url, "--wait", "5"])
    answer = httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "1351"
    for part in parts:
        status, seconds = part.stop(GRACE)
        assert status == 0 and seconds < GRACE, part.log()


# --- the units ---

def systemd_image(store, image):
    """The base with systemd as its first process, the image's program and libraries, and deploy/systemd as docs/deploy.md installs it."""
    top = store.run("buildah", "from", "--pull-never", BASE).stdout.strip()
    store.run("buildah", "run", top, "--", "sh", "-ec", "apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -qy "
              "--no-install-recommends systemd systemd-sysv dbus", timeout=900)
    libraries = f"/usr/lib/{os.uname().machine}-linux-gnu"  # of the same Debian, so they may lie among its own
    for place in "/usr/bin/proa", "/usr/share/proa", libraries:
        inside = place + "/" if place != "/usr/bin/proa" else place
        store.run("buildah", "copy", "--quiet", "--from", image["Id"], top, place, inside)
    store.run("buildah", "copy", "--quiet", top, *SYSTEMD.glob("*.service"), "/etc/systemd/system/")
    store.run("buildah", "copy", "--quiet", top, *SYSTEMD.glob("*.env"), "/etc/proa/")
    store.run("buildah", "copy", "--quiet", top, SYSTEMD / "proa.sysusers", "/usr/lib/sysusers.d/proa.conf")
    store.run("buildah", "run", top, "--", "sh", "-ec", f"systemd-sysusers; umask 077; echo '{KEY}' > /etc/proa/cluster-key; "
              "chgrp proa /etc/proa/cluster-key; chmod 640 /etc/proa/cluster-key")
    store.run("buildah", "commit", "--quiet", top, "localhost/units:test", timeout=300)
    store.run("buildah", "rm", top)
    return "localhost/units:test"


def shown(units, unit, *names):
    """Properties of a unit."""
    lines = units.exec("systemctl", "show", "--property", ",".join(names), unit).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.long
def test_units_under_systemd(store, image):
    """Started, asked, a rank killed, stopped: by systemd itself, with all that the units forbid."""
    store.podman("run", "--detach", "--name", "units", "--systemd=always", "--privileged", "--network", "none", systemd_image(store, image),
                 "/lib/systemd/systemd")
    units = Container(store, "units")
    wait_for(lambda: units.exec("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"), 120, "systemd runs")
    modes = ["proa-worker@prefill", "proa-worker@decode"]
    units.exec("systemctl", "start", "proa-frontend", *modes, timeout=300)
    assert "workers: 2" in wait_healthy_with(units, 2)
    asked = units.exec("proa", "eval", "--url", "http://127.0.0.1:8000", "--model-path", "/usr/share/proa/models/tiny-r1", "--limit", 3, timeout=300)
    assert "100.0 %" in asked.stdout

    ranks = "PROA_MODEL_PATH=/usr/share/proa/models/tiny-r1\nPROA_TP_SIZE=2\nPROA_DP_SIZE=2\nPROA_ENABLE_DP_ATTENTION=1\n"
    units.exec("sh", "-c", f"printf '{ranks}' > /etc/proa/worker-null.env")
    units.exec("systemctl", "stop", *modes, timeout=300)
    for mode in modes:
        assert shown(units, mode, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    units.exec("systemctl", "start", "proa-worker@null", timeout=300)
    wait_healthy_with(units, 2)
    parent = shown(units, "proa-worker@null", "MainPID")
    victim = next(pid for pid in units.exec("cat", f"/proc/{parent['MainPID']}/task/{parent['MainPID']}/children").stdout.split())
    units.exec("sh", "-c", f"kill -KILL {victim}")
    wait_for(lambda: units.exec("test", "-e", f"/proc/{victim}", check=False).returncode != 0, 30, "the rank is gone")
    wait_healthy_with(units, 2)
    assert shown(units, "proa-worker@null", "MainPID", "NRestarts", "ActiveState") == parent | {"NRestarts": "0", "ActiveState": "active"}
    units.exec("systemctl", "stop", "proa-worker@null", "proa-frontend", timeout=300)
    for unit in "proa-worker@null", "proa-frontend":
        assert shown(units, unit, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}

    units.exec("sh", "-c", "echo PROA_TP_SIZE=many >> /etc/proa/worker-null.env")
    units.exec("systemctl", "start", "proa-worker@null", check=False)
    wait_for(lambda: shown(units, "proa-worker@null", "ActiveState") == {"ActiveState": "failed"}, 60, "a wrong flag is not tried again")
    assert shown(units, "proa-worker@null", "ExecMainStatus", "NRestarts") == {"ExecMainStatus": "2", "NRestarts": "0"}


def wait_healthy_with(units, workers):
    def answer():
        text = units.exec("proa", "health", check=False).stdout
        return text if f"workers: {workers}" in text else None

    return wait_for(answer, 120, f"a frontend with {workers} workers")
