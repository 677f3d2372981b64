"""Make real connect attempts that end in every common way, for someone whose machine is quiet.

Run it while otel-connect watches in another terminal: every line printed here has its line there, with the
same outcome, peer and port. It is its own check: the exit code is 0 only if every attempt ended as it should.
Nothing leaves the machine, nothing on it is changed, and it takes about three seconds.

How the ends are made, all over loopback but the last:

established   A listener with room for one connection, which no one accepts: its queue stays full.
timed_out     The same listener: Linux drops a SYN for a full queue, and TCP_USER_TIMEOUT ends the wait.
abandoned     The same listener: the socket is closed while it waits.
superseded    Two families are dialled at once, as browsers do, and the slow one is closed after the fast one
              got through.
refused       A port that is bound, so that no one else gets it, but does not listen.
unreachable   A neighbour that answers neither ARP nor neighbour discovery, at the end of a virtual cable in
              a network namespace of its own; needs root, or user namespaces for everyone.
"""

import argparse
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PATIENCE_MS = 500  # TCP_USER_TIMEOUT is looked at when the SYN is sent again: after one second
GIVE_UP_S = 0.2
LONGEST_S = 10.0

WRONG = 4  # exit code of the part in the namespace, unlike any of unshare's own

# Addresses reserved for documentation: nobody's machines, should a packet ever escape.
CABLE = """\
link set lo up
link add demo0 type veth peer name demo1
addr add 192.0.2.1/24 dev demo0
link set demo0 up
link set demo1 up
"""
CABLE_IPV6 = "addr add 2001:db8::1/64 dev demo0 nodad\n"
DISCARD = 9


class Way(NamedTuple):
    """One way of making an attempt, and the addresses that go with its family."""

    name: str
    family: socket.AddressFamily
    blocking: bool
    loopback: str
    neighbour: str


