"""TLS and mounts that the front end makes: each speaks https with its clients, and has the site below `/front` by the lines that
configs/README.md gives. https arrives at the application over each protocol, and SCRIPT_NAME and PATH_INFO are right."""

import http.client
import json
import shutil
import socket
import ssl
import subprocess

import pytest

from frontends import CONFIGS, HOST, KINDS, ROWS, Lighttpd, installed, rsgi_for
from support import open_folder

#: How each listens with TLS: of what stands in its file, what takes the place of the line that listens.
TLS = {
    "nginx": "listen 127.0.0.1:{port} ssl;\n    ssl_certificate {pem};\n    ssl_certificate_key {pem};",
    "Apache": "Listen 127.0.0.1:{port}\n<VirtualHost *:{port}>\n    SSLEngine on\n    SSLCertificateFile {pem}",
    "HAProxy": "bind 127.0.0.1:{port} ssl crt {pem}",
    "lighttpd": 'server.modules += ( "mod_openssl" )\nssl.engine = "enable"\nssl.pemfile = "{pem}"\n' + Lighttpd.on_port,
    "Caddy": "https://" + HOST + ":{port} {{\n\tbind 127.0.0.1\n\ttls {pem} {pem}",
    "nghttpx": "frontend=127.0.0.1,{port}\nprivate-key-file={pem}\ncertificate-file={pem}",
}

#: The site below /front: the line that it goes before, and what the README says.
MOUNTS = {
    ("nginx", "uwsgi"): """\
    location ~ ^/front(/|$) {
        include uwsgi_params;
        uwsgi_param SCRIPT_NAME /front;
        uwsgi_modifier1 30;
        uwsgi_pass unix:/run/site/rsgi.sock;
    }
""",
    ("nginx", "FastCGI"): """\
    location ~ ^/front(/|$) {
        fastcgi_split_path_info ^(/front)(/.*)?$;
        include fastcgi_params;
        fastcgi_param PATH_INFO $fastcgi_path_info;
        fastcgi_keep_conn on;
        fastcgi_pass site;
    }
""",
    ("nginx", "SCGI"): """\
    location ~ ^/front(?<rest>/.*)?$ {
        include scgi_params;
        scgi_param SCRIPT_NAME /front;
        scgi_param PATH_INFO $rest;
        scgi_pass unix:/run/site/rsgi.sock;
    }
""",
    ("Apache", "uwsgi"): """\
    ProxyPass "/front" "unix:/run/site/rsgi.sock|uwsgi://localhost"
""",
    ("Apache", "FastCGI"): """\
    ProxyPass "/front" "unix:/run/site/rsgi.sock|fcgi://localhost"
""",
    ("Apache", "SCGI"): """\
    ProxyPass "/front" "unix:/run/site/rsgi.sock|scgi://localhost"
""",
    ("HAProxy", "FastCGI"): """\
    path-info ^(/front)(/.*)?$
""",
    ("lighttpd", "FastCGI"): """\
    $HTTP["url"] =~ "^/front(/|$)" {
        fastcgi.server = ( "/front" => ((
            "socket" => "/run/site/rsgi.sock",
            "check-local" => "disable"
        )) )
    }
""",
    ("lighttpd", "SCGI"): """\
    $HTTP["url"] =~ "^/front(/|$)" {
        scgi.server = ( "/front" => ((
            "socket" => "/run/site/rsgi.sock",
            "check-local" => "disable"
        )) )
    }
""",
    ("Caddy", "FastCGI"): """\
	@front path /front /front/*
	handle @front {
		uri strip_prefix /front
		reverse_proxy unix//run/site/rsgi.sock {
			transport fastcgi {
				env SCRIPT_NAME /front
			}
		}
	}
""",
}

#: What Apache says over uwsgi, which takes the end of a path that is nothing but the prefix for PATH_INFO.
SAID_BY_APACHE = {"/front": ("/front", "/")}

#: What each stands before in the file of configs/.
BEFORE = {
    "nginx": "    location / {",
    "Apache": '    ProxyPass "/"',
    "HAProxy": "    option keep-conn",
    "lighttpd": "server.stream-response-body",
    "Caddy": "\treverse_proxy unix",
}

TESTED = [row for row in ROWS if row.front in TLS and not row.edits]


