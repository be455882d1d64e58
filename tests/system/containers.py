"""Container images on a machine without a registry: tools, storage and a base image of their own.

The base is Debian by debootstrap, tagged with the name that the Containerfile has, so that nothing in it is changed for the test. Builds run with
buildah's chroot isolation, containers under podman with runc and the host's network: both work inside virtual machines and containers.
"""
import json
import os
import shutil
import subprocess
import time

BASE = "docker.io/library/debian:bookworm-slim"
TOOLS = ("buildah", "podman", "runc", "debootstrap", "make")
STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{0}/storage"\nrunroot = "{0}/run"\n'
CONTAINERS = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4000:4000"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


class Unavailable(Exception):
    """Why this machine has no containers."""


class Store:
    """Images and containers in a folder. `close()` leaves nothing behind."""

    def __init__(self, folder):
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not installed: apt-get install {' '.join(missing)}")
        if os.geteuid() != 0:
            raise Unavailable("needs root")
        self.folder = folder
        self.environment = os.environ | {"CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf", "CONTAINERS_CONF": f"{folder}/containers.conf",
                                         "BUILDAH_ISOLATION": "chroot"}
        (folder / "storage.conf").write_text(STORAGE.format(folder))
        (folder / "containers.conf").write_text(CONTAINERS)

    def run(self, *command, timeout=120, check=True, **more):
        result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, env=self.environment | more)
        assert not check or result.returncode == 0, f"{command}: status {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
        return result

    def podman(self, *words, **options):
        return self.run("podman", "--tmpdir", self.folder / "podman", *words, **options).stdout.strip()

    def make_base(self):
        root = self.folder / "base"
        made = self.run("debootstrap", "--variant=minbase", "bookworm", root, timeout=900, check=False)
        if made.returncode != 0:
            raise Unavailable(f"debootstrap has no Debian mirror: {made.stdout.strip().splitlines()[-1:]}")
        container = self.run("buildah", "from", "scratch").stdout.strip()
        self.run("buildah", "add", "--quiet", container, root, "/")
        self.run("buildah", "config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self.run("buildah", "commit", "--quiet", container, BASE, timeout=300)
        self.run("buildah", "rm", container)
        shutil.rmtree(root)

    def start(self, image, name, *words, flags=(), **environment):
        """A container that runs on: health checks want systemd's timers, so their command is run by `Container.health`."""
        variables = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
        self.podman("run", "--detach", "--name", name, "--no-healthcheck", "--read-only", *variables, *flags, image, *words)
        return Container(self, name)

    def inspect(self, image):
        return json.loads(self.podman("image", "inspect", image))[0]

    def close(self):
        self.run("podman", "--tmpdir", self.folder / "podman", "rm", "--all", "--force", check=False)
        self.run("buildah", "rm", "--all", check=False)
        self.run("buildah", "rmi", "--all", "--force", timeout=300, check=False)
        subprocess.run(["umount", self.folder / "storage" / "overlay"], capture_output=True)


class Container:
    def __init__(self, store, name):
        self.store, self.name = store, name

    def exec(self, *words, **options):
        return self.store.run("podman", "--tmpdir", self.store.folder / "podman", "exec", self.name, *words, **options)

    def log(self):
        result = self.store.run("podman", "--tmpdir", self.store.folder / "podman", "logs", self.name, check=False)
        return result.stdout + result.stderr

    def wait_healthy(self, command, seconds=60):
        deadline = time.monotonic() + seconds
        while (result := self.exec(*command, check=False)).returncode != 0:
            assert time.monotonic() < deadline, f"{self.name} is not healthy: {result.stderr}\n{self.log()}"
            time.sleep(0.2)
        return result.stdout

    def stop(self, grace=10):
        """(exit status, seconds) of `podman stop`."""
        begin = time.monotonic()
        self.store.podman("stop", "--time", grace, self.name)
        seconds = time.monotonic() - begin
        return int(self.store.podman("inspect", self.name, "--format", "{{.State.ExitCode}}")), seconds
