// Make TCP connect attempts and report each as one JSON line: client.js HOST PORT COUNT TIMEOUT_MS.
"use strict";

const net = require("node:net");

const [host, port, count, timeoutMs] = process.argv.slice(2).map((text, index) => (index ? Number(text) : text));

function attempt() {
  return new Promise((resolve) => {
    const started = process.hrtime.bigint();
    const socket = net.connect({ host, port });
    let timer;
    const report = (result, error) => {
      clearTimeout(timer);
      const localPort = socket.localPort ?? null;
      const seconds = Number(process.hrtime.bigint() - started) / 1e9;
      socket.removeAllListeners().on("error", () => {});
      socket.destroy();
      console.log(
        JSON.stringify({
          pid: process.pid,
          runtime: "node",
          host,
          port,
          blocking: false,
          result,
          errno: error ? -error.errno : null,
          errno_name: error ? error.code : null,
          local_port: localPort,
          seconds,
        }),
      );
      resolve();
    };
    socket.once("connect", () => report("ok", null));
    socket.once("error", (error) => report("error", error));
    if (timeoutMs) {
      timer = setTimeout(() => report("abandoned", null), timeoutMs);
    }
  });
}

(async () => {
  for (let made = 0; made < count; made += 1) {
    await attempt();
  }
})();
