"""The key of the hashes that stand for addresses, read from its file."""

from pathlib import Path

from otel_connect.config import EnrichConfig
from otel_connect.config.files import read_file
from otel_connect.enrich.masks import Masks, hash_mask, prefix_mask
from otel_connect.errors import ConfigError

_LEAST_BYTES, _MOST_BYTES = 16, 4096


def masks(config: EnrichConfig) -> Masks | None:
    """Make what the configuration wants, ``None`` when addresses stay whole; raises ConfigError for a bad key file."""
    if config.mask_addresses == "prefix":
        return Masks(prefix_mask(config.mask_ipv4_prefix, config.mask_ipv6_prefix))
    if config.mask_addresses == "hash":
        if config.mask_key_file is None:
            raise ConfigError(['enrich.mask_addresses: "hash" needs a key; set enrich.mask_key_file'])
        return Masks(hash_mask(_read_key(config.mask_key_file)))
    return None


def _read_key(path: Path) -> bytes:
    try:
        key = read_file(path, _MOST_BYTES).rstrip(b"\r\n")  # editors end a file with a newline
    except OSError as error:
        raise ConfigError(
            [f"enrich.mask_key_file: {path} cannot be read ({error.strerror}); name a readable file"]
        ) from error
    if len(key) < _LEAST_BYTES:
        raise ConfigError(
            [f"enrich.mask_key_file: {path} holds {len(key)} bytes; at least {_LEAST_BYTES} random ones are needed"]
        )
    return key
