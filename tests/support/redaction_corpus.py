"""Command lines with and without secrets, as they are found on hosts."""

from pathlib import Path

_FOLDER = Path(__file__).with_name("redaction")
_PROGRAMS = ("nginx", "caddy", "prometheus", "node-exporter", "etcd", "envoy", "traefik", "haproxy", "vector")
_FORMS = (
    "/usr/bin/{0} --version",
    "{0} --help",
    "{0} -v --config /etc/{0}/config.toml",
    "{0} start --port 8080 --workers 4",
    "{0} --log-level=info --listen=0.0.0.0:9090",
    "{0} -c /etc/{0}.conf -p /run/{0}.pid",
    "{0} --url=https://example.com:8443/path?page=2&sort=name",
    "{0} -p8080 -h 10.0.0.1 run",
    "{0} --input=/var/lib/{0}/data.db --output=/tmp/out.json",
    "{0} --timeout 30s --retries=3 --dry-run",
)


def secret_lines() -> list[tuple[str, str, str]]:
    """Return kind, secret and command line."""
    rows = [line.split(" | ", 2) for line in _lines("secrets.txt")]
    return [(kind, secret, line) for kind, secret, line in rows]


def harmless_lines() -> list[str]:
    """Return command lines in which there is nothing to hide."""
    return [form.format(program) for program in _PROGRAMS for form in _FORMS] + _lines("harmless.txt")


def _lines(name: str) -> list[str]:
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
