# The agent as an image: the distribution's Python and bcc bindings, with the agent's environment on top.
# How to run it, and with which privileges: examples/docker/README.md.

# bcc compiles the probes when the agent starts, so LLVM's and clang's libraries have to stay in the image.
# No compiler, linker or headers do.
FROM debian:trixie-slim AS system
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-bpfcc \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/*.log

# pip lives beside the environment that it fills, so that it need not be removed from there.
FROM system AS locked
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv
RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip --system-site-packages /opt/otel-connect
COPY requirements/run.txt /src/requirements/
RUN /opt/pip/bin/pip --python /opt/otel-connect/bin/python install --no-cache-dir --disable-pip-version-check \
    --require-hashes -r /src/requirements/run.txt

# The lock file holds what builds the agent's wheel too; nothing that runs imports it.
FROM locked AS environment
RUN /opt/pip/bin/pip --python /opt/otel-connect/bin/python uninstall -y \
    editables hatchling packaging pathspec pluggy tomlkit trove-classifiers

# Alone under /package, so that a new version of the agent is a new layer of a megabyte, not of a hundred.
FROM locked AS package
WORKDIR /src
COPY pyproject.toml LICENSE ./
COPY probes probes
COPY otel_connect otel_connect
RUN /opt/pip/bin/pip --python /opt/otel-connect/bin/python install --no-cache-dir --disable-pip-version-check \
    --no-deps --no-build-isolation --no-warn-script-location --root /package . \
    && mkdir -p /package/usr/local/bin \
    && ln -s /opt/otel-connect/bin/otel-connect /package/usr/local/bin/

FROM system
LABEL org.opencontainers.image.title="otel-connect" \
    org.opencontainers.image.description="Every TCP connect attempt of a host, seen by eBPF, as OpenTelemetry logs, metrics and traces." \
    org.opencontainers.image.licenses="Apache-2.0 AND (MIT OR GPL-2.0-only)" \
    org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim"
COPY --from=environment /opt/otel-connect /opt/otel-connect
COPY --from=package /package /
# In the container itself: with the host's network a port would be the host's, and one for all its agents.
ENV OTEL_CONNECT_LISTEN=unix:/tmp/otel-connect.sock
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["otel-connect", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["otel-connect"]
CMD ["run"]
