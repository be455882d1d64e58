"""How long a worker of several ranks stands still when some of them die, stop or hang, and whether any answer is wrong then.

    python rank_faults.py --fault kill --repeats 50 --json results.json      one row
    python rank_faults.py --json results.json --markdown                     the table of what was run before

A frontend and a worker (with `transfer`, two workers) serve tiny-r1 while requests with everything in them (mixed.py) are asked again and
again. Each repeat does the fault to ranks that the seed draws, at a moment that nothing chooses, or at a point of a step that the seed
draws (--fault-file, cmd/rank_fault.h). It measures from the signal until the last of the other ranks has made a step in the new view, as
their logs say (milliseconds), waits until all ranks are back, and goes on. Every answer is compared with that of one process, bit for bit.
`node` and `cut` have a host for each of two nodes (lab.py) and need root.
"""
import argparse
import asyncio
import collections
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time

import mixed
from cluster import Cluster, Settings, wait_for
from conftest import BUILD
from lab import Lab
from places import Loopback, children_of
from test_wide import ranks_flags

HERE = Loopback()
GOES_ON = re.compile(r"^(\d+:\d+:\d+\.\d+) info  rank (\d+) ranks: steps go on", re.M)
PASSED = re.compile(r"^(\d+:\d+:\d+\.\d+) warn  rank (\d+) fault: ", re.M)
RETURN_SECONDS = 150
STAGE_SECONDS = 6
STEP_STAGES = ("dispatch", "receive", "put", "give-back", "collect", "propose", "shape")
REPAIR_STAGES = ("ask", "report", "view", "status", "propose", "join")
EPLB_FLAGS = ("--enable-eplb", "--eplb-rebalance-num-iterations", "20", "--eplb-rebalance-layers-per-chunk", "1")
LAB_SECONDS = 3600


# --- what is done ---

class Ranks:
    """A worker: its ranks are children of one process a node."""

    def __init__(self, nodes, count):
        self.nodes, self.count, self.epoch = nodes, count, 0

    def log(self):
        return "\n".join(node.process.log() for node in self.nodes)

    def pid_of(self, rank):
        for node in self.nodes:
            for pid in children_of(node.process.pid):
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "--rank" in words and words[words.index("--rank") + 1] == str(rank):
                    return pid
        raise AssertionError(f"rank {rank} is not there")

    def of_node(self, number):
        share = self.count // len(self.nodes)
        return list(range(number * share, (number + 1) * share))

    def wait_whole(self):
        """All ranks are in a view that is newer than the last one that was whole."""
        pattern = re.compile(rf"all {self.count} ranks step together \(epoch (\d+)\)")

        def newest():
            found = collections.Counter(int(e) for e in pattern.findall(self.log()))
            return max((e for e, n in found.items() if n >= self.count and e > self.epoch), default=0)

        self.epoch = wait_for(newest, RETURN_SECONDS, "all ranks step together")


@dataclasses.dataclass
class Scene:
    cluster: Cluster
    groups: list
    random: random.Random
    orders: pathlib.Path  # --fault-file
    lab: object = None
    order: int = 0

    def give_order(self, rank, stage, count, action):
        self.order += 1
        new = self.orders.with_suffix(".new")
        new.write_text(f"{self.order} {rank} {stage} {count} {action}\n")
        new.rename(self.orders)


@dataclasses.dataclass
class Done:
    """What a fault was: when, and to whom; how it is undone when the others go on."""
    begun: float
    victims: list
    what: str
    undo: object = None


def seconds_of_day(text):
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def now_of_day():
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6


def signal_ranks(group, victims, number):
    pids = [group.pid_of(rank) for rank in victims]
    begun = now_of_day()
    for pid in pids:
        os.kill(pid, number)

    def go_on():
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return Done(begun, victims, f"{signal.Signals(number).name} of {victims}", go_on if number == signal.SIGSTOP else None)


def by_signal(number, count=1, victim=None):
    def fault(scene, group):
        victims = [victim] if victim is not None else scene.random.sample(range(group.count), count)
        return signal_ranks(group, victims, number)
    return fault


def wait_passed(group, before, rank):
    """When the rank has come to the stage; None: it has not within STAGE_SECONDS (what it does was not that)."""
    deadline = time.monotonic() + STAGE_SECONDS
    while time.monotonic() < deadline:
        for at, who in PASSED.findall(group.log()[before:]):
            if int(who) == rank:
                return seconds_of_day(at)
        time.sleep(0.02)
    return None


