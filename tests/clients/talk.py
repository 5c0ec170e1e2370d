"""Python's websockets in a channel: prints each message as a JSON line, and says what it reads as JSON lines.

A text is {"text": …}, a binary message {"hex": …}. Used by clients.test.mjs.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect


async def listen(connection):
    async for message in connection:
        heard = {"text": message} if isinstance(message, str) else {"hex": message.hex()}
        print(json.dumps(heard), flush=True)


async def main(url):
    async with connect(url) as connection:
        print(json.dumps({"open": True}), flush=True)
        listening = asyncio.create_task(listen(connection))
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            said = json.loads(line)
            await connection.send(said["text"] if "text" in said else bytes.fromhex(said["hex"]))
        listening.cancel()


asyncio.run(main(sys.argv[1]))
