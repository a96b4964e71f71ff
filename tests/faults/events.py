"""What happens to the servers under load. Each event is a function of a running `Cell`; its text is its line in the table."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from servers import WORKERS, Trouble, children, descriptors, group_of, lives, read, sockets, wait_until

HERE = Path(__file__).resolve().parent
EVENTS = []


class Event:
    def __init__(self, function, name, text, settings, needs, restarts, prepare):
        self.run, self.name, self.text = function, name, text
        self.settings, self.needs, self.restarts, self.prepare = settings, frozenset(needs), restarts, prepare


def event(name, text, settings=None, needs=(), restarts=False, prepare=None):
    def add(function):
        EVENTS.append(Event(function, name, text, settings or {}, needs, restarts, prepare))
        return function

    return add


def wait_replaced(cell, old, count=WORKERS):
    old = set(old)

    def replaced():
        now = cell.server.workers()
        return len(now) >= count and not old & set(now)

    wait_until("other workers serve", replaced)


def wait_full(cell, count=WORKERS):
    wait_until(f"{count} workers serve", lambda: len(cell.server.workers()) >= count)


def freeze(pid):
    """Stops a process, so that what it holds can be counted."""
    os.kill(pid, signal.SIGSTOP)
    wait_until_frozen(pid)


def wait_until_frozen(pid):
    def stopped():
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            raise Trouble("a worker that is to be frozen was ended by its master") from None
        states = [read(f"/proc/{pid}/task/{task}/stat").rpartition(")")[2].split()[:1] for task in tasks]
        return all(state in (["T"], []) for state in states)

    wait_until("a worker is frozen", stopped)


@event("none", "nothing")
def nothing(cell):
    pass


@event("hup", "HUP ×{n}")
def hup(cell):
    for _ in cell.times(20, 4):
        old = cell.server.workers()
        cell.server.reload()
        wait_replaced(cell, old)


@event("chain", "chain reload ×{n}", needs=["fifo"], settings={"uwsgi": {"lazy-apps": "true"}})
def chain(cell):
    for _ in cell.times(5, 1):
        old = cell.server.workers()
        cell.server.fifo("c")
        wait_replaced(cell, old)


@event("upgrade", "upgrade (SIGUSR2) ×{n}", needs=["upgrade"])
def upgrade(cell):
    for _ in cell.times(10, 2):
        old = cell.server.workers()
        count = read(cell.server.log).count("has taken the place of")
        os.kill(cell.server.pid, signal.SIGUSR2)
        wait_until("the program has changed", lambda: read(cell.server.log).count("has taken the place of") > count)
        wait_replaced(cell, old)


@event(
    "recycle",
    "`max-requests = 200` all through",
    settings={"max-requests": "200", "min-worker-lifetime": "0", "gunicorn": ["--max-requests", "200"]},
)
def recycle(cell):
    before = cell.memory
    wait_until("the load is done", lambda: cell.is_loaded(), 900)
    if min(cell.total("processes").values()) < 8:
        raise Trouble("the workers were not recycled")
    grown = cell.server_memory() - before
    cell.note(f"the master grew by {grown} KiB")
    if cell.server.name == "rsgi" and grown > 1024:
        raise Trouble(f"the master grew by {grown} KiB")


@event(
    "cheaper",
    "one worker less, one more ×{n}",
    settings={"cheaper": "1", "cheaper-initial": "4", "cheaper-algo": "spare", "cheaper-overload": "1000"},
)
def cheaper(cell):
    server = cell.server
    more, less = (("+", "-") if hasattr(server, "fifo") else (signal.SIGTTIN, signal.SIGTTOU))
    tell = server.fifo if hasattr(server, "fifo") else lambda number: os.kill(server.pid, number)
    for _ in cell.times(10, 3):
        tell(less)
        wait_until("a worker has gone", lambda: len(server.workers()) < WORKERS)
        tell(more)
        wait_full(cell)


@event("restart", "TERM, then a new start on the same sockets ×{n}", restarts=True)
def restart(cell):
    for _ in cell.times(5, 2):
        cell.server.stop()
        cell.start_again()


@event("group-term", "TERM to the process group, new start ×{n}", restarts=True)
def group_term(cell):
    for _ in cell.times(5, 1):
        cell.server.stop(signal.SIGTERM, group=True)
        cell.start_again()


@event("group-int", "INT to the process group, new start ×{n}", restarts=True)
def group_int(cell):
    for _ in cell.times(5, 1):
        cell.server.stop(signal.SIGINT, group=True)
        cell.start_again()


@event("own-sockets", "TERM with sockets of its own (lost, not refused)", settings={"own-sockets": True, "vacuum": "true"})
def own_sockets(cell):
    cell.wait_progress(0.5)
    cell.server.stop()
    cell.counts_refused = False
    cell.word = "enough"


@event("kill-worker", "`kill -9` of a worker ×{n}")
def kill_worker(cell):
    for _ in cell.times(5, 2):
        wait_full(cell)
        pid = random.choice(cell.server.workers())
        freeze(pid)
        cell.allow(sockets(pid) - cell.sockets)
        os.kill(pid, signal.SIGKILL)
        wait_until("it is replaced", lambda: pid not in cell.server.workers() and len(cell.server.workers()) >= WORKERS)


@event("segv", "SEGV in a C extension ×{n}")
def segv(cell):
    for _ in cell.times(5, 2):
        wait_full(cell)
        pid = int(cell.inside("segv"))
        wait_until_frozen(pid)
        # Another thread may take one in between the two.
        cell.allow(sockets(pid) - cell.sockets + 2)
        os.kill(pid, signal.SIGCONT)
        wait_until("it is replaced", lambda: not lives(pid) and len(cell.server.workers()) >= WORKERS)


@event("kill-zygote", "`kill -9` of the zygote ×{n}", needs=["zygote"])
def kill_zygote(cell):
    for _ in cell.times(5, 2):
        old = wait_until("there is a zygote", cell.server.zygote)
        os.kill(old, signal.SIGKILL)
        wait_until("there is another zygote", lambda: cell.server.zygote() not in (None, old))
    old = cell.server.workers()
    cell.server.reload()
    wait_replaced(cell, old)


@event("kill-master", "`kill -9` of the master, new start ×{n}", restarts=True)
def kill_master(cell):
    for _ in cell.times(5, 1):
        os.kill(cell.server.pid, signal.SIGKILL)
        cell.server.process.wait()
        if cell.server.name == "rsgi":
            wait_until("no process is left", lambda: not group_of(cell.server.group))
        cell.start_again()


@event("broken", "import error on reload, then a good one ×{n}")
def broken(cell):
    for _ in cell.times(3, 1):
        flag = cell.folder / "broken"
        flag.touch()
        count = read(cell.server.log).count("broken on purpose")
        old = cell.server.workers()
        cell.server.reload()
        wait_until("the import has failed", lambda: read(cell.server.log).count("broken on purpose") > count)
        cell.wait_progress(0.1)
        flag.unlink()
        if cell.server.name == "rsgi":
            wait_until("the reload is given up", lambda: sorted(old) == sorted(cell.server.workers()))
        if cell.server.process.poll() is not None:
            raise Trouble("the server ended")
        cell.server.reload()
        wait_replaced(cell, old)


@event(
    "stuck",
    "a worker stuck in C (`harakiri = 2`) ×{n}",
    settings={"harakiri": "2", "harakiri-graceful-timeout": "1", "gunicorn": ["--timeout", "2"]},
)
def stuck(cell):
    for _ in cell.times(3, 1):
        wait_full(cell)
        pid = int(cell.inside("stuck"))
        wait_until("it is replaced", lambda: not lives(pid) and len(cell.server.workers()) >= WORKERS)


def no_log(cell):
    cell.server.sink = "/dev/full"


@event("log-full", "no room for the log, HUP ×{n}", prepare=no_log)
def log_full(cell):
    for _ in cell.times(3, 1):
        old = cell.server.workers()
        cell.server.reload()
        wait_replaced(cell, old)


def few_descriptors(cell):
    """Room for six connections beyond what the server needs for itself."""
    cell.server.start()
    cell.server.wait_ready()
    most = max(descriptors(pid) for pid in [cell.server.pid, *children(cell.server.pid), *cell.server.workers()])
    cell.server.stop()
    cell.server.limits.append((resource.RLIMIT_NOFILE, most + 10))


@event("emfile", "no descriptors (EMFILE) all through", prepare=few_descriptors)
def emfile(cell):
    wait_until("the load is done", lambda: cell.is_loaded(), 120)


# Nobody's: so no other process counts against its limit, and none of another run.
LONELY_USER = 60_000 + os.getpid() % 5_000
MOST_TASKS = 60


def as_lonely_user(*command):
    # It may read whatever the Python and the server lie in, and has no other privilege.
    right = "+dac_override"
    return [
        *("setpriv", f"--reuid={LONELY_USER}", "--clear-groups", f"--regid={LONELY_USER}"),
        *(f"--inh-caps=-all,{right}", f"--ambient-caps=-all,{right}", "--", *command),
    ]


def lonely_user(cell):
    shutil.chown(cell.folder, LONELY_USER)
    cell.server.wrapper = as_lonely_user()
    cell.server.limits.append((resource.RLIMIT_NPROC, MOST_TASKS))


class Crowd:
    """As many threads of that user as it may have, so that it can have no process more."""

    CODE = f"""
