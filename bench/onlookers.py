"""Viewers of a live page, as a light process: ``python -m bench.onlookers URL VIEWERS``.

Each loads what a browser loads, and follows the stream of messages until the server stops. The
number of messages that reached them, all together, is printed.
"""

from __future__ import annotations

import sys
import threading
import urllib.request

LOOKS = ("/", "/api/run", "/api/layers", "/api/workers?points=400", "/api/scores", "/api/windows")


def view(url: str) -> int:
    """Be one viewer; return how many messages came."""
    for path in LOOKS:
        with urllib.request.urlopen(url.rstrip("/") + path) as answer:  # noqa: S310
            answer.read()
    with urllib.request.urlopen(f"{url}api/stream") as stream:  # noqa: S310
        return sum(line.startswith(b"id:") for line in stream)


def main() -> None:
    """Be all viewers."""
    url, viewers = sys.argv[1], int(sys.argv[2])
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(view(url))) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seen) < viewers:
        raise SystemExit(f"{viewers - len(seen)} of {viewers} viewers saw no end")
    print(sum(seen))


if __name__ == "__main__":
    main()
