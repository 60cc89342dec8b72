#!/usr/bin/env python3
"""Prints OOM kills as they happen, from the socket of a running oomwatch.

Needs nothing but Python 3.8 and the right to open the socket, which is root's. It waits for an agent that is not there
yet and connects again to one that was restarted.

    sudo python3 socket_consumer.py [/run/oomwatch/oomwatch.sock]
"""

import json
import socket
import sys
import time

DEFAULT_SOCKET = "/run/oomwatch/oomwatch.sock"
SECONDS_BETWEEN_ATTEMPTS = 1.0


def events(path):
    """The agent's events from now on, until it goes away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        with connection.makefile("r", encoding="utf-8", newline="\n") as lines:
            for line in lines:
                # What an agent that ended left of its last line is no event.
                if line.endswith("\n"):
                    yield json.loads(line)


def describe(kill):
    """One kill in one line. A field that is not known is absent."""
    # Where counters alone tell of a kill, nobody knows of whom.
    victim = kill.get("victim", {})
    workload = kill.get("workload", {})
    name = workload.get("container_name") or workload.get("container_id") or workload.get("cgroup_path", "the host")
    limit = kill.get("oom_memcg", {}).get("limit_bytes")
    hit = f", limit {limit / 2**20:.0f} MiB" if limit is not None else ""
    return f"{kill['timestamp']} killed {victim.get('comm', '?')} (pid {victim.get('pid', '?')}) in {name}{hit}"


def follow(path):
    """Prints for ever."""
    while True:
        try:
            for event in events(path):
                if event.get("event") == "oom_kill":
                    print(describe(event), flush=True)
                elif event.get("event") == "loss":
                    print(f"{event['lost']} events were lost ({event['stage']})", file=sys.stderr, flush=True)
            print("the agent went away", file=sys.stderr, flush=True)
        except PermissionError:
            sys.exit(f"{path} is for root only; run this with sudo")
        except (FileNotFoundError, ConnectionError):
            pass
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


if __name__ == "__main__":
    try:
        follow(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_SOCKET)
    except KeyboardInterrupt:
        pass
