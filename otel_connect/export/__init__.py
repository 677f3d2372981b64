"""Delivery: where requests go, what the backend answered, what became of every record."""

import os

# Read when grpc is imported: it would write about every failed handshake, which the sender says in one line.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