import sys, threading
for _ in range({MOST_TASKS}):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("full", flush=True)
sys.stdin.read()
"""

    def __enter__(self):
        command = as_lonely_user(sys.executable, "-c", self.CODE)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"full\n":
            raise Trouble("the user cannot be given threads")

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@event("eagain", "fork fails (EAGAIN) after a `kill -9`, HUP ×{n}", needs=["root"], prepare=lonely_user)
def eagain(cell):
    server = cell.server
    for _ in cell.times(3, 1):
        wait_full(cell)
        with Crowd():
            pid = random.choice(server.workers())
            freeze(pid)
            cell.allow(sockets(pid) - cell.sockets)
            os.kill(pid, signal.SIGKILL)
            wait_until("it is missed", lambda: pid not in server.workers())
            count = read(server.log).count("cannot be forked")
            server.reload()
            if server.name == "rsgi":
                wait_until("the reload fails", lambda: read(server.log).count("cannot be forked") > count)
            cell.wait_progress(0.1)
        wait_full(cell)
        old = server.workers()
        server.reload()
        wait_replaced(cell, old)


def own_clock(cell):
    library = cell.folder / "clock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, HERE / "clock.c"], check=True)
    (cell.folder / "offset").write_bytes(bytes(8))
    cell.server.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(cell.folder / "offset")}


@event(
    "clock",
    "the wall clock jumps by a day and back ×{n}",
    settings={"harakiri": "20", "max-worker-lifetime": "3600", "gunicorn": ["--timeout", "20"]},
    prepare=own_clock,
)
def clock(cell):
    old = sorted(cell.server.workers())
    for number in cell.times(6, 4):
        offset = (86400, 0, -86400, 0)[number % 4]
        # In place: it is mapped.
        with open(cell.folder / "offset", "r+b") as file:
            file.write(offset.to_bytes(8, "little", signed=True))
        cell.wait_progress(0.1)
    if sorted(cell.server.workers()) != old:
        raise Trouble("workers were replaced")
    cell.server.reload()
    wait_replaced(cell, old)


@event("cycles", "stop and start ×{n}", restarts=True)
def cycles(cell):
    for _ in cell.times(1000, 3):
        cell.server.stop()
        cell.server.start()
        cell.server.wait_ready()
