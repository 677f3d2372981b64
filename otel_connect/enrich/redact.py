"""Take secrets out of command lines, in time linear in their length. Pure.

What is masked: the value of an option or assignment whose name is one of a secret (``--password=x``,
``API_TOKEN=x``, ``Authorization: x``, ``"secret": "x"``) or that follows such an option; a password in a URL;
the options by which known programs take passwords (``mysql -pSECRET``, ``redis-cli -a SECRET``); and what has
the shape of a secret wherever it stands (private keys, JSON web tokens, the tokens of large services).

An element with blanks is a command line of its own, as ``sh -c`` and ``ssh`` take one, or a title that a program has
written over its arguments: its words are masked as elements are, and the blanks between them stay. What a program
starts (``sudo mysql …``, ``docker exec db mysql …``, ``cd /x && mysql …``) has the options of that one.

When in doubt it masks: after ``name=`` everything to the end of the element goes, because a password may hold any
character. It is no proof against secrets without a name or a shape.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from otel_connect.enrich.secret_texts import MASK, OPTION, masked, masked_value, secrecy

__all__ = ["MASK", "redact", "redact_title"]

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
    ("curl", {"-u": "user", "--user": "user", "-U": "user", "--proxy-user": "user", "-E": "user", "--cert": "user"}),
    ("useradd usermod", {"-p": "next"}),
    ("openssl", {"-k": "next", "-K": "next"}),
    ("http", {"-a": "user"}),
)
_PROGRAMS = {name: options for names, options in _OPTIONS for name in names.split()}
_PROGRAMS |= {f"{name} login": {"-p": "both"} for name in ("docker", "podman", "az", "nerdctl")}

# What starts another program, named further on in the line.
_STARTER_NAMES = (
    "sudo doas su runuser env nohup time nice ionice chrt taskset timeout xargs parallel ssh sshpass chroot unshare"
    " nsenter setpriv setsid systemd-run flock watch script stdbuf strace ltrace tini dumb-init gosu su-exec exec"
    " sh bash dash ash zsh ksh fish busybox"
)
_STARTERS = frozenset(_STARTER_NAMES.split())
_STARTING_OPTIONS = frozenset({"-exec", "-execdir", "-ok"})
_EXEC_WITHIN, _LOGIN_WITHIN = 4, 2  # words behind the program: kubectl -n shop exec, docker login
_OPERATORS = (";", "|", "&", "(", "{", "`")
_KEYWORDS = frozenset({"then", "do", "else", "!"})
_CLUSTER = re.compile(r"-[A-Za-z]{2,8}\Z")
_KEYS_OF_AWS = frozenset({"aws_secret_access_key", "aws_session_token"})  # aws configure set NAME SECRET
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w{0,63}=")
_QUOTES = "\"'\\"
_CLOSING = re.compile(r"[\"'\\]{1,4}[;|&)]{0,4}\Z")
_WORD = re.compile(r"\S+")
_BLANK_INSIDE = re.compile(r"\S\s+\S")
_KNOWN = re.compile(rf"(?<![\w.-])(?:{'|'.join(sorted({re.escape(name.split()[0]) for name in _PROGRAMS}))})(?![\w.-])")


def redact(arguments: Sequence[str]) -> tuple[str, ...]:
    """Mask the secrets of a command line, whose first element is the program."""
    lowered = "\0".join(arguments).lower()
    if "-p" not in lowered and not any(hint in lowered for hint in _HINTS) and not _KNOWN.search(lowered):
        return tuple(arguments)
    line = _Line()
    return tuple(line.element(argument) for argument in arguments)


@lru_cache(maxsize=4096)
def redact_title(text: str) -> str:
    """Mask the secrets of what a program calls itself, such as the name of its thread."""
    return redact((text,))[0]


class _Line:
    """Follows a command line: whose options these are, and whether the next word is a secret."""

    def __init__(self) -> None:
        self._program = ""
        self._options: dict[str, str] = {}
        self._behind = 0  # words since the program
        self._begins = True  # the next word is a program
        self._starts = False  # a later one may be
        self._follows = ""
        self._last: tuple[str, ...] = ()

    def element(self, argument: str) -> str:
        """Mask one element of a list of arguments."""
        if self._is_value(argument):
            return self._value(argument)
        self._take(argument)
        if self._follows == "quoted":  # quotes are gone here
            self._follows = ""
        if shown := _masked_option(argument, self._options):
            self._end_option(argument)
            return shown
        shown = masked(argument)
        return _masked_words(shown) if _BLANK_INSIDE.search(shown) else shown

    def word(self, text: str, start: int, end: int) -> tuple[str, int]:
        """Mask the word of a text that stands at a place; return it with its end, which is later if it is quoted."""
        bare = text[start:end].strip(_QUOTES)
        if self._is_value(bare, quoted=text[start] in _QUOTES):
            end = _end_of_value(text, start, end)
            return _inside_quotes(text[start:end], self._value), end
        self._take(bare)
        shown = _masked_option(bare, self._options)
        if not shown:
            return text[start:end], end
        self._end_option(bare)
        value = start + text[start:end].index(bare) + (bare.index("=") + 1 if bare.startswith("--") else 2)
        end = _end_of_value(text, value, end)
        raw = text[start:end]
        before = raw[: len(raw) - len(raw.lstrip(_QUOTES))]
        return before + shown + ("" if text[value] in _QUOTES else raw[len(raw.rstrip(_QUOTES)) :]), end

    def _end_option(self, word: str) -> None:
        """Expect no value behind ``-pSECRET``, though that may look like the name of an option."""
        if self._options.get(word[:2]) == "joined":
            self._follows = ""

    def _is_value(self, word: str, *, quoted: bool = True) -> bool:
        if self._follows == "quoted" and not quoted:
            self._follows = ""
        return bool(self._follows) and not word.startswith("--")

    def _value(self, value: str) -> str:
        kind, self._follows = self._follows, ""
        if not value:
            return value
        return _masked_user(value) if kind == "user" else masked_value(value, weak=kind == "weak")

    def _take(self, word: str) -> None:
        """Take note of a word that is no secret."""
        self._behind += 1
        name = _name(word)
        if not word.startswith("-") and not (_ASSIGNMENT.match(word) and name == word.rpartition("/")[2]):
            if self._begins or (self._starts and (name in _PROGRAMS or name in _STARTERS)):
                self._run(name)
            elif word == "login" and self._behind <= _LOGIN_WITHIN:
                self._options = _PROGRAMS.get(f"{self._program} login", self._options)
        if word in _STARTING_OPTIONS or (word == "exec" and self._behind <= _EXEC_WITHIN):
            self._starts = True
        self._follows = _takes_secret(word, self._options)
        self._follow_sql(word.lower())
        if word.endswith(_OPERATORS) or word in _KEYWORDS:
            self._begins, self._starts = True, False

    def _follow_sql(self, word: str) -> None:
        """Expect a secret in quotes: IDENTIFIED BY '…', IDENTIFIED WITH plugin BY '…', SET PASSWORD FOR user = '…'."""
        names = word == "password" or (word == "by" and "identified" in self._last)
        if names or (word == "=" and "password" in self._last):
            self._follows = "quoted"
        self._last = (*self._last[-3:], word)

    def _run(self, name: str) -> None:
        self._program, self._options = name, _PROGRAMS.get(name, {})
        self._starts = self._starts or name in _STARTERS
        self._begins, self._behind = False, 0


def _masked_words(text: str) -> str:
    """Mask the words of a command line that is one text, and leave the blanks between them as they are."""
    line, shown, at = _Line(), [], 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        if start < at:  # inside of what was quoted
            continue
        word, end = line.word(text, start, end)
        shown += [text[at:start], word]
        at = end
    return "".join([*shown, text[at:]])


def _name(word: str) -> str:
    """Return the name of the program that a word calls, without what an operator or a path puts before it."""
    return re.split(r"[;|&(`<>]", word)[-1].rpartition("/")[2]


def _end_of_value(text: str, start: int, end: int) -> int:
    """Return where a value ends that begins at ``start``: behind its closing quote, else with its word."""
    quote = text[start : start + 1]
    if quote not in {'"', "'"}:
        return end
    closing = text.find(quote, start + 1)
    if closing < 0:
        return len(text)
    rest = _WORD.match(text, closing)
    return max(end, rest.end() if rest else closing + 1)


def _inside_quotes(raw: str, mask: Callable[[str], str]) -> str:
    """Mask what is between the quotes around a value, or all of it."""
    left = len(raw) - len(raw.lstrip(_QUOTES))
    closing = _CLOSING.search(raw, left)
    right = closing.start() if closing else len(raw)
    return raw[:left] + mask(raw[left:right]) + raw[right:]


def _takes_secret(word: str, options: dict[str, str]) -> str:
    """Say how the next word is to be masked: ``next``, ``user``, ``weak``, or not at all."""
    if (kind := options.get(word) or options.get(_last_of_cluster(word))) in {"next", "both", "user"}:
        return "user" if kind == "user" else "next"
    if word in _KEYS_OF_AWS:
        return "next"
    if OPTION.match(word):
        return {2: "next", 1: "weak"}.get(secrecy(word), "")
    return ""


def _last_of_cluster(word: str) -> str:
    """Return the last of several short options in one word (``-u`` of ``-su``): only that one takes what follows."""
    return f"-{word[-1]}" if _CLUSTER.match(word) else ""


def _masked_option(argument: str, options: dict[str, str]) -> str:
    """Mask what is joined to a short option; empty if nothing is."""
    name, equals, given = argument.partition("=")
    if equals and options.get(name) == "user" and _split_user(given)[2]:
        return f"{name}={_masked_user(given)}"
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


def _masked_user(value: str) -> str:
    user, separator, password = _split_user(value)
    return f"{user}{separator}{MASK}" if password else masked(value)


def _split_user(value: str) -> tuple[str, str, str]:
    return value.partition("%" if "%" in value and ":" not in value else ":")


def _looks_chosen(text: str) -> bool:
    """Whether it looks like a password, and not like a port, a path or the rest of a word."""
    digits = any(map(str.isdigit, text))
    return len(text) >= 6 and digits and not text.isdecimal() and not re.search(r"[:/=.,\s]", text)
