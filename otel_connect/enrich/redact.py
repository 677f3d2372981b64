"""Take secrets out of command arguments, element by element, in time linear in their length. Pure.

What is masked: the value of an option or assignment whose name is one of a secret (``--password=x``,
``API_TOKEN=x``, ``Authorization: x``, ``"secret": "x"``) or that follows such an option; a password in a URL;
the options by which known programs take passwords (``mysql -pSECRET``, ``redis-cli -a SECRET``); and what has
the shape of a secret wherever it stands (private keys, JSON web tokens, the tokens of large services).

When in doubt it masks: after a secret's name everything to the end of the element goes, because a password
may hold any character. It is no proof against secrets without a name or a shape.

Linear time: texts are searched for literals, and regular expressions are anchored or bounded; none can
try the same characters from many starting points.
"""

import re
from collections.abc import Sequence

MASK = "***"

# Without one of these in a line (lower case) there is nothing to look for, which is the usual case.
_HINTS = (
    *("pass", "pwd", "secret", "token", "key", "credential", "auth", "bearer", "cookie", "sig", "session"),
    *("://", "-----begin", "eyj", "akia", "asia", "aiza", "ya29", "xox", "gh", "gl", "pat", "sk-", "sk_", "rk_"),
    *(
        "gocspx",
        "xapp",
        "abia",
        "acca",
        "npm_",
        "pypi-",
        "sg.",
        "hf_",
        "dop_v1",
        "hvs.",
        "sq0",
        "bot",
        "shp",
        "hooks.slack",
    ),
)

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
_OPTION = re.compile(r"--?[A-Za-z][\w.-]{0,63}\Z")
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

# How known programs take a password by a short option: ``next`` the following value, ``joined`` the rest of the
# element as well, ``user`` what follows a colon (or, for SMB, a percent sign) in the following value.
_OPTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    ("mysql mysqldump mysqladmin mysqlimport mysqlsh mycli mariadb mariadb-dump mariadb-admin", {"-p": "joined"}),
    ("7z 7za 7zz", {"-p": "joined"}),
    ("mongo mongosh mongodump mongorestore rabbitmqadmin cqlsh sshpass oc cockroach influx", {"-p": "both"}),
    ("sqlcmd bcp zip unzip isql mosquitto_pub mosquitto_sub ipmitool", {"-P": "both"}),
    ("ldapsearch ldapmodify ldapadd ldapdelete ldapwhoami", {"-w": "both"}),
    ("snmpget snmpwalk snmpset", {"-c": "both", "-A": "next", "-X": "next"}),
    ("smbclient rpcclient net", {"-U": "user", "--user": "user"}),
    ("redis-cli", {"-a": "next"}),
    ("curl", {"-u": "user", "--user": "user", "-U": "user", "--proxy-user": "user"}),
    ("http", {"-a": "user"}),
)
_PROGRAMS = {name: options for names, options in _OPTIONS for name in names.split()}
_PROGRAMS |= {f"{name} login": {"-p": "both"} for name in ("docker", "podman", "az", "nerdctl")}


def redact(arguments: Sequence[str]) -> tuple[str, ...]:
    """Mask the secrets of a command line, whose first element is the program."""
    program = arguments[0].rpartition("/")[2] if arguments else ""
    options = _PROGRAMS.get(f"{program} login" if "login" in arguments[1:3] else program, {})
    lowered = "\0".join(arguments).lower()
    if not options and "\0-p" not in lowered and not any(hint in lowered for hint in _HINTS):
        return tuple(arguments)
    shown: list[str] = []
    follows = ""
    for argument in arguments:
        if follows and not argument.startswith("--"):
            shown.append(_masked_value(argument, follows))
            follows = ""
            continue
        follows = _takes_secret(argument, options)
        shown.append(_masked_option(argument, options) or _masked(argument))
    return tuple(shown)


def _takes_secret(argument: str, options: dict[str, str]) -> str:
    """Say how the next element is to be masked: ``next``, ``user``, ``weak``, or not at all."""
    if (kind := options.get(argument)) in {"next", "both", "user"}:
        return "user" if kind == "user" else "next"
    if _OPTION.match(argument):
        return {2: "next", 1: "weak"}.get(_secrecy(argument), "")
    return ""


def _masked_value(value: str, kind: str) -> str:
    if kind == "user":
        user, separator, password = _split_user(value)
        return f"{user}{separator}{MASK}" if password else _masked(value)
    if (kind == "weak" and _PLAIN.match(value)) or _REFERENCE.match(value) or _COUNT.match(value):
        return _masked(value)
    return MASK


def _split_user(value: str) -> tuple[str, str, str]:
    return value.partition("%" if "%" in value and ":" not in value else ":")


def _masked_option(argument: str, options: dict[str, str]) -> str:
    """Mask what is joined to a short option; empty if nothing is."""
    option, value = argument[:2], argument[2:]
    if not value or not option.startswith("-") or option == "--":
        return ""
    kind = options.get(option)
    if kind in {"joined", "both"}:
        return f"{option}{MASK}"
    if kind == "user":
        user, separator, password = _split_user(value)
        return f"{option}{user}{separator}{MASK}" if password else ""
    if option == "-p" and not options and _looks_chosen(value):
        return f"-p{MASK}"
    return ""


def _looks_chosen(text: str) -> bool:
    """Whether it looks like a password, and not like a port, a path or the rest of a word."""
    digits = any(map(str.isdigit, text))
    return len(text) >= 6 and digits and not text.isdecimal() and not re.search(r"[:/=.,\s]", text)


def _masked(text: str) -> str:
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
    secrecy = 0 if name is None else _secrecy(name[0])
    if not secrecy:
        return False
    found = _VALUE.match(text, position + 1)
    value = found[1] if found else ""
    if not value or _REFERENCE.match(value):
        return False
    if text[position] == ":" and (_MOUNT.match(value) or value.startswith("//")):
        return False
    return secrecy == 2 or not _PLAIN.match(value)


def _secrecy(name: str) -> int:
    """Rate a name: 2 names a secret, 1 may name one, 0 does not."""
    plain = name.lower().lstrip("-").replace("_", "-").replace(".", "-")
    if _NOT_SECRET.search(plain):
        return 0
    if _STRONG.search(plain):
        return 2
    return 1 if _WEAK.search(plain) else 0
