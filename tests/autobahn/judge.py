"""Judges the report of the Autobahn Testsuite: judge.py index.json. Every exception stands here, with its reason."""

import fnmatch
import json
import sys

# How many cases there are without 12.* and 13.*: a suite that ran fewer has not run.
CASES = 301

# Lawful, and not the suite's first choice. In each of these the offence arrives in the same segment as a
# whole message before it, and we may end the connection before that message is echoed, as the suite would have it.
NON_STRICT = ["3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"]

# The suite itself calls no answer to these right or wrong.
INFORMATIONAL = ["7.1.6", "7.13.1", "7.13.2"]


def is_right(case, word):
    allowed = {"OK": ["*"], "NON-STRICT": NON_STRICT, "INFORMATIONAL": INFORMATIONAL}
    return any(fnmatch.fnmatchcase(case, pattern) for pattern in allowed.get(word, []))


def main(path):
    with open(path, encoding="utf-8") as file:
        (cases,) = json.load(file).values()
    wrong = 0
    for case, result in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        behaviour, closing = result["behavior"], result["behaviorClose"]
        if not (is_right(case, behaviour) and is_right(case, closing)):
            wrong += 1
            print(f"FAIL  {case}: {behaviour}, closing {closing}")
    if len(cases) < CASES:
        wrong += 1
        print(f"FAIL  {len(cases)} cases were run, of {CASES}")
    print(f"{len(cases) - min(wrong, len(cases))} passed, {wrong} failed, 0 skipped")
    return 1 if wrong else 0


sys.exit(main(sys.argv[1]))
