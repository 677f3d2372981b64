"""What a secret looks like inside one text: its name, its shape, where it ends. Pure, and linear in the text's length.

Texts are searched for literals, and regular expressions are anchored or bounded; none can try the same characters
from many starting points.
"""

import re

MASK = "***"

_STRONG = re.compile(
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secrets?|token|credentials?|authorization|bearer|cookie|signature|sig"
    r"|sessionid|session-id|(?:api|access|account|secret|private|encryption|signing|master|license|shared)-?key"
    r"|auth-?key)(?:-?(?:v?\d{1,4}|old|new|prod|dev|test|staging|plain|value|b64|base64))?\Z"
)
_WEAK = re.compile(r"(?:\A|-)(?:key|auth|tokens)\Z")
_NOT_SECRET = re.compile(
    r"(?:com|by|tres|sur|under|over|band)pass\Z|\A(?:no|ask|skip|without|prompt|use|with)-|\Ax?-?idempotency-key\Z"
)
_NAME = re.compile(r"[\w.-]{1,64}\Z")
OPTION = re.compile(r"--?[A-Za-z][\w.-]{0,63}\Z")
_SEPARATOR = re.compile(r"[=:]")
_VALUE = re.compile(r"[\s\"'\\]{0,4}([^\s\"'&;,]{0,256})")

# What a weak name may have for a value without being masked, and any name for a value after a colon.
_PLAIN = re.compile(
    r"(?:\d{1,6}|true|false|yes|no|none|[a-z]{1,8}|[./~][\w./~-]*|[\w./-]+\.(?:pem|key|crt|pub|json|gpg|asc))\Z"
)
_COUNT = re.compile(r"\d{1,2}\Z")
_MOUNT = re.compile(r"(?:/[a-z0-9._-]+)+(?::[a-z,]+)?\Z|r[ow](?:,[a-z]+)?\Z")
_REFERENCE = re.compile(r"\$\{?[A-Za-z_]\w*\}?\Z|\$\([^)]*\)\Z|<[^>]*>\Z")

_AUTHORITY = re.compile(r"://([^\s/?#\"']+)")
_LONG_USER = 20

# Anchored at the beginning of a word; a word has no character that these are separated by.
_WORD = re.compile(r"[\w.-]{16,}")
_SHAPES = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\Z"
    r"|gh[pousr]_\w{20,}|github_pat_\w{20,}|gl(?:pat|ptt|rt|dt|soat)-[\w-]{16,}"
    r"|xox[abeprs]-[\w-]{10,}|xapp-[\w-]{20,}"
    r"|(?:sk|rk|pk)_(?:live|test)_\w{16,}|sk-[\w-]{20,}"
    r"|AIza[\w-]{30,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,}"
    r"|npm_\w{30,}|pypi-[\w-]{16,}|hf_\w{20,}|dckr_pat_[\w-]{16,}|do[opr]_v1_\w{32,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|hv[sbr]\.[\w-]{16,}|key-[0-9a-f]{32}\Z"
    r"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[\w-]{20,}|AGE-SECRET-KEY-1\w{20,}"
)
_BOT = re.compile(r"(?:\A|[^\d])(\d{8,10}:[\w-]{35})(?![\w-])")
_WEBHOOK = re.compile(r"(hooks\.slack\.com/services/)[\w/]{20,}")
_PEM = "-----BEGIN "


def masked_value(value: str, *, weak: bool) -> str:
    """Mask what follows an option that takes a secret; ``weak``: one that may take something else as well."""
    if (weak and _PLAIN.match(value)) or _REFERENCE.match(value) or _COUNT.match(value):
        return masked(value)
    return MASK


def masked(text: str) -> str:
    """Mask what is inside one element."""
    if (pem := text.find(_PEM)) >= 0:
        text = text[:pem] + MASK
    if "://" in text:
        text = _AUTHORITY.sub(_masked_authority, text)
        text = _WEBHOOK.sub(rf"\1{MASK}", text)
    for separator in _SEPARATOR.finditer(text):
        if _assigns_secret(text, separator.start()):
            end = separator.end()
            quoted = len(text[end : end + 3]) - len(text[end : end + 3].lstrip(" \"'"))
            text = text[: end + quoted] + MASK
            break
    if len(text) >= 16:
        text = _WORD.sub(_masked_word, text)
        if ":" in text:
            text = _BOT.sub(lambda match: match[0].replace(match[1], MASK), text)
    return text


def _masked_word(match: re.Match[str]) -> str:
    return MASK if _SHAPES.match(match[0]) else match[0]


def _masked_authority(match: re.Match[str]) -> str:
    userinfo, at, host = match[1].rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if not at or not (colon or len(user) >= _LONG_USER):
        return match[0]
    return f"://{user}:{MASK}@{host}" if colon and len(user) < _LONG_USER else f"://{MASK}@{host}"


def _assigns_secret(text: str, position: int) -> bool:
    """Whether a secret's name stands before the separator at ``position``, and a value after it."""
    name = _NAME.search(text[max(0, position - 66) : position].rstrip(" \"'\\"))
    rated = 0 if name is None else secrecy(name[0])
    if not rated:
        return False
    found = _VALUE.match(text, position + 1)
    value = found[1] if found else ""
    if not value or _REFERENCE.match(value):
        return False
    if text[position] == ":" and (_MOUNT.match(value) or value.startswith("//")):
        return False
    return rated == 2 or not _PLAIN.match(value)


def secrecy(name: str) -> int:
    """Rate a name: 2 names a secret, 1 may name one, 0 does not."""
    plain = name.lower().lstrip("-").replace("_", "-").replace(".", "-")
    if _NOT_SECRET.search(plain):
        return 0
    if _STRONG.search(plain):
        return 2
    return 1 if _WEAK.search(plain) else 0
