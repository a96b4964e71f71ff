"""The application that is mounted beside the shop."""

from flask import Flask, jsonify, request, url_for

application = Flask(__name__)


@application.get("/")
def index():
    return "the second application"


@application.get("/where")
def where():
    return jsonify(root=request.script_root, path=request.path, link=url_for("index"))