def at_stage(action):
    """At a point of a step. Which one is drawn again until the rank comes to it."""
    def fault(scene, group):
        while True:
            rank, stage = scene.random.randrange(group.count), scene.random.choice(STEP_STAGES)
            if action == "hang":
                stage = scene.random.choice(STEP_STAGES[:5])
            before = len(group.log())
            scene.give_order(rank, stage, scene.random.randint(1, 30), action)
            if (begun := wait_passed(group, before, rank)) is not None:
                pid = group.pid_of(rank) if action == "stop" else None
                undo = (lambda: os.kill(pid, signal.SIGCONT)) if action == "stop" else None
                return Done(begun, [rank], f"{action} of {rank} at {stage}", undo)
    return fault


def in_repair(scene, group):
    """A rank is killed, and another one at a point of what the others agree on then. When it does not come to that point, one has died."""
    first, second = scene.random.sample(range(group.count), 2)
    stage, before = scene.random.choice(REPAIR_STAGES), len(group.log())
    scene.give_order(second, stage, 1, "kill")
    done = signal_ranks(group, [first], signal.SIGKILL)
    begun = wait_passed(group, before, second)
    scene.give_order(-1, stage, 1, "kill")
    if begun is not None:
        done.victims.append(second)
        done.begun = max(begun, done.begun)
        done.what += f", of {second} at {stage}"
    return done


def kill_node(scene, group):
    """The parent dies of it, and takes its ranks with it. It is started again."""
    number = scene.random.randrange(len(group.nodes))
    node = group.nodes[number]
    begun = now_of_day()
    node.kill()

    def start():
        node.process.wait(10)
        node.start()
    return Done(begun, group.of_node(number), f"node {number} is killed", start)


def cut_node(scene, group):
    """Its host is cut off from all others. Not that of the frontend."""
    begun = now_of_day()
    scene.lab.isolate(2)
    return Done(begun, group.of_node(1), "node 1 is cut off", scene.lab.heal)


@dataclasses.dataclass
class Row:
    what: str
    fault: object
    flags: tuple = ()
    roles: tuple = ("null",)
    hosts: int = 0  # of a lab


ROWS = {
    "kill": Row("kill -9 of a rank, rank 0 too", by_signal(signal.SIGKILL)),
    "zero": Row("kill -9 of rank 0", by_signal(signal.SIGKILL, victim=0)),
    "two": Row("kill -9 of two ranks at once", by_signal(signal.SIGKILL, 2)),
    "stop": Row("SIGSTOP of a rank", by_signal(signal.SIGSTOP)),
    "stop-two": Row("SIGSTOP of two ranks at once", by_signal(signal.SIGSTOP, 2)),
    "stage": Row("kill -9 at a point of a step", at_stage("kill")),
    "stage-stop": Row("SIGSTOP at a point of a step", at_stage("stop")),
    "hang": Row("the engine sleeps for ever, at a point of a step", at_stage("hang")),
    "repair": Row("kill -9 of a rank, and of another while the others agree", in_repair),
    "rebalance": Row("kill -9 of a rank while experts move", by_signal(signal.SIGKILL), flags=EPLB_FLAGS),
    "transfer": Row("kill -9 of a prefill or decode rank during transfers", by_signal(signal.SIGKILL), roles=("prefill", "decode")),
    "node": Row("kill -9 of one of two nodes", kill_node, hosts=3),
    "cut": Row("one of two nodes is cut off", cut_node, hosts=3),
}


# --- a row ---

class Asking(threading.Thread):
    """Asks the same requests until it is told to stop; counts answers and those that differ."""

    def __init__(self, place, folder, url, requests, expected):
        super().__init__(daemon=True)
        self.ask = lambda: mixed.ask_from(place, folder / "mixed.log", url, requests)
        self.requests, self.expected = requests, expected
        self.ends, self.answers, self.wrong = False, 0, []

    def run(self):
        while not self.ends:
            got = self.ask()
            self.answers += len(got)
            self.wrong += mixed.differences(got, self.expected, self.requests)


def expected_answers(requests, folder):
    """Of one process."""
    folder.mkdir()
    with Cluster(BUILD / "proa", folder) as alone:
        alone.frontend(HERE)
        alone.worker(HERE, "null")
        alone.wait_ready()
        return asyncio.run(mixed.ask_all(alone.frontends[0].url, requests))


