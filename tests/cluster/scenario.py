"""The cluster's life in one go: up, talking, growing, shrinking, losing an instance, losing Redis, watched, down.

The checks run in this order and build on each other: clients that joined in the first are audited in all. What a check says in its
docstring is what is promised; how long something may take is generous, for a busy machine, and what it took is told.
"""

import asyncio
import collections
import json
import os
import subprocess
import time

import compose
import logs
import queries
from report import none_of
from swarm import Client, Swarm, until
from websockets.asyncio.client import connect

DRAIN_DELAY, DRAIN_WINDOW = 2.0, 8.0  # as `run` sets them


class Cluster:
    def __init__(self, directory):
        self.logs = logs.Followers(directory)
        self.address = self.balancer = self.prometheus = self.swarm = None


async def run(report, directory):
    cluster = Cluster(directory)
    try:
        if not await report.run([up], cluster):
            return
        if await report.run([confined, separated, tells_who_connects, joins], cluster):
            await report.run([relays, redis_publishes, grows, shrinks, loses_an_instance, loses_redis], cluster)
            await report.run([is_seen, answers_queries, evaluates_alerts], cluster)
    finally:
        if cluster.swarm:
            await cluster.swarm.stop()
        cluster.logs.stop()
    await report.run([logs.of_instances, logs.of_haproxy, goes_down], cluster)


def up(cluster):
    """`docker compose up --wait` builds the image and brings up three instances"""
    build = "--no-build" if os.environ.get("BUILD") == "no" else "--build"
    compose.compose("up", "--detach", build, "--wait", "--wait-timeout", "180", timeout=3000)
    for service in ("gateway", "lb", "redis", "prometheus"):
        cluster.logs.follow(service)
    cluster.address = compose.published("lb", 8080)
    cluster.balancer = compose.containers("lb")[0].address
    cluster.prometheus = queries.Prometheus(compose.published("prometheus", 9090))
    assert len(compose.gateways()) == 3
    size = int(compose.docker("image", "inspect", "--format", "{{.Size}}", "fanfare:test"))
    return f"an image of {size / 1e6:.0f} MB"


def confined(cluster):
    """An instance runs as nobody, without capabilities, and can write nowhere"""
    for gateway in compose.gateways():
        (seen,) = json.loads(compose.docker("inspect", gateway.id))
        assert seen["Config"]["User"] == "65534:65534", seen["Config"]["User"]
        assert seen["HostConfig"]["ReadonlyRootfs"] and seen["HostConfig"]["CapDrop"] == ["ALL"]
        process = compose.docker("exec", gateway.id, "cat", "/proc/1/status")
        has = dict(line.split(":\t", 1) for line in process.splitlines() if ":\t" in line)
        assert has["Name"] == "fanfare" and has["Uid"].split() == ["65534"] * 4, has["Uid"]
        assert int(has["CapEff"], 16) == 0 and int(has["CapBnd"], 16) == 0 and has["NoNewPrivs"] == "1", process
        for place in ("/", "/tmp", "/usr/local/bin", "/var/tmp"):
            said = compose.docker("exec", gateway.id, "sh", "-c", f": >{place}/x", check=False, both=True)
            assert "Read-only file system" in said or "Permission denied" in said, f"{place} can be written to"


def separated(cluster):
    """Clients get the page and no page for operators; only loopback is published"""
    status, page = compose.ask(f"http://{cluster.address}/")
    assert status == 200 and "<html" in page, f"/ is {status}"
    for path in ("/metrics", "/readyz", "/livez", "/healthz", "/stats", "/healthy"):
        status, _ = compose.ask(f"http://{cluster.address}{path}")
        assert status == 404, f"{path} is {status} for clients"
    for gateway in compose.gateways():
        none_of(f"{path} is {gateway.status(path)} for operators" for path in ("/metrics", "/readyz", "/livez") if gateway.status(path) != 200)
    ports = compose.compose("ps", "--format", "{{.Service}} {{.Ports}}")
    none_of(line for line in ports.splitlines() if "->" in line and "127.0.0.1:" not in line)
    assert "0.0.0.0:" not in ports and "[::]:" not in ports, ports


async def tells_who_connects(cluster):
    """An instance takes a client for whom HAProxy says it is, not for HAProxy and not for whom it claims to be"""
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"}
    async with connect(f"ws://{cluster.address}/ws/forged", proxy=None, additional_headers=forged) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
    def accepted():
        return [json.loads(line) for line in cluster.logs.lines("gateway") if '"channel":"forged"' in line]

    client = (await until(accepted, "the connection is in the log", 60))[0]["client"]
    assert client not in (cluster.balancer, "203.0.113.9"), f"the client is taken for {client}"
    return client


async def joins(cluster):
    """Sixty clients are spread evenly, and every channel has subscribers on every instance"""
    await all_chosen(3)
    cluster.swarm = Swarm(cluster.address, channels=4, size=60, publishers=2, rate=10)
    await cluster.swarm.join(60)
    spread = [gateway.connections() for gateway in compose.gateways()]
    assert sum(spread) == 60 and max(spread) - min(spread) <= 2, spread
    none_of(f"{channel} is wanted by {wanted(channel)} instances" for channel in cluster.swarm.channels if wanted(channel) != 3)
    return f"{spread}"


