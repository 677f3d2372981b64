"""A small application as its authors write it: a shop over HTTP that uses only the OpenTelemetry API.

    opentelemetry-instrument python tests/support/application.py

Commands come by standard input, one a line, and each is answered by one line: ``order ITEM COUNT`` makes
orders over real HTTP, ``fork N`` and ``pool N`` have N children export, ``leave`` has a child do so that ends
as a program does, ``raw TEXT`` logs a text given as JSON, ``flush`` and ``end`` do what they say.
"""

import json
import logging
import multiprocessing
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import requests
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

log = logging.getLogger("shop")
tracer = trace.get_tracer("shop", "1.2.3", schema_url="https://opentelemetry.io/schemas/1.44.0")
meter = metrics.get_meter("shop", "1.2.3")

orders = meter.create_counter("shop.orders", "{order}", "Orders taken.")
basket = meter.create_up_down_counter("shop.basket", "{item}")
price = meter.create_histogram("shop.price", "EUR")
temperature = meter.create_gauge("shop.temperature", "Cel")
meter.create_observable_counter("shop.visits", [lambda _: [metrics.Observation(7, {"door": "front"})]])
meter.create_observable_up_down_counter("shop.queue", [lambda _: [metrics.Observation(-2)]])
meter.create_observable_gauge("shop.load", [lambda _: [metrics.Observation(0.5)]])


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        item = unquote(self.path.rpartition("/")[2])
        with tracer.start_as_current_span("order", kind=SpanKind.SERVER, attributes={"item": item}) as span:
            span.add_event("picked", {"shelf": 3, "tags": ["new", "heavy"]})
            with tracer.start_as_current_span("pay", links=[Link(span.get_span_context(), {"why": "paid"})]) as pay:
                if item == "broken":
                    pay.set_status(Status(StatusCode.ERROR, "no stock"))
            orders.add(1, {"item": item})
            basket.add(2)
            price.record(9.99, {"item": item})
            temperature.set(21.5)
            log.warning("ordered %s", item, extra={"count": 1})
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Stay quiet."""


def order(port: int, item: str, count: int) -> None:
    for number in range(count):
        requests.get(f"http://127.0.0.1:{port}/{item if count == 1 else f'{item}-{number}'}", timeout=10)


def flush() -> None:
    providers: list[Any] = [trace.get_tracer_provider(), get_logger_provider()]
    if os.environ.get("SHOP_FLUSH_METRICS") != "no":  # that waits for the backend
        providers.append(metrics.get_meter_provider())
    for provider in providers:  # the API has no flush; the SDK's providers have
        provider.force_flush()


def child(name: str, number: int) -> None:
    with tracer.start_as_current_span(f"{name}-{number}"):
        log.warning("%s-%d", name, number)
    flush()


def fork(number: int) -> None:
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        return
    try:
        child("fork", number)
    finally:
        os._exit(0)


def leave() -> None:
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
        return
    child("leave", 0)
    sys.exit(0)


def obey(port: int, command: str, arguments: list[str]) -> None:
    match command:
        case "order":
            order(port, arguments[0], int(arguments[1]))
        case "fork":
            for number in range(int(arguments[0])):
                fork(number)
        case "pool":
            with multiprocessing.get_context("fork").Pool(int(arguments[0])) as pool:
                pool.starmap(child, [("pool", number) for number in range(int(arguments[0]))])
                pool.close()
                pool.join()
        case "raw":
            log.warning(json.loads(" ".join(arguments)))
        case "flush":
            flush()
        case "leave":
            leave()


def main() -> None:
    logging.basicConfig(level=os.environ.get("SHOP_LOG_LEVEL", "WARNING"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "end":
            break
        obey(server.server_address[1], command, arguments)
        print("done", flush=True)
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
