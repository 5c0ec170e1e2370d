"""One line for each check, and the closing line that tests/run adds up. Decides nothing about what a check is."""

import asyncio
import inspect
import time
import traceback


class LeftOut(Exception):
    """A check that this machine cannot do, with the reason."""


class Report:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    async def run(self, checks, *arguments):
        """Each in turn. A check's name is its docstring; what it returns is told with it. Whether all passed."""
        before = self.failed
        for check in checks:
            await self.one(check, arguments)
        return self.failed == before

    async def one(self, check, arguments):
        name, begun = inspect.getdoc(check), time.monotonic()
        try:
            detail = check(*arguments)
            if inspect.isawaitable(detail):
                detail = await asyncio.wait_for(detail, 300)
        except LeftOut as why:
            self.skipped += 1
            print(f"left out: {name}: {why}", flush=True)
        except Exception as error:
            self.failed += 1
            print(f"FAIL  {name}: {str(error) or type(error).__name__}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        else:
            self.passed += 1
            took = time.monotonic() - begun
            print(f"ok    {name}" + (f": {detail}" if detail else "") + f" ({took:.1f} s)", flush=True)

    def close(self):
        """Prints the sum; the exit code."""
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


def none_of(faults, shown=5):
    """Is an error that shows the first of these faults, if there are any."""
    faults = list(faults)
    assert not faults, "; ".join(map(str, faults[:shown])) + (f"; and {len(faults) - shown} more" if len(faults) > shown else "")
