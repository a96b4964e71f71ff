"""rsgi serves Python WSGI applications, configured by uWSGI's ini files.

The server is the ``rsgi`` command (or ``python -m rsgi``); there is nothing to import for an application.
"""

from rsgi._rsgi import __version__, main

__all__ = ["__version__", "main"]
