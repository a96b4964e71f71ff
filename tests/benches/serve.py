"""Starts the peers that have no command of their own: serve.py NAME MODULE:APP PORT WORKERS THREADS.

PORT may be unix:PATH for bjoern."""

import importlib
import os
import signal
import sys

name, what, port, workers, threads = sys.argv[1:]
host = port if port.startswith("unix:") else "127.0.0.1"
port, workers, threads = None if host == port else int(port), int(workers), int(threads)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
module, _, attribute = what.partition(":")
app = getattr(importlib.import_module(module), attribute)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def bjoern():
    import bjoern as server

    server.listen(app, host, port, listen_backlog=2048)
    # Prefork on one socket, which is how its documentation does it.
    for _ in range(workers - 1):
        if os.fork() == 0:
            break
    server.run()


def fastpysgi():
    import fastpysgi as server

    server.server.init(app, "127.0.0.1", port, server.LL_DISABLED, workers)
    server.server.run()


def waitress():
    import waitress as server

    server.serve(app, host="127.0.0.1", port=port, threads=threads, backlog=2048, connection_limit=20000)


{"bjoern": bjoern, "fastpysgi": fastpysgi, "waitress": waitress}[name]()
