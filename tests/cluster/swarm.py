"""Clients that write down what happens to them, and the audit of what they wrote down.

Each is an ordinary WebSocket client that comes back when it is sent away, as a browser's would. Knows the cluster's one address
and nothing of what is behind it. Each publisher numbers its messages anew on each connection, so `publisher/connection/number` names
a message; those with an odd number are sent as binary.
"""

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

# At the two ends of a connection a message may pass on either side of it. Only what was seen clear of both ends is
# demanded.
MARGIN = 1.0


@dataclass
class Life:
    """One connection of a client, from open to close."""

    opened: float
    closed: float | None = None
    code: int | None = None
    # (time, text) of everything that came; what was no text but binary, likewise, with its kind checked on arrival.
    arrivals: list = field(default_factory=list)
    sent: int = 0

    def covers(self, moment):
        return self.opened + MARGIN <= moment <= (self.closed or time.monotonic()) - MARGIN


class Client:
    def __init__(self, name, address, channel, rate=0.0):
        self.name, self.channel, self.rate = name, channel, rate
        self.url = f"ws://{address}/ws/{channel}"
        self.lives, self.refused, self.wrong_kind = [], [], []
        self.opened, self.socket = asyncio.Event(), None
        self.task = asyncio.create_task(self.live())

    async def live(self):
        while True:
            try:
                async with connect(self.url, proxy=None, ping_interval=None, open_timeout=10, close_timeout=2) as self.socket:
                    await self.one_life(Life(time.monotonic()))
            except (OSError, TimeoutError, EOFError) as error:
                self.refused.append((time.monotonic(), repr(error)))
            except Exception as error:  # a refusal with an HTTP status, whatever the library calls it
                self.refused.append((time.monotonic(), f"{type(error).__name__}: {error}"))
            await asyncio.sleep(random.uniform(0.05, 0.5))

    async def one_life(self, life):
        self.lives.append(life)
        self.opened.set()
        publishing = asyncio.create_task(self.publish(life)) if self.rate else None
        try:
            while True:
                message = await self.socket.recv()
                self.note(life, message)
        except ConnectionClosed as closed:
            life.code = closed.rcvd.code if closed.rcvd else 1006
        finally:
            life.closed = time.monotonic()
            if publishing:
                publishing.cancel()

    def note(self, life, message):
        text = message if isinstance(message, str) else message.decode()
        number = text.rpartition("/")[2]
        if number.isdigit() and isinstance(message, str) == bool(int(number) % 2):
            self.wrong_kind.append(text)
        life.arrivals.append((time.monotonic(), text))

    async def publish(self, life):
        connection = len(self.lives)
        due = time.monotonic()
        while True:
            text = f"{self.name}/{connection}/{life.sent}"
            try:
                await self.socket.send(text.encode() if life.sent % 2 else text)
            except ConnectionClosed:
                return
            life.sent += 1
            due += 1 / self.rate
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def say(self, message):
        await self.socket.send(message)

    async def hears(self, text, timeout=60):
        """Waits until this text has come on the present connection; says how often it has."""
        await until(lambda: self.heard(text), f"{self.name} hears {text!r}", timeout)
        return self.heard(text)

    def heard(self, text):
        return sum(each == text for life in self.lives for _, each in life.arrivals)

    def up(self):
        return bool(self.lives) and self.lives[-1].closed is None

    async def stop(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(condition, what, timeout):
    """Waits until `condition()` is true; is an error after `timeout` seconds, which says what did not happen."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(0.05)
    return result


class Swarm:
    """`size` clients over `channels` channels, the first `publishers` of each channel publishing."""

    def __init__(self, address, channels, size, publishers, rate):
        self.address, self.channels = address, [f"room-{n}" for n in range(channels)]
        self.size, self.publishers, self.rate = size, publishers, rate
        self.clients = []

    async def join(self, count, publishing=True):
        """One after the other, so that the balancer's choice is by what is connected and not by what is about to be."""
        new = []
        for _ in range(count):
            n = len(self.clients)
            rate = self.rate if publishing and n // len(self.channels) < self.publishers else 0
            client = Client(f"c{n}", self.address, self.channels[n % len(self.channels)], rate)
            self.clients.append(client)
            new.append(client)
            await asyncio.wait_for(client.opened.wait(), 15)
        return new

    async def stop(self):
        await asyncio.gather(*(client.stop() for client in self.clients))

    def all_up(self):
        return all(client.up() for client in self.clients)

    def closes(self, since):
        """(time, code, client) of each connection that ended since then, in order."""
        return sorted((life.closed, life.code, client.name) for client in self.clients for life in client.lives if life.closed and life.closed >= since)

    def refusals(self, since=0.0):
        return [f"{client.name}: {why}" for client in self.clients for when, why in client.refused if when >= since]

    def audit(self, since=0.0):
        """Faults in what was delivered since then, as lines; and how many deliveries were looked at."""
        faults, looked_at = [], 0
        echoed = self.echoed(since)
        for client in self.clients:
            faults += [f"{client.name}: {text} came as the wrong kind" for text in client.wrong_kind]
            for number, life in enumerate(client.lives, 1):
                arrivals = [(when, text) for when, text in life.arrivals if when >= since]
                looked_at += len(arrivals)
                where = f"{client.name}, connection {number}"
                faults += out_of_order(where, arrivals)
                got = {text for _, text in life.arrivals}
                lost = [text for when, text in echoed[client.channel] if life.covers(when) and text not in got]
                faults += [f"{where}: never got {text}" for text in lost]
        return faults, looked_at

    def echoed(self, since):
        """By channel, the messages that came back to their publishers: the cluster has accepted them, so everyone must have them."""
        found = defaultdict(list)
        for client in self.clients:
            for number, life in enumerate(client.lives, 1):
                own = f"{client.name}/{number}/"
                found[client.channel] += [(when, text) for when, text in life.arrivals if text.startswith(own) and when >= since]
        return found


def out_of_order(where, arrivals):
    """Each publisher's connection is a row of numbers without a hole, a repetition or a step back, wherever one began to listen."""
    faults, last = [], {}
    for _, text in arrivals:
        publisher, _, number = text.rpartition("/")
        if not number.isdigit():
            continue
        expected = last.get(publisher, int(number) - 1) + 1
        if int(number) != expected:
            faults.append(f"{where}: {publisher} went from {expected - 1} to {number}")
        last[publisher] = int(number)
    return faults
