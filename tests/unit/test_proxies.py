"""Which proxy of the environment a request takes, as the documentation says and as other clients do."""

import os

import pytest
import requests.utils

from otel_connect.export.proxies import proxy_of

P, Q = "http://proxy.example:3128", "http://other.example:8080"
PLAIN, SECURE, ADDRESS = "http://collector.shop:4318/v1/logs", "https://collector.shop/v1/logs", "http://10.1.2.3:4318/"
IPV6 = "http://[fd00::7]:4318/v1/logs"

TABLE: list[tuple[str, dict[str, str], str | None]] = [
    (PLAIN, {}, None),
    (PLAIN, {"HTTP_PROXY": P}, P),
    (PLAIN, {"http_proxy": P}, P),
    (PLAIN, {"http_proxy": P, "HTTP_PROXY": Q}, P),
    (PLAIN, {"http_proxy": "", "HTTP_PROXY": Q}, None),
    (PLAIN, {"HTTPS_PROXY": P}, None),
    (SECURE, {"HTTPS_PROXY": P, "HTTP_PROXY": Q}, P),
    (SECURE, {"https_proxy": P}, P),
    (SECURE, {"HTTP_PROXY": P}, None),
    (SECURE, {"ALL_PROXY": P}, P),
    (PLAIN, {"all_proxy": P, "HTTP_PROXY": Q}, Q),
    (PLAIN, {"HTTP_PROXY": "http://user:secret@proxy.example:3128"}, "http://user:secret@proxy.example:3128"),
    *((url, {"ALL_PROXY": P, "NO_PROXY": "*"}, None) for url in (PLAIN, SECURE, ADDRESS, IPV6)),
    *(
        (PLAIN, {"HTTP_PROXY": P, "no_proxy": names}, None)
        for names in (
            "collector.shop",
            "COLLECTOR.shop",
            ".shop",
            "shop",
            "else, collector.shop",
            "collector.shop:4318",
            ",shop,",
        )
    ),
    *(
        (PLAIN, {"HTTP_PROXY": P, "NO_PROXY": names}, P)
        for names in ("", ",", "collector", "hop", "collector.shop:80", "10.0.0.0/8", "other.shop")
    ),
    (PLAIN, {"HTTP_PROXY": P, "NO_PROXY": "else", "no_proxy": "shop"}, None),
    (SECURE, {"HTTPS_PROXY": P, "NO_PROXY": "shop"}, None),
    *(
        (ADDRESS, {"HTTP_PROXY": P, "NO_PROXY": nets}, None)
        for nets in ("10.1.2.3", "10.0.0.0/8", "localhost, 10.1.0.0/16", "10.1.2.9/24", "10.1.2.3/32")
    ),
    *(
        (ADDRESS, {"HTTP_PROXY": P, "NO_PROXY": nets}, P)
        for nets in ("10.1.2.4", "11.0.0.0/8", "10.1.3.0/24", "10.1.2.3/33", "10.1.2.3/x", "/8", "fd00::/8")
    ),
    (IPV6, {"HTTP_PROXY": P, "NO_PROXY": "10.0.0.0/8"}, P),
    (IPV6, {"HTTP_PROXY": P, "NO_PROXY": "fd00::7"}, None),
    ("http://[::1]/", {"HTTP_PROXY": P, "NO_PROXY": "::1"}, None),
]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("url", "variables", "proxy"), TABLE)
def test_the_proxy_of_the_environment(
    url: str, variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy
    assert requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) == proxy


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        (PLAIN, {"HTTP_PROXY": "proxy.example:3128"}, P),
        (ADDRESS, {"HTTP_PROXY": P, "NO_PROXY": "10.1.2.3:4318"}, None),
        (ADDRESS, {"HTTP_PROXY": P, "NO_PROXY": "10.1.2.3:80"}, P),
        (IPV6, {"HTTP_PROXY": P, "NO_PROXY": "fd00::/8"}, None),  # what IPv4 can, IPv6 can
        (IPV6, {"HTTP_PROXY": P, "NO_PROXY": "fe80::/10"}, P),
    ],
)
def test_what_requests_reads_later_or_not_at_all(
    url: str, variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy
