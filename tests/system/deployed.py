"""What deploy/ and the Containerfile would start, as commands: read out of units, manifests and instructions as systemd, Kubernetes and container
tools read them."""
import dataclasses
import json
import pathlib
import re
import shlex

import yaml

from conftest import TOP

DEPLOY = TOP / "deploy"
SYSTEMD = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes"
PROGRAM = "/usr/bin/proa"


@dataclasses.dataclass
class Command:
    """`words` without the program's name: "worker", "--port=9000"."""
    where: str
    words: list
    environment: dict = dataclasses.field(default_factory=dict)

    def value(self, flag):
        """Of a flag on the command line, "--flag=value" or "--flag value"; None: it is not there."""
        for i, word in enumerate(self.words):
            name, equals, value = word.partition("=")
            if name == flag:
                return value if equals else self.words[i + 1]
        return None


# --- flags as the program documents them ---

@dataclasses.dataclass
class Variables:
    """The flags of each command by their environment variable: {"worker": {"PROA_PORT": ("--port", True)}}; True: it takes a value."""
    of: dict

    @classmethod
    def read(cls, markdown):
        found, command = {}, None
        for line in markdown.splitlines():
            if heading := re.match(r"## proa (\S+)", line):
                command = found.setdefault(heading[1], {})
            elif row := re.match(r"\| `(--\S+)( [^`]*?)?(?:, --[^`]*)?` \|.*?\| `(\w+)` \|", line):
                command[row[3]] = (row[1], row[2] is not None)
        return cls(found)

    def as_flags(self, command):
        """The command with the variables of its environment as flags, so that the program checks names and values. A variable that is none
        of this program's is left out; one that looks like it and is not is an error."""
        known, flags = self.of[command.words[0]], []
        for name, value in command.environment.items():
            if name in known:
                flag, valued = known[name]
                flags.append(f"{flag}={value}" if valued else flag)
            else:
                assert not name.startswith("PROA_"), f"{command.where}: proa {command.words[0]} has no flag for {name}"
        return [command.words[0], *flags, *command.words[1:]]


# --- systemd ---

def read_unit(path):
    """{"Service": {"ExecStart": [...], ...}} with all values of each key, in order."""
    sections, section = {}, None
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(match[1], {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def read_environment_file(path, commented=False):
    """{name: value}; with `commented`, of the lines that are there to be uncommented too."""
    pattern = re.compile(r"(#?)([A-Z][A-Z0-9_]*)=(.*)")
    matches = [match for line in path.read_text().splitlines() if (match := pattern.fullmatch(line))]
    return {m[2]: m[3] for m in matches if commented or not m[1]}


def unit_command(path, instance="", commented=False):
    """What the unit runs, with deploy/systemd's files in place of /etc/proa."""
    service = read_unit(path)["Service"]

    def fill(text):
        return text.replace("%i", instance)

    environment = {}
    for line in service["Environment"]:
        environment |= dict(pair.split("=", 1) for pair in shlex.split(fill(line)))
    for name in service["EnvironmentFile"]:
        place = pathlib.Path(fill(name).removeprefix("-"))
        assert place.parent == pathlib.Path("/etc/proa")
        if (SYSTEMD / place.name).exists():
            environment |= read_environment_file(SYSTEMD / place.name, commented)
        else:
            assert commented, f"{place.name} is not in {SYSTEMD}"
    program, *words = shlex.split(fill(service["ExecStart"][0]))
    assert program == PROGRAM and len(service["ExecStart"]) == 1
    return Command(path.name, words, environment)


# --- Kubernetes ---

def manifests(*names):
    """[(file name, document)] of deploy/kubernetes, all or those of the files."""
    paths = [KUBERNETES / name for name in names] or sorted(KUBERNETES.glob("*.yaml"))
    return [(path.name, document) for path in paths for document in yaml.safe_load_all(path.read_text())]


def pod_of(document):
    """The pod template, or None of what starts none."""
    if document["kind"] in ("Deployment", "StatefulSet"):
        return document["spec"]["template"]
    if document["kind"] == "LeaderWorkerSet":
        return document["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return None


def pods(*names):
    """[(file name, document, pod template)]."""
    return [(name, document, pod) for name, document in manifests(*names) if (pod := pod_of(document))]


def is_ours(container):
    return container["image"].startswith("proa:")


def pod_commands(name, pod, variables):
    """(what the pod's container runs, its probes' commands), $(NAME) filled in from `variables` and the container's own."""
    container, = pod["spec"]["containers"]
    environment = {entry["name"]: entry.get("value", variables.get(entry["name"], "")) for entry in container["env"]}

    def fill(word):
        return re.sub(r"\$\((\w+)\)", lambda match: {**environment, **variables}[match[1]], word)

    probes = []
    for kind in "startupProbe", "readinessProbe", "livenessProbe":
        if "exec" in container.get(kind, {}):
            program, *words = container[kind]["exec"]["command"]
            assert program == "proa"
            probes.append(Command(f"{name}: {kind}", words, environment))
    kept = {key: value for key, value in environment.items() if key in ("ETCD_ENDPOINTS", "PROA_CLUSTER_KEY", "UCX_NET_DEVICES")}
    return Command(name, [fill(word) for word in container["args"]], kept), probes


# --- the Containerfile ---

def image_commands():
    """What a container runs without words of its own, and its health check, with the image's environment."""
    text = (TOP / "Containerfile").read_text().replace("\\\n", " ")
    entry, default = (json.loads(re.search(rf"^{name} (.*)$", text, re.M)[1]) for name in ("ENTRYPOINT", "CMD"))
    health = json.loads(re.search(r"^HEALTHCHECK .*? CMD (.*)$", text, re.M)[1])
    environment = dict(pair.split("=", 1) for pair in shlex.split(re.search(r"^ENV (.*)$", text, re.M)[1]))
    assert entry == ["proa"] and health[0] == "proa"
    return Command("Containerfile: CMD", default, environment), Command("Containerfile: HEALTHCHECK", health[1:])
