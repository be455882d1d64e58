"""The guides of docs/guides as programs: their commands are read out of the pages and run on a lab of hosts, with the real etcd and
nats-server, and what comes out is compared with what the page says.

A block of commands (```bash) says in its first line where it is typed, for readers and for this file alike:

    # on the head prefill node                        NODES below has all that may stand here
    # on the head prefill node, again until it looks like this
    # on the decode nodes, each with its own --node-rank

Each node has one shell, as a person there would have: exports, background jobs and the folder last from block to block. The status of a
block must be 0. A block of output (```text) directly below it must be in what was printed: its lines in their order, others may stand
between. Numbers, hexadecimal ids and the amount of white space may differ, except where a number stands alone between quotes; "..." is any text, and a line
of it any lines.

What is changed before it is typed, so that a page about 64 GPUs runs on a small machine, is in Scale and nowhere else. A block
that cannot run here has <!-- run by FILE --> above it: the test that does it, which must exist.

To see what the commands print, for pasting: python3 -B tests/system/guide_docs.py h100 quick|full
"""
import dataclasses
import os
import pathlib
import re
import select
import shutil
import sys
import time

from cluster import TINY, nixl_environment, real_nixl
from conftest import BUILD, TOP
from guides import DEEPEP

GUIDES = TOP / "docs" / "guides"
COMMAND_SECONDS = 180
AGAIN_SECONDS = 180
FULL_SECONDS = 600
HEAD_PREFILL, HEAD_DECODE = "10.0.0.1", "10.0.0.5"  # as the pages have them


@dataclasses.dataclass(frozen=True)
class Block:
    """Commands of a page. `expected` is None when nothing is said about their output."""
    line: int
    where: str
    again: bool
    commands: str
    expected: tuple | None
    run_by: str | None


@dataclasses.dataclass(frozen=True)
class Scale:
    """How many nodes a page's cluster has here, and which values its flags have: by kind of node, then by flag. Other changes are the
    same for all: addresses, the folders of model and configurations, UCX where NIXL is absent, and `make serve` is the program that it would
    build; what would be found through /tmp is found through a folder of the test."""
    prefill: int
    decode: int
    ranks: dict  # of a worker, by its kind: counts of them in expected output are these here, exactly
    changes: dict
    seconds: int

    @property
    def nodes(self):
        return self.prefill + self.decode


TWO = {"prefill": 2, "decode": 2}
FEW = {"--nnodes": 1, "--tp-size": 2, "--dp-size": 2, "--ep-size": 2}
SMALL_LOAD = {"--num-prompts": 24, "--max-concurrency": 8, "--random-input-len": 64, "--random-output-len": 8}
GB200_RANK = {"--max-running-requests": 2 * 768, "--chunked-prefill-size": 2 * 768, "--max-total-tokens": 2 * 32768}  # as a rank of the page has
SLURM = "slurm"  # blocks of this kind need a Slurm cluster and are followed by themselves
JOB = {"--prefill-nodes": 1, "--decode-nodes": 1, "--gpus-per-node": 2, "--network-interface": "eth0"}
SCALES = {
    ("h100", "quick"): Scale(1, 1, TWO, {"prefill": FEW, "decode": FEW, "any": SMALL_LOAD}, COMMAND_SECONDS),
    ("h100", "full"): Scale(4, 4, {"prefill": 32, "decode": 32}, {"any": SMALL_LOAD}, FULL_SECONDS),
    ("gb200", "quick"): Scale(1, 1, TWO, {SLURM: JOB, "prefill": FEW | GB200_RANK, "decode": FEW | GB200_RANK, "any": SMALL_LOAD}, COMMAND_SECONDS),
    ("first-steps", "quick"): Scale(1, 0, {}, {"any": SMALL_LOAD | {"--limit": 6}}, COMMAND_SECONDS),
    # tiny-r1 has 32 experts, which 48 ranks divide with 16 copies
    ("gb200", "full"): Scale(2, 12, {"prefill": 8, "decode": 48}, {"decode": {"--ep-num-redundant-experts": 16}, "any": SMALL_LOAD}, FULL_SECONDS),
}
NODES = {
    "the login node": (SLURM, lambda s: [0]),
    "this machine": ("any", lambda s: [0]),
    "the head prefill node": ("prefill", lambda s: [0]),
    "the head decode node": ("decode", lambda s: [s.prefill]),
    "every node": ("any", lambda s: range(s.nodes)),
    "all other nodes": ("any", lambda s: range(1, s.nodes)),
    "the prefill nodes, each with its own --node-rank": ("prefill", lambda s: range(s.prefill)),
    "the decode nodes, each with its own --node-rank": ("decode", lambda s: range(s.prefill, s.nodes)),
}


