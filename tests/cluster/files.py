"""Every file of deploy/ by the tool that will read it, without running anything of ours.

A tool comes out of the image that the cluster uses, where there is a daemon, and from this machine otherwise.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from report import LeftOut, none_of
from swarm import Life, Swarm

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = "prom/prometheus:v2.53.3"
HAPROXY = "haproxy:3.0"


def run(*command, image=None, docker=False, **options):
    """Runs a tool on files below the repository and returns what it said; a tool that is nowhere is left out."""
    if docker and image:
        command = ["docker", "run", "--rm", "--network", "none", "--volume", f"{ROOT}:{ROOT}:ro", "--workdir", ROOT, "--entrypoint", command[0], image, *command[1:]]
    elif not shutil.which(command[0]):
        raise LeftOut(f"{command[0]} is not installed")
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **options)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 0, said[-3000:] or f"{command[0]} failed and said nothing"
    return said


def haproxy(docker):
    """HAProxy takes its configuration, without a warning"""
    said = run("haproxy", "-c", "-V", "-f", DEPLOY / "haproxy/haproxy.cfg", image=HAPROXY, docker=docker)
    assert "WARNING" not in said and "is valid" in said, said


def prometheus(docker):
    """Prometheus takes its configuration and the alert rules"""
    run("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml", image=PROMETHEUS, docker=docker)


def alerts(docker):
    """Each alert speaks when it must, is silent when it must not, and is in the operators' document"""
    rules = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus/alerts.yml").read_text())
    documented = re.findall(r"^\| (Fanfare\w+) \|", (DEPLOY / "README.md").read_text(), re.M)
    assert sorted(documented) == sorted(rules), f"only in one of both: {set(documented) ^ set(rules)}"
    tests = ROOT / "tests/cluster/alerts.test.yml"
    rows = tests.read_text().split("- eval_time:")
    speaks = {name for name in rules if any(f'alertname="{name}"' in row and "exp_samples" in row for row in rows)}
    silent = {name for name in rules if any(f'alertname="{name}"' in row and "exp_samples" not in row for row in rows)}
    none_of(f"{name} is never seen to speak" for name in rules if name not in speaks)
    silent_otherwise = {"FanfareBrokerReconnecting"}  # its silent case is the second instance of its speaking one
    none_of(f"{name} is never seen to be silent" for name in rules if name not in silent | silent_otherwise)
    run("promtool", "test", "rules", tests, image=PROMETHEUS, docker=docker)
    return f"{len(rules)} alerts"


def compose_file(docker):
    """docker-compose.yml: hardened, on loopback only, nothing of an instance published"""
    if not docker:
        raise LeftOut("there is no Docker daemon")
    services = json.loads(run("docker", "compose", "--profile", "*", "config", "--format", "json"))["services"]
    for name, service in services.items():
        assert service.get("read_only") and service.get("cap_drop") == ["ALL"], f"{name} is not hardened"
        assert "no-new-privileges:true" in service.get("security_opt", []), f"{name} may gain privileges"
        none_of(f"{name} is published on {port['host_ip']}" for port in service.get("ports", []) if port.get("host_ip") != "127.0.0.1")
    assert not services["gateway"].get("ports") and not services["redis"].get("ports"), "what is internal is published"
    return ", ".join(services)


