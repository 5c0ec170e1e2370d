"""The cluster as docker sees it: containers, their addresses, what they answer on ports that are not published.

Knows nothing of what the answers should be. Reaches containers by their own addresses, which works where the daemon runs on
this machine's kernel (Linux), and nowhere else.
"""

import json
import re
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass

# No proxy that the environment may name: everything is on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def docker(*arguments, timeout=300, check=True, both=False):
    """Runs docker and returns what it printed; with `both`, its complaints too. Its failure is an error that says why."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    return done.stdout + (done.stderr if both else "")


def compose(*arguments, **options):
    return docker("compose", *arguments, **options)


def ask(url, timeout=5):
    """Status and body of a GET; a refused or late one is status 0."""
    try:
        with OPENER.open(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@dataclass(frozen=True)
class Container:
    id: str
    name: str
    address: str

    def metrics(self, port=9090):
        status, body = ask(f"http://{self.address}:{port}/metrics")
        if status != 200:
            raise RuntimeError(f"{self.name} has no metrics: {status} {body[:200]}")
        return Samples(body)

    def connections(self):
        return int(self.metrics().sum("fanfare_connections"))

    def status(self, path):
        return ask(f"http://{self.address}:9090{path}", timeout=3)[0]


class Samples:
    """What one /metrics page says."""

    LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")

    def __init__(self, text):
        matches = filter(None, map(self.LINE.match, text.splitlines()))
        self.rows = [(m[1], dict(re.findall(r'(\w+)="([^"]*)"', m[2] or "")), float(m[3])) for m in matches]

    def sum(self, name, **labels):
        """Of all series of that name whose labels include these."""
        found = [value for row, has, value in self.rows if row == name and labels.items() <= has.items()]
        if not found and not labels:
            raise RuntimeError(f"no metric is called {name}")
        return sum(found)

    def names(self):
        return {row for row, _, _ in self.rows}


def containers(service):
    """Those that run, by the number in their name."""
    ids = compose("ps", "--quiet", service).split()
    if not ids:
        return []
    found = []
    for each in json.loads(docker("inspect", *ids)):
        (network,) = each["NetworkSettings"]["Networks"].values()
        found.append(Container(each["Id"], each["Name"].lstrip("/"), network["IPAddress"]))
    return sorted(found, key=lambda each: int(each.name.rsplit("-", 1)[1]))


def gateways():
    return containers("gateway")


def published(service, port):
    """Where this machine reaches it, as host:port."""
    return compose("port", service, str(port)).strip()


def in_choice(backend):
    """How many instances HAProxy sends clients to."""
    (lb,) = containers("lb")
    return int(lb.metrics(8404).sum("haproxy_backend_active_servers", proxy=backend))


def redis_cli(*arguments):
    return compose("exec", "-T", "redis", "redis-cli", *arguments).strip()