def one_repeat(scene, row):
    group = scene.random.choice(scene.groups)
    lengths = [len(node.process.log()) for node in group.nodes]
    done = row.fault(scene, group)
    survivors = set(range(group.count)) - set(done.victims)

    def last_steps():
        new = "\n".join(node.process.log()[length:] for node, length in zip(group.nodes, lengths))
        found = {int(rank): seconds_of_day(at) for at, rank in GOES_ON.findall(new) if seconds_of_day(at) >= done.begun}
        return found if survivors <= set(found) else None

    found = wait_for(last_steps, 60, f"the ranks go on after {done.what}")
    if done.undo is not None:
        done.undo()
    return max(found[rank] for rank in survivors) - done.begun, done.what, group


def start_cluster(options, row, cluster, lab):
    front = lab.host(0) if lab else HERE
    cluster.frontend(front)
    flags = ranks_flags(options.ranks, "--ep-num-redundant-experts", str(options.redundant), "--fault-file", cluster.folder / "fault",
                        *row.flags)
    groups = []
    for mode in row.roles:
        places = [lab.host(1), lab.host(2)] if lab else [HERE]
        nodes = []
        for number, place in enumerate(places):
            more = ("--nnodes", "2", "--node-rank", str(number), "--dist-init-addr", f"{places[0].address}:29500") if lab else ()
            nodes.append(cluster.worker(place, mode, *flags, *more, ranks=options.ranks // len(places)))
        groups.append(Ranks(nodes, options.ranks))
    for group in groups:
        group.wait_whole()
    cluster.wait_ready(RETURN_SECONDS)
    return front, groups


def play(options, folder):
    row = ROWS[options.fault]
    requests = mixed.draw_requests(options.requests, seed=9)
    expected = expected_answers(requests, folder / "one")
    times, loads = [], []
    environment = {"UCX_NET_DEVICES": "eth0"} if row.hosts else {}
    settings = Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384", "--log-level", "info"), environment=environment)
    (folder / "ranks").mkdir()
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(row.hosts, LAB_SECONDS)) if row.hosts else None
        cluster = stack.enter_context(Cluster(BUILD / "proa", folder / "ranks", settings))
        front, groups = start_cluster(options, row, cluster, lab)
        scene = Scene(cluster, groups, random.Random(options.seed), cluster.folder / "fault", lab)
        asking = Asking(front, folder, cluster.frontends[0].url, requests, expected)
        asking.start()
        for repeat in range(options.repeats):
            time.sleep(scene.random.uniform(0.2, 1.0))
            took, what, group = one_repeat(scene, row)
            times.append(took)
            loads.append(os.getloadavg()[0])
            print(f"{options.fault} {repeat + 1:3}: {what}: {took * 1000:.0f} ms, load {loads[-1]:.0f}, {asking.answers} answers, "
                  f"{len(asking.wrong)} wrong", flush=True)
            group.wait_whole()
            cluster.wait_ready(RETURN_SECONDS)
        asking.ends = True
        asking.join(300)
        left = cluster.leftovers()
        stacks = sum(node.process.log().count("proa_rank_fault_hang") for group in groups for node in group.nodes)
        assert options.fault != "hang" or stacks >= len(times), "each hanging rank has written its stacks"
        crashes = [line for group in groups for line in re.findall(r".*ended by signal (?:6|8|11) .*", group.log())]
        cluster.stop()
    return {"fault": options.fault, "ranks": options.ranks, "repeats": len(times), "seconds": times, "answers": asking.answers,
            "wrong": asking.wrong[:5], "wrong_count": len(asking.wrong), "leftovers": left, "crashes": crashes, "load": statistics.median(loads),
            "date": datetime.date.today().isoformat()}


# --- the table ---

def line_of(result):
    ms = sorted(1000 * t for t in result["seconds"])
    words = [ROWS[result["fault"]].what, result["repeats"], f"{statistics.median(ms):,.0f}", f"{ms[len(ms) * 9 // 10]:,.0f}",
             f"{ms[-1]:,.0f}", f"{result['answers']:,}", result["wrong_count"], f"{result['load']:.0f}"]
    return "| " + " | ".join(map(str, words)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fault", choices=ROWS, default="kill")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--redundant", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, help="the result is added to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table of that file")
    options = parser.parse_args()
    results = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    if options.markdown:
        print("| fault | repeats | median, ms | 90 %, ms | most, ms | answers | wrong | load |\n|---|---|---|---|---|---|---|---|")
        print("\n".join(line_of(r) for name in ROWS for r in results if r["fault"] == name))
        return 0
    with tempfile.TemporaryDirectory(prefix="proa-ranks-") as folder:
        result = play(options, pathlib.Path(folder))
    if options.json:
        options.json.write_text(json.dumps(results + [result], indent=1))
    print(line_of(result), *result["crashes"], sep="\n")
    return 1 if result["wrong_count"] or result["leftovers"] or result["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
