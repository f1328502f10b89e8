"""What a client takes apart from time: instructions in user space by callgrind, system calls by
strace. The kernel's share of a call is not in it."""

import re
import tempfile

import benchlib
from benchlib import Finished, Unavailable, system_program


def finished(command, env, what):
    done = Finished(command, env=env, patience=300)
    if done.status == benchlib.SKIPPED:
        raise Unavailable(f"{what}: {done.err.strip() or 'refused here'}")
    if done.status != 0:
        raise RuntimeError(f"{what} ended with {done.status}: {done.err[-2000:]}")
    return done


def instructions(command, env, name, keep):
    """How many it took, and callgrind's file if it is to be kept."""
    with tempfile.TemporaryDirectory(prefix="mooring-bench-") as folder:
        out = keep or f"{folder}/out"
        done = finished([system_program("valgrind", "valgrind"), "--tool=callgrind",
                         f"--callgrind-out-file={out}", *command], env, f"callgrind {name}")
        return int(re.search(r"Collected\s*:\s*(\d+)", done.err).group(1))


def calls(command, env, name):
    """By name, as strace sums them up."""
    with tempfile.NamedTemporaryFile("r", prefix="mooring-bench-") as out:
        finished([system_program("strace", "strace"), "-f", "-c", "-o", out.name, *command], env,
                 f"strace {name}")
        found = {}
        for line in out:
            fields = line.split()
            if len(fields) >= 5 and fields[0][0].isdigit() and fields[-1] != "total":
                found[fields[-1]] = int(fields[3])
        return found


def per_request(name, command, requests, env=None, keep=None):
    """The difference between twice as many and as many; `command` makes one for a number."""
    first = instructions(command(requests), env, name, None)
    twice = instructions(command(2 * requests), env, name, keep)
    result = {"instructions": (twice - first) / requests}
    try:
        once, twice = (calls(command(k * requests), env, name) for k in (1, 2))
        by_name = {k: (twice[k] - once.get(k, 0)) / requests for k in twice}
        result["calls"] = {k: v for k, v in sorted(by_name.items(), key=lambda c: -c[1])
                           if v > 0.001}
        result["calls_together"] = sum(by_name.values())
    except Unavailable as e:
        print(f"left out: {e}")
    return result


def print_row(name, r):
    which = ", ".join(f"{k} {v:.3f}" for k, v in r.get("calls", {}).items())
    print(f"{name:16}{r['instructions']:14.0f}{r.get('calls_together', 0):9.3f}  {which}")


def print_head(conc, requests):
    print(f"\nper request, {conc} in flight; difference of {requests} and {2 * requests} "
          f"requests\n{'client':16}{'instructions':>14}{'calls':>9}  which")
