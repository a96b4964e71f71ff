"""A Flask application: streaming, JSON, uploads."""

import hashlib
import os
import time

from flask import Flask, Response, jsonify, request

application = Flask(__name__)
FOLDER = os.environ.get("SITE_FOLDER", ".")


@application.get("/")
def index():
    return "the shop"


@application.get("/stream/<name>")
def stream(name):
    def parts():
        yield "first part\n"
        # Goes on only when the client has seen the first part and says so.
        while not os.path.exists(os.path.join(FOLDER, name)):
            time.sleep(0.01)
        for number in range(1000):
            yield f"part {number}\n"

    return Response(parts(), mimetype="text/plain", headers={"X-Accel-Buffering": "no"})


@application.post("/json")
def json():
    order = request.get_json()
    return jsonify(items=len(order["items"]), total=sum(item["price"] for item in order["items"]))


@application.post("/upload")
def upload():
    file = request.files["file"]
    content = file.read()
    return jsonify(name=file.filename, note=request.form["note"], bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@application.get("/where")
def where():
    return jsonify(root=request.script_root, path=request.path, url=request.url, address=request.remote_addr, scheme=request.scheme)


@application.get("/pid")
def pid():
    return str(os.getpid())


@application.errorhandler(404)
def nothing(error):
    return f"nothing at {request.path}", 404
