"""Runs soak_postgres beside a real PostgreSQL, whose backends end and which restarts meanwhile.

    soak_postgres_test.py PROGRAM [SECONDS]
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from db_servers import PostgreSQL, WAIT_S, dies_with_us  # noqa: E402


def backends(server):
    """Those that serve somebody."""
    found = []
    for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"127.0.0.1" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def disturb(server, chance):
    kind = chance.random()
    if kind < 0.7:
        found = backends(server)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGTERM)
    elif kind < 0.8:
        found = backends(server)
        if found:  # all others end too, and the server recovers
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
    elif kind < 0.9:
        server.stop()
        time.sleep(chance.uniform(0, 1))
        server.start()


def main():
    if not PostgreSQL.is_installed():
        print("skipped: no PostgreSQL server is installed")
        return 77
    seconds = os.environ.get("MOORING_SOAK_SECONDS", sys.argv[2] if len(sys.argv) > 2 else "15")
    chance = random.Random()
    with PostgreSQL() as server:
        soak = subprocess.Popen([sys.argv[1], seconds, server.url], preexec_fn=dies_with_us(signal.SIGKILL))
        disturbed = 0
        # The last second is quiet, so that the end finds a server.
        quiet = time.monotonic() + float(seconds) - 1
        while soak.poll() is None and time.monotonic() < quiet:
            time.sleep(chance.uniform(0.1, 1))
            disturb(server, chance)
            disturbed += 1
        status = soak.wait(WAIT_S * 4)
        print(f"disturbed {disturbed} times")
    return status


if __name__ == "__main__":
    sys.exit(main())
