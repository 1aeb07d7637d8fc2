"""Opens many streams and says what it hears. Standard library only.

python -I -S many_clients.py PORT COUNT < tokens, one a line

Writes "open", then for each line of its input after the tokens how many streams heard something since the last one, and
how many seconds after the line the last of them did; it waits at most so many seconds as the line says.
"""

import asyncio
import json
import sys
import time

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "many", "version": "1"},
}
PARAMS = {"_meta": META, "notifications": {"toolsListChanged": True}}
BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": PARAMS}).encode()
heard = {}


async def listen(number, port, token, ready):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    head = (
        f"POST /mcp/git HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n"
        "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        f"mcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    writer.write(head.encode() + BODY)
    async for line in reader:
        if b"acknowledged" in line:
            ready.release()
        elif b"list_changed" in line:
            heard[number] = time.monotonic()


async def main():
    port, count = int(sys.argv[1]), int(sys.argv[2])
    tokens = [sys.stdin.readline().strip() for _ in range(count)]
    ready = asyncio.Semaphore(0)
    tasks = []
    for number, token in enumerate(tokens):
        tasks.append(asyncio.create_task(listen(number, port, token, ready)))
        if number % 50 == 49:
            for _ in range(50):
                await asyncio.wait_for(ready.acquire(), 60)
    for _ in range(count % 50):
        await asyncio.wait_for(ready.acquire(), 60)
    print("open", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        began = time.monotonic()
        while len(heard) < count and time.monotonic() < began + float(line):
            await asyncio.sleep(0.01)
        print(len(heard), max(heard.values(), default=began) - began, flush=True)
        heard.clear()
    for task in tasks:
        task.cancel()


asyncio.run(main())