async def relays(cluster):
    """Every message reaches every subscriber on every instance, once, in order, as the kind it was"""
    since = time.monotonic()
    await asyncio.sleep(4)
    return sound(cluster, since)


async def redis_publishes(cluster):
    """`redis-cli PUBLISH` reaches every client of the channel, once"""
    channel, text = cluster.swarm.channels[1], "hello from redis-cli"
    instances = compose.redis_cli("PUBLISH", f"fanfare:channel:{channel}", text)
    assert instances == "3", instances
    listeners = [client for client in cluster.swarm.clients if client.channel == channel]
    times = [await client.hears(text) for client in listeners]
    assert times == [1] * len(listeners), times
    lobby = [Client(f"lobby{n}", cluster.address, "lobby") for n in range(6)]
    try:
        await asyncio.gather(*(client.opened.wait() for client in lobby))
        assert compose.redis_cli("PUBLISH", "fanfare:channel:lobby", "hello") == "3"
        await asyncio.gather(*(client.hears("hello") for client in lobby))
    finally:
        await asyncio.gather(*(client.stop() for client in lobby))
    return f"{len(listeners)} clients"


async def grows(cluster):
    """3 → 5 under traffic: nobody is disconnected, nothing is lost, and the new instances get the new clients"""
    since = time.monotonic()
    old = {gateway.id for gateway in compose.gateways()}
    await scale(cluster, 5)
    took = time.monotonic() - since
    await cluster.swarm.join(20, publishing=False)
    new = [gateway.connections() for gateway in compose.gateways() if gateway.id not in old]
    assert len(new) == 2 and min(new) >= 8, f"the new instances have {new} of 20 new clients"
    await asyncio.sleep(2)
    none_of(cluster.swarm.closes(since))
    return f"in the choice after {took:.1f} s; {sound(cluster, since)}"


async def shrinks(cluster):
    """5 → 2 under traffic: three drain evenly with 1012 and end with 0, their clients come back, those who stayed lose nothing"""
    before = compose.gateways()
    had = {gateway.id: gateway.connections() for gateway in before}
    ends = {gateway.id: subprocess.Popen(["docker", "wait", gateway.id], stdout=subprocess.PIPE, text=True) for gateway in before}
    since = time.monotonic()
    try:
        await asyncio.to_thread(compose.compose, "up", "--detach", "--no-build", "--no-recreate", "--no-deps", "--scale", "gateway=2", "gateway")
        left = {gateway.id for gateway in compose.gateways()}
        gone = set(had) - left
        assert len(left) == 2 and len(gone) == 3
        codes = [ends[each].communicate(timeout=60)[0].strip() for each in gone]
    finally:
        for process in ends.values():
            process.kill()
            process.wait()
    assert codes == ["0"] * 3, f"exit codes {codes}"
    moved = sum(had[each] for each in gone)
    await until(cluster.swarm.all_up, "all clients are back", 60)
    closes = cluster.swarm.closes(since)
    assert {code for _, code, _ in closes} == {1012}, collections.Counter(code for _, code, _ in closes)
    assert len(closes) == len({name for _, _, name in closes}) == moved, f"{len(closes)} closes for {moved} connections"
    evenly([when - since for when, _, _ in closes])
    await asyncio.sleep(2)
    return f"{moved} moved over {closes[-1][0] - closes[0][0]:.1f} s; {sound(cluster, since)}"


def evenly(moments):
    """Not before the delay, over most of the window, and no second above twice the mean."""
    assert moments[0] > DRAIN_DELAY * 0.9, f"the first was sent away after {moments[0]:.1f} s"
    mean = len(moments) / DRAIN_WINDOW
    for begin in moments:
        within = sum(begin <= each < begin + 1 for each in moments)
        # Three instances, each even by itself, may coincide by one each.
        assert within <= 2 * mean + 3, f"{within} in one second, {mean:.1f} is the mean"
    assert moments[-1] - moments[0] > DRAIN_WINDOW * 0.6, f"all within {moments[-1] - moments[0]:.1f} s"


async def loses_an_instance(cluster):
    """An instance is killed: its clients are back within seconds, nobody else notices, and Prometheus tells"""
    await scale(cluster, 3)
    victim = max(compose.gateways(), key=lambda gateway: gateway.connections())
    had, since = victim.connections(), time.monotonic()
    await asyncio.to_thread(compose.docker, "kill", victim.id)
    await until(lambda: len(cluster.swarm.closes(since)) >= had, "its clients notice", 60)
    await until(cluster.swarm.all_up, "they are back", 30)
    back = max(client.lives[-1].opened for client in cluster.swarm.clients) - since
    assert len(cluster.swarm.closes(since)) == had, f"{len(cluster.swarm.closes(since))} closes for {had} connections"
    await until(lambda: firing(cluster, "FanfareInstanceVanished"), "FanfareInstanceVanished fires", 120)
    await scale(cluster, 3)
    return f"{had} back after {back:.1f} s; {sound(cluster, since)}"


