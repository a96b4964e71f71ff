"""The front ends that rsgi is proven behind: how each is started with its file from configs/, other paths and another port."""

import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass

from support import PACKAGE, Process, Rsgi, need

CONFIGS = PACKAGE / "configs"
SITES = PACKAGE / "tests/python/sites"
HOST = "site.example"


@dataclass(frozen=True)
class Row:
    """A front end, a protocol, and which lines of its file differ."""

    front: str
    protocol: str
    file: str
    name: str
    edits: tuple = ()

    def note(self, case):
        """Which of the notes says how this case differs here."""
        return DEVIATIONS.get((self.front, self.protocol), {}).get(case)


UPSTREAM_KEPT = (("    keepalive 16;\n", ""),)

ROWS = [
    Row("nginx", "HTTP", "nginx/http.conf", "proxy_pass"),
    Row(
        "nginx",
        "HTTP",
        "nginx/http.conf",
        "proxy_pass, without keepalive",
        UPSTREAM_KEPT + (("proxy_http_version 1.1;\n", ""), ('proxy_set_header Connection "";\n', "")),
    ),
    Row("nginx", "HTTP", "nginx/http.conf", "proxy_pass, unbuffered", (("# proxy_request", "proxy_request"),)),
    Row("nginx", "uwsgi", "nginx/uwsgi.conf", "uwsgi_pass"),
    Row("nginx", "uwsgi", "nginx/uwsgi.conf", "uwsgi_pass, unbuffered", (("# uwsgi_request", "uwsgi_request"),)),
    Row("nginx", "FastCGI", "nginx/fastcgi.conf", "fastcgi_pass"),
    Row(
        "nginx",
        "FastCGI",
        "nginx/fastcgi.conf",
        "fastcgi_pass, keep_conn off",
        UPSTREAM_KEPT + (("fastcgi_keep_conn on;", "fastcgi_keep_conn off;"),),
    ),
    Row("nginx", "FastCGI", "nginx/fastcgi.conf", "fastcgi_pass, unbuffered", (("# fastcgi_request", "fastcgi_request"),)),
    Row("nginx", "SCGI", "nginx/scgi.conf", "scgi_pass"),
    Row("Apache", "HTTP", "apache/http.conf", "mod_proxy_http"),
    Row("Apache", "uwsgi", "apache/uwsgi.conf", "mod_proxy_uwsgi"),
    Row("Apache", "FastCGI", "apache/fastcgi.conf", "mod_proxy_fcgi"),
    Row("Apache", "SCGI", "apache/scgi.conf", "mod_proxy_scgi"),
    Row("HAProxy", "HTTP", "haproxy/http.cfg", "HTTP"),
    Row("HAProxy", "FastCGI", "haproxy/fastcgi.cfg", "fcgi-app"),
    Row("lighttpd", "HTTP", "lighttpd/http.conf", "mod_proxy"),
    Row("lighttpd", "FastCGI", "lighttpd/fastcgi.conf", "mod_fastcgi"),
    Row("lighttpd", "SCGI", "lighttpd/scgi.conf", "mod_scgi"),
    Row("Caddy", "HTTP", "caddy/http.Caddyfile", "reverse_proxy"),
    Row("Caddy", "FastCGI", "caddy/fastcgi.Caddyfile", "transport fastcgi"),
    Row("nghttpx", "HTTP", "nghttpx/nghttpx.conf", "HTTP/2 in front"),
]


#: The columns of the table, and the tests in test_frontends.py that they stand for.
CASES = {
    "GET": "get",
    "POST": "post",
    "20 MB up": "upload",
    "20 MB down": "download",
    "30 KB of fields": "fields",
    "streaming": "streaming",
    "empty body": "empty",
    "304": "not_modified",
    "HEAD": "head",
    "client leaves": "abort",
    "413": "too_large",
    "500": "error",
    "chunked upload": "chunked_upload",
    "paths, mount": "paths",
    "variables": "variables",
    "lies about the client": "lies",
    "file by the front end": "send_file",
    "2,000 requests": "load",
    "reload": "reload",
}

