"""Starts an instance and lets schemathesis loose on its HTTP API, once for each error mode.

The instance is the judge of nothing: schemathesis holds every answer against the document that the instance serves.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BINARY = Path(os.environ.get("FANFARE_BIN", HERE / "../../target/debug/fanfare")).resolve()
KEY = "a key that only the tests have"
CONFIG = f"""
api_keys = ["{KEY}"]
allow_anonymous = true

[channels]
may_subscribe = "anonymous"
history_size = 10
presence = true
"""


def start(home):
    """An instance in this folder, and the URL of its API."""
    (home / "fanfare.toml").write_text(CONFIG)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FANFARE_")}
    flags = ["--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0", "--log-format", "json"]
    instance = subprocess.Popen([BINARY, "serve", *flags], cwd=home, env=env, stderr=subprocess.PIPE, text=True)
    for line in instance.stderr:
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("message") == "listening":
            return instance, f"http://{said['internal_address']}/api"
        print(line, end="")
    sys.exit("the instance ended before it listened")


def attack(schemathesis, url, mode, *flags):
    """Whether every answer in this error mode is what the document says."""
    print(f"---- errors in the {mode}", flush=True)
    command = [schemathesis, "--config-file", HERE / "schemathesis.toml", "run", f"{url}/openapi.json", "--no-color"]
    headers = ["-H", f"X-API-Key: {KEY}", "-H", f"X-Centrifugo-Error-Mode: {mode}"]
    return subprocess.run([*command, *headers, "--max-examples", "50", *flags]).returncode == 0


def main(schemathesis):
    with tempfile.TemporaryDirectory() as home:
        instance, url = start(Path(home))
        try:
            outcomes = [
                attack(schemathesis, url, "transport"),
                # There an error has the status of a result.
                attack(schemathesis, url, "response", "--exclude-checks", "negative_data_rejection"),
                instance.poll() is None,
            ]
        finally:
            instance.kill()
            instance.wait()
    failed = outcomes.count(False)
    print(f"{len(outcomes) - failed} passed, {failed} failed, 0 skipped")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
