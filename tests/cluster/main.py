"""Wires the checks: first the files, then the running cluster. `run`, beside it, makes what this needs and takes the cluster down."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import files
from report import Report


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--docker", required=True, help="`yes`, or why there is none")
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("part", nargs="?", choices=["files"])
    options = parser.parse_args()
    report = Report()
    with_docker = options.docker == "yes"
    await report.run(files.CHECKS, with_docker)
    if options.part == "files":
        return report.close()
    if with_docker:
        import scenario

        await scenario.run(report, options.logs)
    else:
        print(f"left out: the cluster: {options.docker}")
        report.skipped += 1
    if os.environ.get("CI") == "true" and report.skipped:
        print("FAIL  with CI=true nothing may be left out")
        report.failed, report.skipped = report.failed + report.skipped, 0
    return report.close()


sys.exit(asyncio.run(main()))