def certificate(folder):
    """A key and a certificate of its own in one file."""
    pem = folder / "front.pem"
    words = [installed("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    words += ["-noenc", "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    made = subprocess.run([*words, "-keyout", "-", "-out", "-"], capture_output=True, check=True)
    pem.write_bytes(made.stdout)
    pem.chmod(0o644)
    return pem


def kind(row, pem):
    """The front end of a row, with TLS."""

    class Encrypted(KINDS[row.front]):
        on_port = TLS[row.front].replace("{pem}", str(pem))

        def prepare(self, row, folder, site):
            text = site.read_text()
            if row.front == "Apache":
                text = text.replace("a2enmod proxy ", "a2enmod proxy socache_shmcb ssl ")
            site.write_text(text)
            words = super().prepare(row, folder, site)
            if row.front == "Caddy":
                # Else it wants port 80 as well.
                site.write_text(site.read_text().replace("admin off\n", "admin off\n\tauto_https disable_redirects\n", 1))
            return words

    return Encrypted


class Site:
    def __init__(self, row):
        self.row = row
        self.folder = open_folder()
        (self.folder / "files").mkdir()
        pem = certificate(self.folder)
        self.tls = ssl.create_default_context(cafile=pem)
        mount = MOUNTS.get((row.front, row.protocol))
        # By SCRIPT_NAME it goes to the application that is mounted there.
        self.rsgi, upstream = rsgi_for(row, folder=self.folder, lines=["mount = /front=gateways:mounted"], allowed=())
        edits = ()
        if mount:
            edits = ((BEFORE[row.front], mount.replace("/run/site/rsgi.sock", str(upstream)) + BEFORE[row.front]),)
        try:
            row = type(row)(row.front, row.protocol, row.file, row.name, edits)
            self.front = kind(row, pem)(row, folder=self.folder, upstream=upstream)
        except BaseException:
            self.rsgi.kill()
            raise

    def ask(self, target, *fields):
        with socket.create_connection(self.front.address, timeout=30) as sock:
            with self.tls.wrap_socket(sock, server_hostname=HOST) as client:
                host = f"{HOST}:{self.front.port.number}"
                lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Connection: close", *fields]
                client.sendall("\r\n".join([*lines, "", ""]).encode())
                response = http.client.HTTPResponse(client)
                response.begin()
                body = response.read()
                assert response.status == 200, (response.status, body)
                return json.loads(body)

    def judge(self):
        try:
            self.front.judge()
        finally:
            self.rsgi.judge()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module", params=TESTED, ids=lambda row: f"{row.front}-{row.protocol}")
def site(request):
    site = Site(request.param)
    yield site
    site.judge()


def test_https(site):
    environ = site.ask("/page")
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    if site.row.protocol != "HTTP":
        assert environ["HTTPS"] == "on"
        assert environ["SERVER_PORT"] == str(site.front.port.number)


def test_nobody_takes_https_away(site):
    environ = site.ask("/page", "X-Forwarded-Proto: http", "Forwarded: proto=http", "Https: off", "X-Forwarded-Ssl: off")
    assert environ["wsgi.url_scheme"] == "https"


BELOW = [
    ("/front/x%20y?q", "/front", "/x y", "q"),
    ("/front/", "/front", "/", ""),
    ("/front", "/front", "", ""),
    ("/front/a%2fb/c+d", "/front", "/a/b/c+d", ""),
    ("/frontal/x", "", "/frontal/x", ""),
    ("/other/front/x", "", "/other/front/x", ""),
    ("/", "", "/", ""),
]


@pytest.mark.parametrize("target, script_name, path_info, query", BELOW)
def test_below_a_path(site, target, script_name, path_info, query):
    if (site.row.front, site.row.protocol) not in MOUNTS:
        # Over HTTP a front end can only take the prefix off; what the site is called there is rsgi's matter (`mount`).
        return
    environ = site.ask(target)
    assert (environ.get("gateways.mounted") == "yes") == (script_name == "/front")
    if (site.row.front, site.row.protocol) == ("Apache", "uwsgi"):
        script_name, path_info = SAID_BY_APACHE.get(target, (script_name, path_info))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == (script_name, path_info, query)


def test_the_lines_are_those_of_the_readme():
    readme = (CONFIGS / "README.md").read_text()
    assert all(lines in readme for lines in MOUNTS.values())
