"""What the cluster said while it was tested: whether it can be read by a machine, and whether anything in it is amiss."""

import collections
import json
import re

from report import none_of

# HAProxy's httplog: client, time, frontend, backend/server, timers, status, bytes, cookies, how it ended, counts, queues, request.
REQUEST = re.compile(
    r"^(?P<client>\S+:\d+) \[[^\]]+\] (?P<frontend>\S+) (?P<backend>[^/ ]+)/(?P<server>\S+) \S+ (?P<status>-?\d+) \S+ - - "
    r"(?P<end>\S{4}) \S+ \S+ \"(?P<request>[^\"]*)\"$"
)


def of_instances(cluster):
    """Every line of an instance's log is one JSON object, none is an error, and the drain is in it"""
    levels, messages, faults = collections.Counter(), collections.Counter(), []
    for line in (cluster.logs / "gateway.log").read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            faults.append(f"not JSON: {line[:300]}")
            continue
        if not {"timestamp", "level", "message"} <= said.keys():
            faults.append(f"not whole: {line[:300]}")
            continue
        levels[said["level"]] += 1
        messages[said["message"]] += 1
        if said["level"] == "ERROR":
            faults.append(line[:300])
    none_of(faults)
    assert messages["listening"] >= 3, messages
    return ", ".join(f"{count} {level}" for level, count in levels.most_common())


def of_haproxy(cluster):
    """HAProxy's log: every WebSocket was opened at the first call, none was answered by an error"""
    ends, faults = collections.Counter(), []
    for line in (cluster.logs / "lb.log").read_text().splitlines():
        found = REQUEST.match(line)
        if found and "/ws/" in found["request"]:
            ends[found["end"]] += 1
            if found["status"] != "101":
                faults.append(line)
        elif re.search(r"\b(ALERT|emerg|alert|crit)\b", line):
            faults.append(line)
    none_of(faults)
    assert sum(ends.values()) > 60, f"only {sum(ends.values())} WebSockets in it"
    return ", ".join(f"{count} ended {end}" for end, count in ends.most_common())
