"""What the cluster said while it was tested: whether it can be read by a machine, and whether anything in it is amiss."""

import collections
import json
import re
import subprocess

import compose
from report import none_of

# HAProxy's httplog: client, time, frontend, backend/server, timers, status, bytes, cookies, how it ended, counts,
# queues, request.
REQUEST = re.compile(
    r"^(?P<client>\S+:\d+) \[[^\]]+\] (?P<frontend>\S+) (?P<backend>[^/ ]+)/(?P<server>\S+) \S+ (?P<status>-?\d+) \S+ - - "
    r"(?P<end>\S{4}) \S+ \S+ \"(?P<request>[^\"]*)\"$"
)


class Followers:
    """Writes down what each container says, from its beginning, because one that has been scaled away is asked in vain."""

    def __init__(self, directory):
        self.directory, self.running = directory, {}
        for old in directory.glob("*.container.log"):
            old.unlink()

    def follow(self, service):
        """Call it again after containers came or came back."""
        for each in compose.containers(service):
            if each.id not in self.running or self.running[each.id].poll() is not None:
                with (self.directory / f"{each.name}.{each.id[:8]}.container.log").open("w") as file:
                    self.running[each.id] = subprocess.Popen(["docker", "logs", "--follow", each.id], stdout=file, stderr=file)

    def stop(self):
        for process in self.running.values():
            process.terminate()
            process.wait()

    def lines(self, service):
        for path in sorted(self.directory.glob(f"*-{service}-*.container.log")):
            yield from path.read_text().splitlines()


def of_instances(cluster):
    """Every line of an instance's log is one JSON object, none is an error, and every drain in it has an end"""
    levels, messages, faults = collections.Counter(), collections.Counter(), []
    for line in cluster.logs.lines("gateway"):
        try:
            said = json.loads(line)
        except ValueError:
            faults.append(f"not JSON: {line[:300]}")
            continue
        if not {"timestamp", "level", "message"} <= said.keys():
            faults.append(f"not whole: {line[:300]}")
            continue
        levels[said["level"]] += 1
        messages[said["message"].split(":")[0]] += 1
        if said["level"] == "ERROR":
            faults.append(line[:300])
    none_of(faults)
    assert messages["listening"] and messages["draining"] == messages["ended"], messages
    return ", ".join(f"{count} {level}" for level, count in levels.most_common())


def of_haproxy(cluster):
    """HAProxy's log: every WebSocket was opened at the first call, none was answered by an error"""
    ends, faults = collections.Counter(), []
    for line in cluster.logs.lines("lb"):
        found = REQUEST.match(line)
        if found and "/ws/" in found["request"]:
            ends[found["end"]] += 1
            if found["status"] != "101":
                faults.append(line)
        elif "[ALERT]" in line and "backend 'ready' has no server available" not in line:  # which is what Redis' absence means
            faults.append(line)
    none_of(faults)
    assert sum(ends.values()) > 60, f"only {sum(ends.values())} WebSockets in it"
    return ", ".join(f"{count} ended {end}" for end, count in ends.most_common())
