"""A second application, mounted at /admin."""

from flask import Flask, request

app = Flask(__name__)


@app.get("/")
def index():
    return f"mounted at {request.script_root}"
