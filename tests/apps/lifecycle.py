"""Leaves lines in TEST_FOLDER/notes about its own life: import, background thread, atexit."""

import atexit
import os
import threading

FOLDER = os.environ.get("TEST_FOLDER", ".")


def note(text):
    with open(os.path.join(FOLDER, "notes"), "a") as file:
        file.write(f"{text} {os.getpid()}\n")


note("imported")
atexit.register(note, "atexit")
STARTED = threading.Event()


def background():
    note("background")
    STARTED.set()
    while not os.path.exists(os.path.join(FOLDER, "tick")):
        STARTED.wait(0.01)
        threading.Event().wait(0.005)
    note("ticked")


def application(environ, start_response):
    if environ["PATH_INFO"] == "/background":
        threading.Thread(target=background, daemon=True).start()
        STARTED.wait()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
