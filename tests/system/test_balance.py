"""How requests spread over the dp ranks of a worker, by its --load-balance-method."""
import asyncio
import collections
import contextlib
import re

import httpx
import pytest

from cluster import Cluster, Settings, wait_for
from places import Loopback
from test_wide import ranks_flags

HERE = Loopback()
RANKS = 4
CONTEXT = 4096
SERIES = re.compile(r'leg="(\w+)",instance="(\w+)",worker="(\w+)",dp_rank="(\d+)"')


@pytest.fixture
def cluster(proa, tmp_path):
    with Cluster(proa, tmp_path, Settings(worker_flags=("--threads", "1", "--max-total-tokens", "16384"))) as one:
        yield one


def start(cluster, *workers):
    """A frontend, and workers of 4 ranks: (mode, flags ...)."""
    cluster.frontend(HERE)
    for mode, *flags in workers:
        cluster.worker(HERE, mode, *ranks_flags(RANKS, *flags), ranks=RANKS)
    cluster.wait_ready(60)
    return cluster.frontends[0]


def sent(frontend, leg):
    """Requests that were sent to each rank so far."""
    found = [0] * RANKS
    for labels, value in frontend.metrics()["proa:instance_requests_total"].items():
        its_leg, _, _, rank = SERIES.fullmatch(labels).groups()
        if its_leg == leg:
            found[int(rank)] += int(value)
    return found


def wait_sent(frontend, leg, count):
    wait_for(lambda: sum(sent(frontend, leg)) == count, 30, f"{count} requests were sent")
    return sent(frontend, leg)


def body(prompt_tokens, max_tokens):
    return {"prompt": [7] * prompt_tokens, "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}


@contextlib.asynccontextmanager
async def client(frontend):
    """post(prompt tokens, output tokens) and hold(prompt tokens), whose request runs until the end."""
    held = []
    async with httpx.AsyncClient(timeout=120, trust_env=False) as http:

        async def post(prompt_tokens, max_tokens):
            answer = await http.post(f"{frontend.url}/v1/completions", json=body(prompt_tokens, max_tokens))
            assert answer.status_code == 200, answer.text

        async def hold(prompt_tokens):
            held.append(asyncio.create_task(post(prompt_tokens, CONTEXT - prompt_tokens)))
            await asyncio.to_thread(wait_for, lambda: running(frontend) == len(held) or held[-1].done(), 60, f"{len(held)} requests run")
            assert not held[-1].done(), held[-1]

        yield post, hold
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


def running(frontend):
    return sum(frontend.metrics()["proa:num_running_reqs"].values())


async def longs_and_shorts(frontend):
    """One that stays and three that do not, four times over: in turn, all that stay come to one rank."""
    async with client(frontend) as (post, hold):
        for _ in range(RANKS):
            await hold(10)
            for _ in range(RANKS - 1):
                await post(10, 1)
        instances = frontend.health().json()["instances"]
        return sorted(i["running"] for i in instances if i["endpoint"] == "generate")


@pytest.mark.parametrize("method, stay", [("round_robin", [0, 0, 0, 4]), ("shortest_queue", [1, 1, 1, 1])])
def test_requests(cluster, method, stay):
    frontend = start(cluster, ("null", "--load-balance-method", method))
    assert asyncio.run(longs_and_shorts(frontend)) == stay
    assert sum(sent(frontend, "combined")) == RANKS * RANKS


async def one_heavy(frontend):
    async with client(frontend) as (_, hold):
        await hold(2000)
        for _ in range(6):
            await hold(10)


@pytest.mark.long
def test_tokens(cluster):
    """The rank with a long prompt gets no more, as long as the others have fewer tokens together with theirs."""
    frontend = start(cluster, ("null", "--load-balance-method", "total_tokens"))
    asyncio.run(one_heavy(frontend))
    assert wait_sent(frontend, "combined", 7) == [1, 2, 2, 2]


async def ask_many(frontend, count):
    async with client(frontend) as (post, _):
        await asyncio.gather(*(post(10, 4) for _ in range(count)))


@pytest.mark.long
@pytest.mark.parametrize("method", ["auto", "round_robin"])
def test_prefill_and_decode(cluster, method):
    """As the guide has it, round_robin at prefill; what auto does there depends on rooms, which are drawn."""
    frontend = start(cluster, ("prefill", "--load-balance-method", method), ("decode", "--prefill-round-robin-balance"))
    asyncio.run(ask_many(frontend, 40))
    assert wait_sent(frontend, "decode", 40) == [10] * RANKS
    prefill = wait_sent(frontend, "prefill", 40)
    assert prefill == [10] * RANKS if method == "round_robin" else all(prefill)
    cluster.stop()


@pytest.mark.long
def test_workers_take_turns(cluster):
    """Two workers of 4 ranks, one of them on two nodes: half of the requests each."""
    frontend = start(cluster, ("null",))
    address = f"127.0.0.1:{HERE.free_port()}"
    for node in range(2):
        flags = ("--nnodes", "2", "--node-rank", str(node), "--dist-init-addr", address)
        cluster.worker(HERE, "null", *ranks_flags(RANKS, *flags), ranks=RANKS // 2)
    cluster.wait_ready(60)
    ranks = collections.defaultdict(set)
    for i in frontend.health().json()["instances"]:
        if i["endpoint"] == "generate":
            assert i["dp_size"] == RANKS
            ranks[i["worker_id"]].add(i["dp_rank"])
    assert list(ranks.values()) == [set(range(RANKS))] * 2
    asyncio.run(ask_many(frontend, 40))
    wait_sent(frontend, "combined", 40)
    by_worker = collections.Counter()
    for labels, value in frontend.metrics()["proa:instance_requests_total"].items():
        by_worker[SERIES.fullmatch(labels)[3]] += value
    assert sorted(by_worker.values()) == [20, 20]
    cluster.stop()
