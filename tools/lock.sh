#!/usr/bin/env bash
# Resolve pyproject.toml into requirements/{run,dev}.txt, with hashes, for every supported Python.
set -euo pipefail
cd "$(dirname "$0")/.."

resolve=(uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes
    --no-header --no-emit-index-url --no-emit-find-links --group build)
command -v uv >/dev/null || {
    echo "lock: uv is needed; install it (pip install uv) or name its folder in PATH" >&2
    exit 1
}
"${resolve[@]}" -o requirements/run.txt
"${resolve[@]}" --group dev --constraints requirements/run.txt -o requirements/dev.txt