async def loses_redis(cluster):
    """Redis away: no socket closes, new clients are served by the instance they reach; back: all are ready and one again"""
    since = time.monotonic()
    await asyncio.to_thread(compose.compose, "stop", "--timeout", "1", "redis")
    await until(lambda: all(each.status("/readyz") == 503 for each in compose.gateways()), "all say that they are not ready", 60)
    await until(lambda: compose.in_choice("ready") == 0, "HAProxy has nobody ready", 60)
    none_of(f"{each.name} is not alive" for each in compose.gateways() if each.status("/livez") != 200)
    late = Client("late", cluster.address, cluster.swarm.channels[0])
    cluster.swarm.clients.append(late)
    await asyncio.wait_for(late.opened.wait(), 60)
    await late.say("anybody here?")
    await late.hears("anybody here?")
    await until(lambda: firing(cluster, "FanfareBrokerDown", "pending|firing"), "FanfareBrokerDown is pending", 60)
    await asyncio.to_thread(compose.compose, "start", "redis")
    again = time.monotonic()
    await until(lambda: all(wanted(channel) >= 2 for channel in cluster.swarm.channels) and wanted("lobby") == 3, "all have subscribed", 60)
    subscribed = time.monotonic() - again
    await all_chosen(3)
    ready = time.monotonic() - again
    await late.say("one again")
    friends = [client for client in cluster.swarm.clients if client.channel == late.channel]
    await asyncio.gather(*(client.hears("one again") for client in friends))
    await asyncio.sleep(1)
    mark = time.monotonic()
    await asyncio.sleep(3)
    none_of(cluster.swarm.closes(since))
    return f"subscribed {subscribed:.1f} s and ready {ready:.1f} s after Redis; {sound(cluster, mark)}"


async def is_seen(cluster):
    """Prometheus sees every instance and HAProxy, and no ghosts"""
    def faults():
        targets = cluster.prometheus.targets()
        jobs = collections.Counter(each["labels"]["job"] for each in targets)
        bad = [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["health"] != "up"]
        return bad or ([] if jobs == {"fanfare": 3, "haproxy": 1, "prometheus": 1} else [dict(jobs)])

    await until(lambda: not faults(), "all targets are up", 60)
    total = sum(gateway.connections() for gateway in compose.gateways())
    assert total == len(cluster.swarm.clients), f"the instances have {total} connections, there are {len(cluster.swarm.clients)} clients"
    await until(lambda: cluster.prometheus.query("sum(fanfare_connections)")[0][1] == total, "Prometheus counts them all", 60)
    return f"{total} connections"


async def answers_queries(cluster):
    """Every query of the dashboard has an answer"""
    # The latest of what happened has to have been scraped twice for a rate.
    deadline = time.monotonic() + 15
    while (faults := list(queries.faults_of_dashboard(cluster.prometheus))) and time.monotonic() < deadline:
        await asyncio.sleep(1)
    none_of(faults)
    return f"{len(list(queries.of_dashboard()))} queries"


def evaluates_alerts(cluster):
    """Every alert can be evaluated, and each metric in it exists"""
    none_of(queries.faults_of_alerts(cluster.prometheus))


def goes_down(cluster):
    """`docker compose down -v` leaves nothing behind"""
    compose.compose("down", "--volumes", "--timeout", "15", timeout=120)
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        left = compose.docker(*kind, "--quiet", "--filter", "label=com.docker.compose.project=fanfare-test")
        assert not left, f"{kind[0]}: {left}"


def sound(cluster, since):
    """Audits what came since then; is an error if anything is wrong."""
    faults, deliveries = cluster.swarm.audit(since)
    none_of(faults)
    none_of(cluster.swarm.refusals(since))
    assert deliveries > 1000, f"only {deliveries} deliveries"
    return f"{deliveries} deliveries audited"


def wanted(channel):
    """How many instances are subscribed to it, by Redis' own word."""
    numbers = compose.redis_cli("PUBSUB", "NUMSUB", f"fanfare:channel:{channel}").split()
    return int(numbers[1]) if len(numbers) == 2 else 0


def firing(cluster, alert, state="firing"):
    return cluster.prometheus.query(f'ALERTS{{alertname="{alert}",alertstate=~"{state}"}}')


async def scale(cluster, count):
    """Starts instances until there are so many, and waits until HAProxy sends clients to all of them."""
    await asyncio.to_thread(
        compose.compose, "up", "--detach", "--no-build", "--no-recreate", "--no-deps", "--scale", f"gateway={count}", "gateway"
    )
    assert len(compose.gateways()) == count
    cluster.logs.follow("gateway")
    await all_chosen(count)


async def all_chosen(count):
    """HAProxy takes a place that DNS has just filled for good until its first check; so first the instances are asked themselves."""
    await until(lambda: all(each.status("/readyz") == 200 for each in compose.gateways()), "all instances are ready", 60)
    await until(lambda: compose.in_choice("ready") == count, f"HAProxy sends clients to {count} instances", 60)

