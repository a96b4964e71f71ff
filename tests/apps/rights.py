"""Tells what the process that serves may do: users, groups, capabilities, limits, processors, its root."""

import json
import os
import resource
import time


def capabilities():
    try:
        with open("/proc/self/status") as status:
            return dict(line.strip().split(":\t") for line in status if line.startswith("Cap"))
    except OSError:  # inside a chroot
        return {}


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/hold/"):
        # C code that keeps the interpreter until it is over.
        import ctypes

        ctypes.PyDLL(None).usleep(int(path[6:]) * 1000)
    elif path.startswith("/sleep/"):
        time.sleep(float(path[7:]))
    body = json.dumps(
        {
            "pid": os.getpid(),
            "ppid": os.getppid(),
            "session": os.getsid(0),
            "uids": os.getresuid(),
            "gids": os.getresgid(),
            "groups": sorted(os.getgroups()),
            "capabilities": capabilities(),
            "as": resource.getrlimit(resource.RLIMIT_AS),
            "nproc": resource.getrlimit(resource.RLIMIT_NPROC),
            "cpus": sorted(os.sched_getaffinity(0)),
            "root": sorted(os.listdir("/")),
            "stdin": os.path.exists("/proc/self/fd/0") and os.readlink("/proc/self/fd/0"),
            "notify": [name for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID") if name in os.environ],
        }
    ).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
