"""Which attempts are left out: rules of the operator."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from otel_connect.config.networks import Network, Ports
from otel_connect.config.section import Section, Switch, Whole


def _path_or_glob(value: str) -> str:
    if not value.startswith(("/", "*", "?", "[")):
        raise ValueError("must be a whole path such as /usr/bin/curl, or a glob on one such as */curl")
    return value


class FilterRule(Section):
    """What an attempt must be like for the rule to hold of it: all that is said here together."""

    executable: Annotated[str, Field(max_length=4096), AfterValidator(_path_or_glob)] | None = None
    """The path of what its process runs, or a glob on it, in which ``*`` holds slashes, too."""
    cgroup: Annotated[str, Field(max_length=4096), AfterValidator(_path_or_glob)] | None = None
    """The path of its cgroup, from the root of the tree, or a glob on it."""
    uid: Annotated[Whole, Field(ge=0, lt=1 << 32)] | None = None
    port: Ports | None = None
    cidr: Network | None = None
    """Where its peer is: or what connect() was given, when it never had a peer."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must say what it is about: executable, cgroup, uid, port or cidr")
        return self


class FilterConfig(Section):
    """Which attempts get neither a log record nor a span."""

    deny: tuple[FilterRule, ...] = ()
    """What one of these holds of is left out."""
    allow: tuple[FilterRule, ...] = ()
    """If there are any, so is what none of these holds of."""
    count: Switch = True
    """Whether the metrics have what is left out."""
