"""A load client, run in a pod: as many requests a second as asked, each with a deadline and one retry, and what came of them.

    python load.py '{"url": …, "rate": 50, "seconds": 60, "body": {…}, "token_file": …}'

The documented client setting: a request has 2 s, and is asked again once, 0.5 s after it failed. Names are resolved once.
Prints one line of JSON: sent, failed, retried, reasons of the first tries and of the failures, quantiles in seconds.
"""

import asyncio
import collections
import json
import pathlib
import sys
import time

import aiohttp

DEADLINE, PAUSE = 2.0, 0.5


async def ask(session, said):
    async with session.post(said["url"], json=said["body"], timeout=aiohttp.ClientTimeout(total=DEADLINE)) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {text[:100]}")
        return json.loads(text)


async def one(session, said, found):
    began = time.monotonic()
    for attempt in (1, 2):
        try:
            answer = await ask(session, said)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:160]
            found["reasons" if attempt == 1 else "failures"][why] += 1
            if attempt == 2:
                found["failed"] += 1
                found["failed_at"].append(round(time.time(), 1))
                return
            found["retried"] += 1
            await asyncio.sleep(PAUSE)
        else:
            found["seconds"].append(time.monotonic() - began)
            found["versions"][str(answer.get("release") or answer.get("model") or answer.get("version"))] += 1
            found["fallbacks"] += bool(answer.get("fallback"))
            return


async def main(said):
    counters = ("reasons", "failures", "versions")
    found = {
        "failed": 0,
        "retried": 0,
        "fallbacks": 0,
        "seconds": [],
        "failed_at": [],
        **{name: collections.Counter() for name in counters},
    }
    token = pathlib.Path(said["token_file"]).read_text().strip()
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=3600, keepalive_timeout=30)
    async with aiohttp.ClientSession(connector=connector, headers={"authorization": f"Bearer {token}"}) as session:
        start, tasks = time.monotonic(), []
        for number in range(int(said["rate"] * said["seconds"])):
            await asyncio.sleep(max(0.0, start + number / said["rate"] - time.monotonic()))
            tasks.append(asyncio.create_task(one(session, said, found)))
            if pathlib.Path("/tmp/stop").exists():
                break
        await asyncio.gather(*tasks)
    seconds = sorted(found.pop("seconds"))
    quantiles = (
        {f"p{q}": round(seconds[min(int(len(seconds) * q / 100), len(seconds) - 1)], 4) for q in (50, 95, 99)}
        if seconds
        else {}
    )
    print(json.dumps({"sent": len(tasks), **found, **quantiles}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
