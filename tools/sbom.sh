#!/usr/bin/env bash
# Reads the root file system of an image as a tar archive, and writes its bill of materials as CycloneDX JSON:
# the distribution's packages, and the Python packages of the agent's environment.
#   podman export "$(podman create otel-connect)" | tools/sbom.sh >otel-connect.cdx.json
set -euo pipefail

project=$(cd "$(dirname "$0")/.." && pwd)
tools=$project/.venv/bin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/root.tar"
"$tools/debsbom" generate --sbom-type cdx --root "$scratch/root.tar" --out "$scratch/system" 2>"$scratch/log" ||
    { cat "$scratch/log" >&2; exit 1; }
# What is installed says so by a folder of its own: opt/otel-connect/…/opentelemetry_sdk-1.45.2.dist-info/
tar -tf "$scratch/root.tar" |
    sed -nE 's#^(\./)?opt/otel-connect/.*/([^/]+)-([^-/]+)\.dist-info/METADATA$#\2==\3#p' | sort -u >"$scratch/python.txt"
[ -s "$scratch/python.txt" ] || { echo "sbom: no environment in /opt/otel-connect of this image" >&2; exit 1; }
"$tools/cyclonedx-py" requirements --pyproject "$project/pyproject.toml" \
    --output-format JSON --output-file "$scratch/python.cdx.json" "$scratch/python.txt"
PYTHONWARNINGS=ignore "$tools/debsbom" merge --sbom-type cdx --distro-name otel-connect --out "$scratch/merged" \
    "$scratch/system.cdx.json" "$scratch/python.cdx.json" 2>"$scratch/log" || { cat "$scratch/log" >&2; exit 1; }
cat "$scratch/merged.cdx.json"