# --- reading a page ---

def page_of(name):
    """The file of a page of SCALES."""
    return next(GUIDES.glob(f"*{name}.md"))


def blocks_of(path):
    """The blocks of commands in the page, in order; raises ValueError with the line that is wrong."""
    found, lines, at = [], path.read_text().splitlines(), 0
    while at < len(lines):
        if lines[at] == "```bash":
            end = lines.index("```", at)
            found.append(make_block(path, at, lines[at + 1:end], lines[at - 1], expected_at(lines, end + 1)))
            at = end
        at += 1
    return found


def make_block(path, at, body, above, expected):
    run_by = re.fullmatch(r"<!-- run by (\S+) -->", above)
    match = re.fullmatch(r"# on (.+?)(, again until it looks like this)?", body[0])
    if not run_by and (match is None or match[1] not in NODES):
        raise ValueError(f"{path}:{at + 2}: the first line must be one of: {', '.join('# on ' + n for n in NODES)}")
    if match and match[2] and expected is None:
        raise ValueError(f"{path}:{at + 2}: nothing says what it must look like")
    return Block(at + 2, match[1] if match else "", bool(match and match[2]), "\n".join(body), expected, run_by[1] if run_by else None)


def expected_at(lines, at):
    """The lines of the ```text that begins there or after one empty line."""
    if at < len(lines) and lines[at] == "":
        at += 1
    if at >= len(lines) or lines[at] != "```text":
        return None
    return tuple(lines[at + 1:lines.index("```", at)])


# --- comparing ---

COUNTED = re.compile(r'(?P<count>\d+)(?P<what> "component":"(?P<component>\w+)"| ranks step together \(epoch 1\))')
KIND_OF = {"prefill": "prefill", "backend": "decode"}
VARIABLE = re.compile(r'(?P<exact>"\d+")|=(?P<counted>\d+)=|(?P<any>\.\.\.)|(?P<hex>\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b)|(?P<number>\d+(?:[.,:]\d+)*)')


def pattern_of(line):
    """A regular expression for a line of expected output."""
    line, pattern, at = " ".join(line.split()), "", 0
    for match in VARIABLE.finditer(line):
        pattern += re.escape(line[at:match.start()])
        pattern += {"exact": re.escape(match[0]), "counted": match["counted"], "any": ".*", "hex": "[0-9a-f]+", "number": r"\d+(?:[.,:]\d+)*"}[match.lastgroup]
        at = match.end()
    return re.compile(pattern + re.escape(line[at:]))


def with_counts(line, kind, ranks):
    """The line with =N= for counts of ranks that must be N here: of the components in /health, and of the worker of that kind."""
    return COUNTED.sub(lambda m: f"={ranks[KIND_OF.get(m['component'], kind)]}={m['what']}" if kind != SLURM else m[0], line)


def first_missing(expected, printed):
    """The first line that is not there in its order; None when all are."""
    rest = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in expected:
        if line.strip() != "...":
            pattern = pattern_of(line)
            if not any(pattern.fullmatch(candidate) for candidate in rest):
                return line
    return None


# --- typing ---

class Shell:
    """One node's."""

    def __init__(self, place, folder, environment):
        self.place, self.folder = place, folder
        folder.mkdir()
        self.process = place.popen(f"shell-{place.name}", ["bash", "--norc", "--noprofile"], folder / "shell.log", environment, pipes=True)
        self.count = 0
        self.type(f"cd {folder}", COMMAND_SECONDS)

    def type(self, commands, seconds):
        """(exit status, what was printed) of the commands."""
        self.count += 1
        script, mark = self.folder / "typed.sh", f"--- typed {self.count} ---"
        script.write_text(commands + "\n")
        self.process.popen.stdin.write(f". {script} </dev/null 2>&1; echo \"{mark} $?\"\n")
        self.process.popen.stdin.flush()
        printed, deadline = b"", time.monotonic() + seconds
        while not (found := re.search(rb"%s (\d+)\n$" % mark.encode(), printed)):
            left = deadline - time.monotonic()
            assert left > 0, f"{self.place.name}: not ended after {seconds} s:\n{commands}\nprinted so far:\n{printed.decode(errors='replace')}"
            if select.select([self.process.popen.stdout], [], [], left)[0]:
                more = os.read(self.process.popen.stdout.fileno(), 65536)
                assert more, f"{self.place.name}: the shell has ended:\n{self.process.log_tail()}"
                printed += more
        return int(found[1]), printed[:found.start()].decode(errors="replace")


