"""How long a worker of several ranks stands still when one of them dies or stops, and whether any answer is wrong then.

    python rank_faults.py --ranks 8 --repeats 50 --fault kill --json results.json

A frontend and a worker on loopback serve tiny-r1 while requests with everything in them (mixed.py) are asked again and again. Each
repeat sends the signal to a rank, drawn by the seed, at a moment that nothing chooses; it measures from there until the last of the other
ranks has made a step in the new view, as their logs say (milliseconds), waits until the rank is back, and goes on. Every answer is compared
with that of one process, bit for bit. With `--fault two` two ranks die at once; `stop` is SIGSTOP until the others go on.
"""
import argparse
import asyncio
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
from places import Loopback
from test_wide import pid_of, ranks_flags

HERE = Loopback()
GOES_ON = re.compile(r"^(\d+:\d+:\d+\.\d+) info  rank (\d+) ranks: steps go on", re.M)
RETURN_SECONDS = 90


class Asking(threading.Thread):
    """Asks the same requests until it is told to stop; counts answers and those that differ."""

    def __init__(self, url, requests, expected):
        super().__init__(daemon=True)
        self.url, self.requests, self.expected = url, requests, expected
        self.ends, self.answers, self.wrong = False, 0, []

    def run(self):
        while not self.ends:
            got = asyncio.run(mixed.ask_all(self.url, self.requests))
            self.answers += len(got)
            self.wrong += mixed.differences(got, self.expected, self.requests)


def expected_answers(requests, folder):
    """Of one process."""
    with Cluster(BUILD / "proa", folder) as alone:
        alone.frontend(HERE)
        alone.worker(HERE, "null")
        alone.wait_ready()
        return asyncio.run(mixed.ask_all(alone.frontends[0].url, requests))


def seconds_of_day(text):
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def now_of_day():
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.hour * 3600 + now.minute * 60 + now.second + now.microsecond / 1e6


def one_repeat(worker, victims, number, ranks):
    """Seconds from the signal to the last survivor's next step."""
    pids = [pid_of(worker, victim) for victim in victims]
    survivors = set(range(ranks)) - set(victims)
    before = len(worker.process.log())
    begun = now_of_day()
    for pid in pids:
        os.kill(pid, number)

    def last_steps():
        found = {int(rank): seconds_of_day(at) for at, rank in GOES_ON.findall(worker.process.log()[before:])}
        return found if survivors <= set(found) else None

    found = wait_for(last_steps, 60, f"the ranks other than {victims} go on")
    if number == signal.SIGSTOP:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return max(found[rank] for rank in survivors) - begun


def wait_whole(cluster, worker, ranks, seen):
    """All ranks are in a view that is newer than `seen`."""
    pattern = re.compile(rf"all {ranks} ranks step together \(epoch (\d+)\)")

    def newest():
        epochs = [int(e) for e in pattern.findall(worker.process.log())]
        whole = [e for e in set(epochs) if epochs.count(e) >= ranks and e > seen]
        return max(whole, default=0)

    epoch = wait_for(newest, RETURN_SECONDS, "all ranks step together")
    cluster.wait_ready(RETURN_SECONDS)
    return epoch


def play(options, folder):
    requests = mixed.draw_requests(options.requests, seed=9)
    expected = expected_answers(requests, folder)
    number = signal.SIGSTOP if options.fault == "stop" else signal.SIGKILL
    r, times = random.Random(options.seed), []
    settings = Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384", "--log-level", "info"))
    with Cluster(BUILD / "proa", folder, settings) as cluster:
        cluster.frontend(HERE)
        flags = ranks_flags(options.ranks, "--ep-num-redundant-experts", str(options.redundant))
        worker = cluster.worker(HERE, "null", *flags, ranks=options.ranks)
        epoch = wait_whole(cluster, worker, options.ranks, 0)
        asking = Asking(cluster.frontends[0].url, requests, expected)
        asking.start()
        for repeat in range(options.repeats):
            time.sleep(r.uniform(0.2, 1.0))
            victims = r.sample(range(options.ranks), 2 if options.fault == "two" else 1)
            times.append(one_repeat(worker, victims, number, options.ranks))
            print(f"{options.fault:5} {repeat + 1:3} ranks {victims}: {times[-1] * 1000:.0f} ms, {asking.answers} answers, "
                  f"{len(asking.wrong)} wrong", flush=True)
            epoch = wait_whole(cluster, worker, options.ranks, epoch)
        asking.ends = True
        asking.join(120)
        left = cluster.leftovers()
        cluster.stop()
    return {"fault": options.fault, "ranks": options.ranks, "repeats": len(times), "seconds": times, "answers": asking.answers,
            "wrong": asking.wrong[:5], "wrong_count": len(asking.wrong), "leftovers": left}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fault", choices=["kill", "stop", "two"], default="kill")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--redundant", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, help="the result is added to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proa-ranks-") as folder:
        result = play(options, pathlib.Path(folder))
    if options.json:
        results = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps(results + [result], indent=1))
    ms = sorted(1000 * t for t in result["seconds"])
    print(f"| {result['fault']} | {result['ranks']} | {result['repeats']} | {statistics.median(ms):.0f} | "
          f"{ms[len(ms) * 9 // 10]:.0f} | {ms[-1]:.0f} | {result['answers']} | {result['wrong_count']} |")
    return 1 if result["wrong_count"] or result["leftovers"] else 0


if __name__ == "__main__":
    sys.exit(main())
