"""A package index for SITE_FOLDER/packages, which anybody may upload to."""

import os

import pypiserver

FOLDER = os.path.join(os.environ["SITE_FOLDER"], "packages")
application = pypiserver.app(roots=[FOLDER], authenticate=[], password_file=".", disable_fallback=True)
