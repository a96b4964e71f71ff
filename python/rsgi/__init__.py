"""rsgi serves Python WSGI applications, configured by uWSGI's ini files.

The server is the ``rsgi`` command (or ``python -m rsgi``). An application may limit the time of the request that it serves
(``set_user_harakiri``), and catch what ends a request that is late (``HarakiriError``).
"""

from rsgi._rsgi import HarakiriError, __version__, main, set_user_harakiri

__all__ = ["HarakiriError", "__version__", "main", "set_user_harakiri"]
