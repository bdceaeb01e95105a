"""Environments of workers on this machine, which find each other over loopback."""

import json
import socket


def environments(count=2):
    """[{"TF_CONFIG": ...}, ...] of `count` workers with free ports."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]}
    for s in sockets:
        s.close()
    tasks = [{"type": "worker", "index": i} for i in range(count)]
    return [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]
