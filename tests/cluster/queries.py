"""What Prometheus, Grafana and an operator ask of the running cluster: every query of the dashboard, every metric of the alerts.

Asks as Grafana would, with the dashboard's variables at their defaults. Judges whether there is an answer, not what it is.
"""

import json
import re
import urllib.parse
from pathlib import Path

import compose

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

# Four scrapes, as Grafana computes it from the data source's timeInterval.
VARIABLES = {"$__rate_interval": "20s", "$instance": ".+", "${datasource}": "prometheus"}


class Prometheus:
    def __init__(self, address):
        self.base = f"http://{address}/api/v1"

    def get(self, path, **parameters):
        status, body = compose.ask(f"{self.base}/{path}?{urllib.parse.urlencode(parameters)}")
        if status != 200:
            raise AssertionError(f"Prometheus answers {status} to {path} {parameters}: {body[:500]}")
        return json.loads(body)["data"]

    def query(self, expression):
        """The series of an instant query, as (labels, value)."""
        return [(each["metric"], float(each["value"][1])) for each in self.get("query", query=expression)["result"]]

    def targets(self):
        return self.get("targets", state="active")["activeTargets"]


def of_dashboard():
    """(panel, query) of every query, in the order in which they are shown; the query behind the variable, too."""
    (path,) = (DEPLOY / "grafana/dashboards").glob("*.json")
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])[1]


def faults_of_dashboard(prometheus):
    """Queries that Prometheus refuses or answers with nothing, as lines."""
    for panel, query in of_dashboard():
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        if "$" in query:
            yield f"{panel}: a variable that the dashboard does not have in {query}"
            continue
        try:
            if not prometheus.query(query):
                yield f"{panel}: nothing comes of {query}"
        except AssertionError as refused:
            yield f"{panel}: {refused}"


def faults_of_alerts(prometheus):
    """Rules that Prometheus cannot evaluate, and metrics in them that nobody has, as lines."""
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    if not rules:
        yield "Prometheus has no rules"
    known = set(prometheus.get("label/__name__/values"))
    for rule in rules:
        if rule["health"] != "ok":
            yield f"{rule['name']}: {rule.get('lastError', rule['health'])}"
        for metric in set(re.findall(r"\b(?:fanfare|process|haproxy)_\w+", rule["query"])):
            if metric not in known:
                yield f"{rule['name']}: no instance has {metric}"