#: What a front end does otherwise, whatever stands behind it: (front, protocol) to case to note. The tests hold these too.
DEVIATIONS = {
    ("nginx", "uwsgi"): {"variables": "a"},
    ("nginx", "FastCGI"): {"variables": "a"},
    ("nginx", "SCGI"): {"variables": "a"},
    ("Apache", "HTTP"): {"paths": "b"},
    ("Apache", "uwsgi"): {"paths": "b", "chunked_upload": "c"},
    ("Apache", "SCGI"): {"chunked_upload": "c"},
    ("HAProxy", "FastCGI"): {"chunked_upload": "d", "too_large": "e"},
    ("lighttpd", "HTTP"): {"paths": "f", "send_file": "g"},
    ("lighttpd", "FastCGI"): {"paths": "f"},
    ("lighttpd", "SCGI"): {"paths": "f"},
    ("nghttpx", "HTTP"): {"paths": "f", "lies": "h"},
}

#: Notes of what does not work at all.
LOST = ("c", "g")


def table():
    """The table for configs/README.md."""
    lines = ["| front end | protocol | file | " + " | ".join(CASES) + " |"]
    lines.append("|" + "---|" * (3 + len(CASES)))
    for row in ROWS:
        notes = [row.note(case) for case in CASES.values()]
        cells = [f"{'no' if note in LOST else 'yes'} ({note})" if note else "yes" for note in notes]
        lines.append(f"| {row.front}: {row.name} | {row.protocol} | `{row.file}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def installed(name, package):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    need(path, f"{name} is missing; install the package {package}")
    return path


class Port:
    """A port that is ours until it is closed: bound, not listened on. Servers may bind it too (SO_REUSEADDR), while
    the kernel gives it to nobody who asks for any."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.number = self.sock.getsockname()[1]

    def close(self):
        self.sock.close()


class FrontEnd(Process):
    """A front end on a port of its own."""

    #: What must be in its file to be replaced: the place it listens on.
    listens = "listen 80;"
    on_port = "listen 127.0.0.1:{port};"
    #: Texts of log lines that must not be.
    bad = ()
    exit_codes = (0,)

    def __init__(self, row, *, folder, upstream):
        self.port = Port()
        text = (CONFIGS / row.file).read_text()
        for old, new in (
            (self.listens, self.on_port.format(port=self.port.number)),
            ("/run/site/rsgi.sock", str(upstream)),
            *row.edits,
        ):
            assert old in text, f"{old!r} is not in {row.file}"
            text = text.replace(old, new)
        text = text.replace("/srv/site/files", str(folder / "files")).replace("/srv/site", str(folder))
        site = folder / "site.conf"
        site.write_text(text)
        words = self.prepare(row, folder, site)
        home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        super().__init__(words, folder=folder, env=home)
        self.address = ("127.0.0.1", self.port.number)
        self.wait_until_serving(self.address)

    def prepare(self, row, folder, site):
        """Writes what is around the site's file; the words of the command."""
        raise NotImplementedError

    def judge(self):
        code = self.stop()
        self.port.close()
        assert code in self.exit_codes, f"exit code {code}:\n{self.log()}"
        for line in self.log().splitlines():
            assert not any(word in line for word in self.bad), f"unexpected in the log: {line}\n{self.log()}"


class Nginx(FrontEnd):
    bad = ("[error]", "[crit]", "[alert]", "[emerg]")

    def prepare(self, row, folder, site):
        # The parameter files of the distribution, as they are.
        text = site.read_text()
        for name in ("uwsgi_params", "fastcgi_params", "scgi_params"):
            text = text.replace(f"include {name};", f"include /etc/nginx/{name};")
        inside = f"    location /internal/ {{ internal; alias {folder}/files/; }}\n}}\n"
        site.write_text(text.rstrip().removesuffix("}") + inside)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        conf = folder / "nginx.conf"
        conf.write_text(
            f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n"
            + ("user www-data;\n" if os.geteuid() == 0 else "")
            + f"events {{}}\nhttp {{\n    access_log off;\n{temporary}    include {site};\n}}\n"
        )
        return [installed("nginx", "nginx"), "-p", folder, "-c", conf, "-e", "stderr"]


class Apache(FrontEnd):
    listens = "<VirtualHost *:80>"
    on_port = "Listen 127.0.0.1:{port}\n<VirtualHost *:{port}>"
    bad = ("[core:error]", "[core:emerg]", "AH00052", ":crit]", ":alert]", ":emerg]")

    def prepare(self, row, folder, site):
        modules = ["mpm_event", "authz_core", "env", "proxy"]
        modules += site.read_text().split("a2enmod proxy ")[1].split("`")[0].split()
        conf = folder / "apache.conf"
        conf.write_text(
            f'ServerRoot "{folder}"\nPidFile "{folder}/apache.pid"\nDefaultRuntimeDir "{folder}"\nErrorLog /dev/stderr\n'
            + "".join(f"Include /etc/apache2/mods-available/{module}.load\n" for module in modules)
            + ("User www-data\nGroup www-data\n" if os.geteuid() == 0 else "")
            # A process of Apache's with a connection in each of its threads ends those that are kept, and one that is too much ends
            # with all of its own: more threads than clients, and as many as there may be.
            + "StartServers 1\nThreadsPerChild 64\nMaxRequestWorkers 128\nMinSpareThreads 16\nMaxSpareThreads 128\n"
            + f"ServerName localhost\nInclude {site}\n"
        )
        return [installed("apache2", "apache2"), "-DFOREGROUND", "-d", folder, "-f", conf]


class Haproxy(FrontEnd):
    listens = "bind :80"
    on_port = "bind 127.0.0.1:{port}"
    bad = ("[ALERT]",)
    exit_codes = (0, -15, 143)

    def prepare(self, row, folder, site):
        return [installed("haproxy", "haproxy"), "-db", "-f", site]


class Lighttpd(FrontEnd):
    # 1 when a client was still there.
    exit_codes = (0, 1)
    listens = "server.modules"
    on_port = 'server.bind = "127.0.0.1"\nserver.port = {port}\nserver.modules'

    def prepare(self, row, folder, site):
        debian = open("/etc/lighttpd/lighttpd.conf").read()
        options = debian[debian.index("server.http-parseopts") :]
        conf = folder / "lighttpd.conf"
        (folder / "uploads").mkdir()
        (folder / "uploads").chmod(0o777)
        conf.write_text(
            f'server.document-root = "{folder}/files"\nserver.upload-dirs = ( "{folder}/uploads" )\n'
            + ('server.username = "www-data"\nserver.groupname = "www-data"\n' if os.geteuid() == 0 else "")
            # Debian's rules for what a path may look like.
            + options[: options.index("\n)\n") + 3]
            + f'include "{site}"\n'
        )
        return [installed("lighttpd", "lighttpd"), "-D", "-f", conf]


class Caddy(FrontEnd):
    listens = f"http://{HOST} {{"
    on_port = f"http://{HOST}:{{port}} {{{{\n\tbind 127.0.0.1"
    bad = ('"level":"panic"', '"level":"fatal"')

    def prepare(self, row, folder, site):
        text = "{\n\tadmin off\n}\n" + site.read_text()
        site.write_text(text)
        return [installed("caddy", "caddy"), "run", "--config", site, "--adapter", "caddyfile"]


class Nghttpx(FrontEnd):
    listens = "frontend=*,80;no-tls"
    on_port = "frontend=127.0.0.1,{port};no-tls"
    bad = ("FATAL",)
    stop_signal = signal.SIGQUIT

    def prepare(self, row, folder, site):
        return [installed("nghttpx", "nghttp2-proxy"), f"--conf={site}", f"--pid-file={folder}/nghttpx.pid"]


KINDS = {
    "nginx": Nginx,
    "Apache": Apache,
    "HAProxy": Haproxy,
    "lighttpd": Lighttpd,
    "Caddy": Caddy,
    "nghttpx": Nghttpx,
}

#: The option of rsgi that makes a socket speak the protocol.
SOCKETS = {"HTTP": "http-socket", "uwsgi": "socket", "FastCGI": "fastcgi-socket", "SCGI": "scgi-socket"}


def rsgi_for(row, *, folder, lines, allowed):
    upstream = folder / "rsgi.sock"
    common = [
        f"{SOCKETS[row.protocol]} = {upstream}",
        "chmod-socket = 666",
        *(["trusted-proxies = unix"] if row.protocol == "HTTP" else []),
        "vacuum = true",
        "need-app = true",
        f"home = {sys.prefix}",
        f"pythonpath = {SITES / 'gateways'}",
        f"env = GATEWAYS={folder / 'files'}",
        "module = gateways",
    ]
    rsgi = Rsgi(common + lines, folder=folder, allowed=allowed)
    try:
        rsgi.wait_until_serving(str(upstream))
    except BaseException:
        rsgi.kill()
        raise
    return rsgi, upstream


if __name__ == "__main__":
    print(table(), end="")
