#!/bin/sh
# A site as a CGI program, for hosts that have nothing else: each request starts Python and imports the application.
# The ini file may be that of a server; its sockets, processes and limits of time mean nothing here.
# Never pass "$@" on: web servers put words of the query there.
exec rsgi --cgi --ini /srv/site/site.ini
