"""Helm, built on first use, and the chart of this repository."""

import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
CHART = PROJECT / "deploy/helm/otel-connect"


@functools.cache
def helm_binary() -> Path:
    """Return the program; ``tests/helm/build.sh`` says how it is built."""
    built = subprocess.run([PROJECT / "tests/helm/build.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in the project's folder."""
    return subprocess.run([helm_binary(), *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)


def template(values: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """Render the chart with some values changed."""
    return subprocess.run(
        [helm_binary(), "template", "release", CHART, "--kube-version=1.33", "--values=-"],
        input=yaml.safe_dump(dict(values)),
        capture_output=True,
        text=True,
        check=False,
    )


def manifests(text: str) -> list[dict[str, Any]]:
    """Return the objects of a file with several documents."""
    return [document for document in yaml.safe_load_all(text) if document]
