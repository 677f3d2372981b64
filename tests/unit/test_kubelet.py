"""Asking a kubelet for its pods: over real sockets, with its token and its certificate."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_connect.enrich import kubelet
from otel_connect.enrich.enricher import Enricher
from otel_connect.enrich.kubelet import KubeletClient, NoAnswer, Pods
from otel_connect.enrich.peers import KnownPeers
from otel_connect.enrich.pods import Names
from otel_connect.enrich.processes import Lookups, Processes
from otel_connect.enrich.workloads import Workloads
from otel_connect.errors import ConfigError
from tests.support.collector import await_until
from tests.support.kubelet import ID, UID, serving
from tests.support.receiver import Certificates, make_certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_pods_are_asked_for_with_a_token_that_is_read_anew(tmp_path: Path, certificates: Certificates) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.server, certificates.server_key)
    token = tmp_path / "token"
    with serving(tls) as one:
        ask = KubeletClient(one.url, token, certificates.authority)
        for text in ("first\n", "sec\r\nond"):
            token.write_text(text, encoding="ascii")
            assert ask()[ID]["k8s.pod.name"] == "web-1"
    assert one.asked == [("/pods", "Bearer first"), ("/pods", "Bearer second")]


def test_a_kubelet_that_is_not_trusted_gets_no_token(tmp_path: Path, certificates: Certificates) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.server, certificates.server_key)
    (tmp_path / "token").write_text("secret", encoding="ascii")
    with serving(tls) as one, pytest.raises(NoAnswer, match="certificate"):
        KubeletClient(one.url, tmp_path / "token", certificates.stranger)()
    assert one.asked == []


@pytest.mark.parametrize(
    "answer",
    [(200, b"{"), (200, b"\xff"), (200, b"[" * 100_000), (401, b"Unauthorized"), (500, b""), (302, b"")],
    ids=["cut", "no text", "deep", "unauthorized", "error", "redirect"],
)
def test_what_is_no_answer_is_said_in_one_line(answer: tuple[int, bytes]) -> None:
    with serving() as one:
        one.answer = answer
        with pytest.raises(NoAnswer) as said:
            KubeletClient(one.url, None, None)()
    assert "\n" not in str(said.value)
    assert one.asked == [("/pods", None)]


def test_a_token_that_is_missing_or_a_kubelet_that_is_down_is_no_answer(tmp_path: Path) -> None:
    with serving() as one, pytest.raises(NoAnswer, match="token"):
        KubeletClient(one.url, tmp_path / "token", None)()
    with pytest.raises(NoAnswer, match="refused"):
        KubeletClient(one.url, None, None)()


def test_a_certificate_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"enrich\.kubelet_certificate: .*none\.pem"):
        KubeletClient("https://127.0.0.1:10250", None, tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("bad", encoding="ascii")
    with pytest.raises(ConfigError, match=r"enrich\.kubelet_certificate: .*bad\.pem"):
        KubeletClient("https://127.0.0.1:10250", None, tmp_path / "bad.pem")


class Answers:
    """Gives answers in order, the last of them for ever, and counts."""

    def __init__(self, *answers: Names | NoAnswer) -> None:
        self._answers = answers
        self.given = 0

    def __call__(self) -> Names:
        answer = self._answers[min(self.given, len(self._answers) - 1)]
        self.given += 1
        if isinstance(answer, NoAnswer):
            raise answer
        return answer


def asking() -> bool:
    return any(thread.name == "kubelet" for thread in threading.enumerate())


@contextmanager
def knowing(ask: Callable[[], Names]) -> Iterator[Pods]:
    pods = Pods(ask, refresh_s=0.05, at_least_s=0.01)
    try:
        yield pods
    finally:
        pods.close(30)
        assert not asking()


def test_nothing_is_asked_before_a_container_is_seen() -> None:
    answers = Answers({})
    with knowing(answers) as pods:
        assert pods.of(None, None) == {}
    assert answers.given == 0


def test_a_container_is_known_a_little_later_and_by_its_pod() -> None:
    with knowing(Answers({ID: {"a": "container"}, UID: {"a": "pod"}})) as pods:
        assert await_until(lambda: pods.of(ID, UID)) == {"a": "container"}
        assert pods.of("ab" * 32, UID) == {"a": "pod"}
        assert pods.of("ab" * 32, None) == {}


def test_a_kubelet_that_does_not_answer_is_asked_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", kubelet.__name__)
    answers = Answers({}, NoAnswer("down"), NoAnswer("down"), NoAnswer("down"), {ID: {"a": "b"}})
    with knowing(answers) as pods:
        await_until(lambda: pods.of(ID, None))
    assert caplog.messages == ["no names of pods from the kubelet: down", "the kubelet answers again"]
    assert answers.given >= 5


def enriching(pods: Pods) -> Enricher:
    workloads = Workloads(lambda _pid, _start: None, 16, pods.of)
    return Enricher(Processes(Lookups(), lambda _uid: None, 16), workloads, KnownPeers(()), pods=pods)


def test_an_enricher_that_is_closed_asks_no_more() -> None:
    answers = Answers({})
    pods = Pods(answers, refresh_s=60, at_least_s=0.01)
    pods.of(ID, UID)
    await_until(lambda: answers.given)
    enriching(pods).close(30)
    assert not asking()
    given = answers.given
    pods.of(ID, UID)
    assert answers.given == given


def test_a_kubelet_that_keeps_silent_is_not_waited_for_long_and_its_answer_is_the_last() -> None:
    begun, answer = threading.Event(), threading.Event()
    silences = []

    def keep_silent() -> Names:
        silences.append(1)
        begun.set()
        answer.wait()
        return {}

    with knowing(keep_silent) as pods:
        pods.of(ID, UID)
        begun.wait()
        enriching(pods).close()
        enriching(pods).close(0.05)
        assert asking()
        answer.set()
    assert len(silences) == 1
