"""A client process for tests: ADDRESS BUNDLE LOG WORK_S; writes a line to LOG whenever it begins to work."""

import sys
import time
from pathlib import Path

from flwr.app import Message

from client.link import ClientKeys, LinkClient
from client.link.backoff import Backoff
from tests.link.harness import echo


def main(address: str, bundle: str, log: str, work_s: str) -> None:
    def work(message: Message) -> Message:
        with Path(log).open("a") as file:
            file.write(message.metadata.message_id + "\n")
        time.sleep(float(work_s))
        return echo(message)

    print(LinkClient(address, ClientKeys(Path(bundle)), work, backoff=Backoff(0.05, 0.3), retry_for_s=10).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