class Reader:
    """Somebody who follows a page, on a lab whose hosts are the page's nodes: prefill nodes first."""

    def __init__(self, page, scale, lab, folder, show=None, more_environment=()):
        self.scale = SCALES[page, scale]
        self.page, self.folder, self.show = page_of(page), folder, show
        self.configs = folder / "configs"  # what all nodes see
        self.configs.mkdir()
        shutil.copy(DEEPEP, self.configs / "deepep.json")
        self.folders = {"/model": TINY, "/configs": self.configs}
        library, self.no_nixl = real_nixl()
        environment = {"PATH": f"{BUILD}:{os.environ['PATH']}", "UCX_NET_DEVICES": "eth0", "PROA_DISCOVERY_PATH": str(folder / "discovery")}
        (folder / "discovery").mkdir(mode=0o700)
        if library:
            environment |= nixl_environment(library)
        environment |= dict(more_environment)
        self.addresses = {HEAD_PREFILL: lab.host(0).address}
        if self.scale.decode > 0:
            self.addresses[HEAD_DECODE] = lab.host(self.scale.prefill).address
        self.shells = [Shell(lab.host(i), folder / f"node{i}", environment) for i in range(self.scale.nodes)]

    def follow(self, slurm=False):
        """Types all that the page says, without or with Slurm; fails at the first thing that is not as it says."""
        for block in blocks_of(self.page):
            if not block.run_by and (NODES[block.where][0] == SLURM) == slurm:
                self.do(block)

    def do(self, block):
        kind, pick = NODES[block.where]
        for index in pick(self.scale):
            self.type(block, kind, index)

    def type(self, block, kind, index):
        commands = self.translate(block.commands, kind, index)
        deadline = time.monotonic() + max(AGAIN_SECONDS, self.scale.seconds if block.again else 0)
        while True:
            status, printed = self.shells[index].type(commands, self.scale.seconds)
            printed = self.as_the_page_has_it(printed)
            expected = [with_counts(line, kind, self.scale.ranks) for line in block.expected or ()]
            missing = first_missing(expected, printed)
            if status == 0 and missing is None:
                break
            if not block.again or time.monotonic() > deadline:
                self.fail(block, index, status, missing, printed)
            time.sleep(0.2)
        if self.show:
            self.show(block, index, commands, printed)

    def translate(self, commands, kind, index):
        """The commands as they are typed at a node: Scale's changes, and its own --node-rank."""
        first = self.scale.prefill if kind == "decode" else 0
        changes = self.scale.changes.get("any", {}) | self.scale.changes.get(kind, {})
        if block_of_ranks(commands):
            changes = changes | {"--node-rank": index - first}
        for flag, value in changes.items():
            commands = re.sub(rf"(?<={flag}[ =])\S+", str(value), commands)
        commands = commands.replace("make serve", "proa serve")
        if self.no_nixl:
            commands = commands.replace("--disaggregation-transfer-backend nixl", "--disaggregation-transfer-backend ucx")
        for address, here in self.addresses.items():
            commands = re.sub(rf"\b{re.escape(address)}\b", here, commands)
        for folder, here in self.folders.items():
            commands = re.sub(rf"(?<![\w.]){folder}\b", str(here), commands)
        return commands

    def as_the_page_has_it(self, printed):
        """What is printed here, with the page's folders and addresses."""
        for there, here in (self.folders | self.addresses).items():
            printed = re.sub(rf"{re.escape(str(here))}\b", there, printed)
        return printed

    def fail(self, block, index, status, missing, printed):
        logs = "\n".join(f"--- {log}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                         for shell in self.shells for log in sorted(shell.folder.glob("*.log")))
        what = f"status {status}" if missing is None else f"status {status}, and this line is not there:\n{missing}\n"
        raise AssertionError(f"{self.page}:{block.line}, node {index}: {what}\nprinted:\n{printed}\n{logs}")


def block_of_ranks(commands):
    return "--node-rank" in commands


def main(page, scale):
    import tempfile
    from lab import Lab

    def show(block, index, commands, printed):
        print(f"=== line {block.line}, node {index}, {time.monotonic() - begin:.1f} s\n{commands}\n--- prints\n{printed}", flush=True)

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Lab(SCALES[page, scale].nodes, seconds=3600) as lab:
        Reader(page, scale, lab, pathlib.Path(folder), show).follow()


if __name__ == "__main__":
    main(*sys.argv[1:])
