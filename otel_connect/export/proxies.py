"""Which proxy of the environment leads to a server: the variables that curl and most clients read."""

from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_of(url: str) -> str | None:
    """Return the URL of the proxy for this one; ``None`` without a variable for it, or if NO_PROXY names its host.

    Entries of NO_PROXY are names, which count for their subdomains, addresses, networks such as ``10.0.0.0/8``,
    each of the first two with or without a port, or ``*``.
    """
    proxies = getproxies()
    parts = urlsplit(url)
    host = parts.hostname or ""
    place = host if parts.port is None else f"{host}:{parts.port}"
    if proxy_bypass(place, proxies) or any(_contains(net, host) for net in proxies.get("no", "").split(",")):
        return None
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _contains(network: str, host: str) -> bool:
    with suppress(ValueError):  # a name
        return ip_address(host) in ip_network(network.strip(), strict=False)
    return False
