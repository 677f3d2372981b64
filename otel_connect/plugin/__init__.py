"""Durable OTLP delivery for any Python application: the exporters and the detector that the SDK loads by name.

A joiner like ``run.py``: batches of the SDK become requests (``batches``), which the one exporter of the
process delivers (``delivery``, ``process``). docs/plugin.md says how it is used.
"""

import os

if any(name.startswith("OTEL_EXPORTER_OTLP_") and os.environ[name].strip().lower() == "grpc" for name in os.environ):
    # Read when grpc is imported; see ``forking``.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
