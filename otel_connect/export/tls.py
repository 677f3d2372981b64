"""Certificates: read once, checked to be usable, and looked at again because they change on disk.

What is read here is kept in memory. A connection that is made later never reads a file, so a file that is
half-written or gone at that moment does no harm.
"""

import os
import ssl
from pathlib import Path

from urllib3.util.ssl_ import create_urllib3_context

from otel_connect.config import Protocol
from otel_connect.config.files import PEM_BYTES, check_file, read_file
from otel_connect.errors import ConfigError
from otel_connect.export.endpoint import Endpoint

Stamp = tuple[tuple[int, ...] | None, ...]
"""What tells that a file is not the one it was; ``None`` for one that cannot be looked at."""


_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name the authorities to trust; widely set in images whose network has an authority of its own."""


def has_files(endpoint: Endpoint) -> bool:
    """Whether the way there depends on certificate files."""
    return endpoint.secure and any(_paths(endpoint))


def stamp(endpoint: Endpoint) -> Stamp:
    """Look at the files without reading them."""
    return tuple(None if path is None else _look_at(path) for path in _paths(endpoint))


def file_problems(endpoint: Endpoint) -> list[str]:
    """Read the certificates as TLS will; one line for each that is missing, unreadable or not PEM, with what set it."""
    if not endpoint.secure:
        return []
    problems = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    name, authority = _authority(endpoint)
    if authority is not None:
        try:
            _trust(context, authority, directory=endpoint.certificate is None)
        except OSError as error:
            problems.append(_file_problem("certificate", f"{name}: {authority}", error))
    if endpoint.client_certificate is not None:
        try:
            for path in filter(None, (endpoint.client_certificate, endpoint.client_key)):
                check_file(path, PEM_BYTES)
            # The empty password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(endpoint.client_certificate, endpoint.client_key, password="")
        except OSError as error:
            both = f"{endpoint.name('client_certificate')}: {endpoint.client_certificate}, {endpoint.client_key}"
            problems.append(_file_problem("client certificate and key", both, error))
    return problems


def client_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Read the files for HTTP; without an authority of its own the usual ones are trusted. Raises ConfigError."""
    if problems := file_problems(endpoint):
        raise ConfigError(problems)
    try:
        context = usual_context() if endpoint.certificate is None else create_urllib3_context()
        if endpoint.certificate is not None:
            _trust(context, endpoint.certificate)
        if endpoint.client_certificate is not None:
            context.load_cert_chain(endpoint.client_certificate, endpoint.client_key, password="")
    except OSError as error:  # changed since it was checked
        raise ConfigError([f"certificates: cannot be read ({error})"]) from error
    return context


def usual_context() -> ssl.SSLContext:
    """Trust the usual authorities; raises OSError when they cannot be read."""
    context = create_urllib3_context()
    _trust(context, _usual_authority()[1], directory=True)
    return context


def read_files(endpoint: Endpoint) -> tuple[bytes | None, ...]:
    """Read the authority, the client's certificate and its key; ``None`` for what is not named. Raises ConfigError."""
    if problems := file_problems(endpoint):
        raise ConfigError(problems)
    try:
        return tuple(None if path is None else read_file(path, PEM_BYTES) for path in _paths(endpoint))
    except OSError as error:  # changed since it was checked
        raise ConfigError([f"certificates: cannot be read ({error})"]) from error


def _paths(endpoint: Endpoint) -> tuple[Path | None, ...]:
    return _authority(endpoint)[1], endpoint.client_certificate, endpoint.client_key


def _authority(endpoint: Endpoint) -> tuple[str, Path | None]:
    """Give what names the authority of an endpoint, and the authority; gRPC has the usual ones built in."""
    if endpoint.certificate is None and endpoint.protocol is not Protocol.GRPC:
        return _usual_authority()
    return endpoint.name("certificate"), endpoint.certificate


def _usual_authority() -> tuple[str, Path]:
    for name in _BUNDLES:
        if path := os.environ.get(name):
            return name, Path(path)
    from certifi import where  # noqa: PLC0415 - a megabyte, for those who need it

    return "certifi", Path(where())


def _trust(context: ssl.SSLContext, authority: Path, *, directory: bool = False) -> None:
    if directory and authority.is_dir():
        context.load_verify_locations(capath=authority)
    else:
        check_file(authority, PEM_BYTES)
        context.load_verify_locations(cafile=authority)


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _file_problem(what: str, place: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{place}: no usable {what}; give PEM files that belong together, the key not encrypted"
    return f"{place}: {what} cannot be read ({error.strerror}); name a readable file"