class Address(NamedTuple):
    """Where an attempt goes."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


V4 = Way("IPv4, blocking", socket.AF_INET, blocking=True, loopback="127.0.0.1", neighbour="192.0.2.2")
V6 = Way("IPv6, non-blocking", socket.AF_INET6, blocking=False, loopback="::1", neighbour="2001:db8::2")


class Report:
    """Prints how each attempt ended, and remembers whether all did as they should."""

    def __init__(self) -> None:
        self.all_right = True

    def ended(self, outcome: str, way: Way, address: Address, result: int, wanted: int, *, note: str = "") -> None:
        """Report one attempt: the errno it ended with, and the one it should have ended with."""
        right = result == wanted
        self.all_right &= right
        known = {0: "", errno.EINPROGRESS: "closed while waiting"}
        how = note or known.get(wanted, code(wanted))
        wrong = "" if right else f"  WRONG: {code(result)} instead of {code(wanted)}"
        self.say(f"{outcome:<11}  {address!s:<21}  {way.name}{how and f' ({how})'}{wrong}")

    def say(self, line: str) -> None:
        """Print one line at once, also into a pipe."""
        print(f"demo: {line}", flush=True)


def main() -> int:
    """Run the demo; return 0 if every attempt ended as it should."""
    parser = argparse.ArgumentParser(description="Make TCP connect attempts that end in every common way.")
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    report = Report()
    if parser.parse_args().in_namespace:
        show_unreachable(report)
        return 0 if report.all_right else WRONG

    report.say("each line below has its line in the window where otel-connect runs")
    namespace = start_namespace()
    show_loopback(report, V4)
    if has_loopback(V6):
        show_loopback(report, V6)
        show_superseded(report)
    else:
        report.say("not shown: IPv6, and abandoned as superseded (there is no IPv6 loopback address here)")
    finish_namespace(report, namespace)
    report.say(
        "every attempt above ended as it should" if report.all_right else "SOME attempt did not end as it should"
    )
    return 0 if report.all_right else 1


def attempt(way: Way, address: Address, give_up_s: float = LONGEST_S) -> int:
    """Make one attempt; return its errno, 0 for success, EINPROGRESS if it was given up."""
    with socket.socket(way.family, socket.SOCK_STREAM) as dialler:
        dialler.setblocking(way.blocking)
        dialler.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PATIENCE_MS)
        # settimeout() would make the socket non-blocking; this is how C programs limit a blocking connect.
        seconds, rest = divmod(int(give_up_s * 1_000_000), 1_000_000)
        dialler.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", seconds, rest))
        result = dialler.connect_ex(address)
        if way.blocking or result != errno.EINPROGRESS:
            return result
        _, ended, _ = select.select([], [dialler], [], give_up_s)
        return dialler.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if ended else errno.EINPROGRESS


def show_loopback(report: Report, way: Way) -> None:
    """Show the ends that need nothing but loopback."""
    with bound(way) as (_, address):
        report.ended("refused", way, address, attempt(way, address), errno.ECONNREFUSED)
    with full_listener(report, way) as address:
        report.ended("timed_out", way, address, attempt(way, address), errno.ETIMEDOUT)
        report.ended("abandoned", way, address, attempt(way, address, GIVE_UP_S), errno.EINPROGRESS)


def show_superseded(report: Report) -> None:
    """Dial the same port by IPv6, which stays silent, and by IPv4, which answers; then give IPv6 up."""
    with bound(V4) as (listener, fast), full_listener(report, V6, fast.port) as slow:
        listener.listen()
        with socket.socket(V6.family, socket.SOCK_STREAM) as dialler:
            dialler.setblocking(V6.blocking)
            result = dialler.connect_ex(slow)
            report.ended("established", V4, fast, attempt(V4, fast), 0)
        report.ended("abandoned", V6, slow, result, errno.EINPROGRESS, note="superseded")


@contextmanager
def bound(way: Way, port: int = 0) -> Iterator[tuple[socket.socket, Address]]:
    """Hold a port on loopback, not yet listening."""
    with socket.socket(way.family, socket.SOCK_STREAM) as holder:
        holder.bind((way.loopback, port))
        yield holder, Address(*holder.getsockname()[:2])


@contextmanager
def full_listener(report: Report, way: Way, port: int = 0) -> Iterator[Address]:
    """Listen, and fill the queue by the one attempt that it has room for."""
    with bound(way, port) as (listener, address):
        listener.listen(0)
        report.ended("established", way, address, attempt(way, address), 0)
        yield address


def show_unreachable(report: Report) -> None:
    """Dial neighbours that do not answer; runs alone in a new network namespace."""
    run_ip(CABLE)
    ways = [V4]
    if has_loopback(V6):
        run_ip(CABLE_IPV6)
        ways.append(V6)
    for family in ("ipv4", "ipv6"):
        # One question and a short wait instead of three seconds; if /proc/sys is read-only, so be it.
        neighbour = Path("/proc/sys/net", family, "neigh/demo0")
        with suppress(OSError):
            (neighbour / "mcast_solicit").write_text("1")
            (neighbour / "retrans_time_ms").write_text("200")
    for way in ways:
        address = Address(way.neighbour, DISCARD)
        report.ended("unreachable", way, address, attempt(way, address), errno.EHOSTUNREACH)


def run_ip(commands: str) -> None:
    """Give iproute2 a batch of commands; exits with its complaint if it refuses one."""
    ip = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if ip is None:
        sys.exit("the command ip, of iproute2, is not installed")
    result = subprocess.run([ip, "-batch", "-"], input=commands, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr.strip().splitlines()[0])


def start_namespace() -> subprocess.Popen[str] | None:
    """Start the part that needs a network namespace, while the rest goes on here."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    options = ["--net"] if os.geteuid() == 0 else ["--net", "--map-root-user"]
    return subprocess.Popen(
        [unshare, *options, sys.executable, __file__, "--in-namespace"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_namespace(report: Report, part: subprocess.Popen[str] | None) -> None:
    """Print what the part in the namespace printed, or why there is none."""
    if part is None:
        report.say("not shown: unreachable (the command unshare, of util-linux, is not installed)")
        return
    lines, complaint = part.communicate(timeout=4 * LONGEST_S)
    print(lines, end="", flush=True)
    report.all_right &= part.returncode != WRONG
    if part.returncode not in {0, WRONG}:
        cause = (complaint.strip().splitlines() or ["no reason given"])[-1]
        remedy = "" if os.geteuid() == 0 else "; run it as root"
        report.say(f"not shown: unreachable ({cause}{remedy})")


def has_loopback(way: Way) -> bool:
    """Tell whether the family has a loopback address here."""
    try:
        with bound(way):
            return True
    except OSError:
        return False


def code(number: int) -> str:
    """Return the symbolic name of an errno."""
    return errno.errorcode.get(number, str(number)) if number else "success"


if __name__ == "__main__":
    sys.exit(main())