def dashboard(docker):
    """The dashboard: one title, description and place a panel, and the provisioned data source"""
    (path,) = (DEPLOY / "grafana/dashboards").glob("*.json")
    board = json.loads(path.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]), "two panels have one id"
    assert len({panel["title"] for panel in panels}) == len(panels), "two panels have one title"
    none_of(f"{panel['title']} says nothing of what it shows" for panel in panels if not panel.get("description"))
    none_of(f"{panel['title']} has no query" for panel in panels if not panel.get("targets"))
    none_of(f"{panel['title']} has a data source of its own" for panel in panels if panel["datasource"]["uid"] != "${datasource}")
    taken = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken and cell[0] < 24, f"{panel['title']} lies on {taken.get(cell, 'the edge')}"
            taken[cell] = panel["title"]
    assert "uid: prometheus\n" in (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    return f"{len(panels)} panels"


def kubernetes(docker):
    """kustomize makes the Kubernetes objects, and each fits its schema"""
    made = run("kubectl", "kustomize", DEPLOY / "kubernetes")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(made)
        file.flush()
        said = run(Path(sys.executable).with_name("kubernetes-validate"), "--strict", file.name)
    kinds = re.findall(r"^kind: (\w+)", made, re.M)
    assert said.count(" passed for resource ") == len(kinds), said
    return ", ".join(kinds)


def grace(docker):
    """Every grace period is above the drain that it has to let pass"""
    def seconds(text, pattern):
        return int(re.search(pattern, text)[1])

    compose = (ROOT / "docker-compose.yml").read_text()
    pod = (DEPLOY / "kubernetes/deployment.yaml").read_text()
    unit = (DEPLOY / "systemd/fanfare.service").read_text()
    close_timeout = 5
    for what, granted, text, form in (
        ("compose", seconds(compose, r"STOP_GRACE_PERIOD:-(\d+)s"), compose, r"FANFARE_{}:-(\d+)s"),
        ("kubernetes", seconds(pod, r"terminationGracePeriodSeconds: (\d+)"), (DEPLOY / "kubernetes/fanfare.toml").read_text(), r'(?i){} = "(\d+)s"'),
        ("systemd", seconds(unit, r"TimeoutStopSec=(\d+)"), (DEPLOY / "systemd/fanfare.toml").read_text(), r'(?i){} = "(\d+)s"'),
    ):
        needed = sum(seconds(text, form.format(key)) for key in ("DRAIN_DELAY", "DRAIN_WINDOW")) + close_timeout
        assert granted > needed, f"{what} grants {granted} s, the drain takes up to {needed} s"


def systemd(docker):
    """systemd takes the unit, and finds it well confined"""
    unit = (DEPLOY / "systemd/fanfare.service").read_text()
    with tempfile.TemporaryDirectory() as directory:
        # `verify` wants the program to exist, which it does not where nothing was installed.
        file = Path(directory) / "fanfare.service"
        file.write_text(unit.replace("/usr/local/bin/fanfare", "/bin/true"))
        said = run("systemd-analyze", "verify", file)
        assert not said, said
        said = run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", file)
    return re.search(r"Overall exposure level.*?: ([\d.]+)", said)[1] + " of 10 exposed"


def auditor(docker):
    """The audit that judges the cluster finds what is lost, doubled, out of order or changed, and nothing else"""
    def found(*heard, opened=0.0, closed=100.0, wrong_kind=()):
        speaker = SimpleNamespace(name="p", channel="c", wrong_kind=[], lives=[Life(0.0, 100.0, arrivals=[(10.0 + n, f"p/1/{n}") for n in range(5)])])
        arrivals = [(10.0 + when, f"p/1/{n}") for when, n in enumerate(heard)]
        listener = SimpleNamespace(name="s", channel="c", wrong_kind=list(wrong_kind), lives=[Life(opened, closed, arrivals=arrivals)])
        swarm = Swarm("", channels=0, size=0, publishers=0, rate=0)
        swarm.clients = [speaker, listener]
        return swarm.audit()[0]

    for case, faults in (
        ("nothing wrong", found(0, 1, 2, 3, 4)),
        ("came late", found(2, 3, 4, opened=11.5)),
        ("left early", found(0, 1, 2, closed=13.5)),
    ):
        assert not faults, f"{case}: {faults}"
    for case, faults, expected in (
        ("lost", found(0, 1, 3, 4), ["s, connection 1: p/1 went from 1 to 3", "s, connection 1: never got p/1/2"]),
        ("lost at the end", found(0, 1, 2, 3), ["s, connection 1: never got p/1/4"]),
        ("heard nothing", found(), [f"s, connection 1: never got p/1/{n}" for n in range(5)]),
        ("doubled", found(0, 1, 1, 2, 3, 4), ["s, connection 1: p/1 went from 1 to 1"]),
        ("out of order", found(0, 2, 1, 3, 4), [f"s, connection 1: p/1 went from {a} to {b}" for a, b in ((0, 2), (2, 1), (1, 3))]),
        ("changed", found(0, 1, 2, 3, 4, wrong_kind=["p/1/1"]), ["s: p/1/1 came as the wrong kind"]),
    ):
        assert faults == expected, f"{case}: {faults}"


CHECKS = [auditor, haproxy, prometheus, alerts, compose_file, dashboard, kubernetes, grace, systemd]
