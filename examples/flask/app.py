"""A Flask application with a page, a stream and an upload."""

import time

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/")
def index():
    return '<form method="post" action="upload" enctype="multipart/form-data"><input type="file" name="file"><button>Send</button></form>'


@app.get("/clock")
def clock():
    def ticks():
        for number in range(5):
            yield f"{number} {time.ctime()}\n"
            time.sleep(0.2)

    return Response(ticks(), mimetype="text/plain")


@app.post("/upload")
def upload():
    file = request.files["file"]
    return jsonify(name=file.filename, bytes=len(file.read()))
