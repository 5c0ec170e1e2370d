"""Judges the report of the Autobahn Testsuite: judge.py index.json [fast|whole]. Every exception stands here, with its
reason. A whole run also writes the table of PROMISES.md."""

import fnmatch
import json
import sys
from collections import Counter

# How many cases there are: a suite that ran fewer has not run.
CASES = {"fast": 373, "whole": 517}

# Lawful, and not the suite's first choice, which is that a whole message before the offence is echoed first. RFC 6455
# section 7.1.7 has an endpoint fail the connection; what was published just before it may still be on its way through
# the relay then.
NON_STRICT = {
    "3.2": "a message, then a frame with reserved bit 2: we fail the connection at the frame, before the echo",
    "3.3": "a message, then a frame with reserved bits 2 and 3, frame by frame: the echo and the failure race",
    "3.4": "a message, then a frame with reserved bit 1 and no extension, byte by byte: the echo and the failure race",
    "4.1.3": "a message, then opcode 5: we fail the connection at its header, before the echo",
    "4.1.4": "a message, then opcode 6 with a payload: we fail the connection at its header, before the echo",
    "4.1.5": "a message, then opcode 7 with a payload, byte by byte: the echo and the failure race",
    "4.2.3": "a message, then control opcode 13: we fail the connection at its header, before the echo",
    "4.2.4": "a message, then control opcode 14 with a payload: we fail the connection at its header, before the echo",
    "4.2.5": "a message, then control opcode 15 with a payload, byte by byte: the echo and the failure race",
    "5.15": "a message in two fragments, then a continuation of nothing: we fail the connection there, before the echo",
}

# The suite itself calls no answer to these right or wrong.
INFORMATIONAL = {
    "7.1.6": "256 KiB, a close and a ping in one: whether the message is echoed before the close is ours to choose",
    "7.13.1": "close code 5000, of which RFC 6455 section 7.4.2 says nothing",
    "7.13.2": "close code 65535, of which RFC 6455 section 7.4.2 says nothing",
}

# What the suite's first numbers stand for.
CHAPTERS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "close handshakes",
    9: "limits and performance",
    10: "automatic fragmentation",
    12: "compression, different payloads",
    13: "compression, different parameters",
}

PROMISES = "PROMISES.md"
BEGIN, END = "<!-- begin autobahn -->\n", "<!-- end autobahn -->"


def main(path, extent):
    with open(path, encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    wrong = 0
    for case in sorted(cases, key=number):
        behaviour, closing = cases[case]["behavior"], cases[case]["behaviorClose"]
        if not (is_right(case, behaviour) and is_right(case, closing)):
            wrong += 1
            print(f"FAIL  {case}: {behaviour}, closing {closing}")
    if len(cases) < CASES[extent]:
        wrong += 1
        print(f"FAIL  {len(cases)} cases were run, of {CASES[extent]}")
    if extent == "whole" and not wrong:
        write_table(cases)
    print(f"{len(cases) - min(wrong, len(cases))} passed, {wrong} failed, 0 skipped")
    return 1 if wrong else 0


def is_right(case, word):
    allowed = {"OK": ["*"], "NON-STRICT": NON_STRICT, "INFORMATIONAL": INFORMATIONAL}
    return any(fnmatch.fnmatchcase(case, pattern) for pattern in allowed.get(word, []))


def write_table(cases):
    rows = ["| cases | what | OK | INFORMATIONAL | NON-STRICT |", "| --- | --- | --- | --- | --- |"]
    for chapter, what in CHAPTERS.items():
        words = Counter(result["behavior"] for case, result in cases.items() if number(case)[0] == chapter)
        counts = " | ".join(str(words[word]) for word in ("OK", "INFORMATIONAL", "NON-STRICT"))
        rows.append(f"| {chapter}.* | {what} | {counts} |")
    with open(PROMISES, encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN)
    with open(PROMISES, "w", encoding="utf-8") as file:
        file.write(before + BEGIN + "\n".join(rows) + "\n" + END + rest.split(END)[1])


def number(case):
    return [int(part) for part in case.split(".")]


sys.exit(main(*sys.argv[1:]))
