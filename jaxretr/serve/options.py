"""`ServiceOptions`: every setting of the service, checked. `scripts/serve.py` takes the values as flags."""

import dataclasses
import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import PurePath

API_KEY_VARIABLE = "JAXRETR_API_KEY"
"""Environment variable with the key that clients must send."""

RERANKER_MAX_LENGTH = 512
"""Default limit on the tokens of a pair. Rerankers of 8,192 positions exist, but each padded length is compiled."""


@dataclass(frozen=True)
class ServiceOptions:
    """Permissions, limits and timeouts of the service.

    Attributes:
      model: name of the model in /info and /v1/models.
      reranker: name of the reranker in /info and /v1/models, if the service has one.
      writable: whether clients may put and delete passages.
      api_key: key that clients must send as `Authorization: Bearer KEY`; None accepts every client.
      allowed_hosts: host names, without ports, that requests may be addressed to; `*.example.org` for all names below
        example.org; `*` or () for all names. With only the loopback names, a web page elsewhere cannot read responses
        by pointing its own name to this machine (DNS rebinding).
      root_path: path under which a reverse proxy shows the service, such as /jaxretr; "" for none. The proxy may remove
        this prefix from the paths or keep it.
      forwarded_allow_ips: addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto headers are
        trusted; `*` for all. If any are given, the access log has the address of each client.
      cors_origins: origins whose pages may use the service from a browser, such as https://example.org; `*` for all.
      log_queries: whether the access log includes the texts of queries.
      micro_batching: whether waiting requests are encoded together; otherwise one after the other.
      max_batch: maximum number of queries encoded together. Texts of more than 32 tokens form proportionally smaller
        batches.
      max_passage_batch: maximum number of passages encoded together, and of pairs reranked together. Queries that
        arrive meanwhile wait for the batch.
      max_wait_ms: time in ms that an idle device waits for the next requests of just-answered clients. A lone client
        never waits.
      max_queue: maximum number of waiting queries, of waiting passages, and of pairs that wait for the reranker; beyond
        it, requests are answered with 503. All texts of a request count until they are encoded.
      max_body_bytes: maximum size of a request body in bytes.
      max_text_characters: maximum number of characters in a query or a passage.
      max_texts: maximum number of queries, texts, passages or pairs to rerank in a request.
      max_k: maximum number of passages per query.
      max_hits: maximum number of passages in a response, over all its queries.
      max_connections: maximum number of connections; a further one replaces a client without a complete request.
      header_timeout: seconds that a client has for the head of a request, from its first byte.
      body_timeout: seconds that a client has for the body of a request.
      request_timeout: seconds after which a request is answered with 504.
      write_timeout: seconds without progress after which a client that does not read its response is disconnected.
      keep_alive: seconds that an idle connection stays open.
    """

    model: str = "jaxretr"
    reranker: str = "reranker"
    writable: bool = False
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    root_path: str = ""
    forwarded_allow_ips: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    log_queries: bool = False
    micro_batching: bool = True
    max_batch: int = 16
    max_passage_batch: int = 4
    max_wait_ms: float = 3.0
    max_queue: int = 1024
    max_body_bytes: int = 4 * 2**20
    max_text_characters: int = 32_768
    max_texts: int = 256
    max_k: int = 1000
    max_hits: int = 10_000
    max_connections: int = 512
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    request_timeout: float = 30.0
    write_timeout: float = 30.0
    keep_alive: float = 30.0

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if setting.type is int and value < 1:
                raise ValueError(f"{setting.name} is {value}; expected at least 1")
            if setting.type is float and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{setting.name} is {value}; expected a number above 0")
        if self.max_texts > self.max_queue:
            raise ValueError(
                f"max_texts is {self.max_texts}, but only max_queue = {self.max_queue} texts may wait, so a request of "
                "max_texts texts would always be refused; lower max_texts or raise max_queue"
            )
        if self.max_k > self.max_hits:
            raise ValueError(
                f"max_k is {self.max_k}; expected at most max_hits = {self.max_hits}, the passages per answer"
            )
        for name, is_valid, expected in (
            ("allowed_hosts", _is_host, "names without scheme and port, such as example.org or *.example.org, or *"),
            ("forwarded_allow_ips", _is_network, "IP addresses, networks such as 10.0.0.0/8, or *"),
            ("cors_origins", _ORIGIN.fullmatch, "origins without a path, such as https://example.org, or *"),
        ):
            for value in getattr(self, name):
                if value != "*" and not is_valid(value):
                    raise ValueError(f"{name} contains {value!r}; expected {expected}")
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(
                f"root_path is {self.root_path!r}; expected a path such as /jaxretr, without a slash at the end"
            )
        for name in ("model", "reranker"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; expected the name that clients see")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip() == self.api_key != ""):
            raise ValueError("the API key is empty, starts or ends with a blank, or is not ASCII; choose another key")

    @property
    def limits(self) -> dict[str, int]:
        """Limits on requests, as /info reports them to clients."""
        return {name: getattr(self, name) for name in LIMITS}


def name_of_model(path: str) -> str:
    """Return the name of a model for clients: its directory's name, or for `NAME/model` of a training run, NAME."""
    parts = PurePath(path)
    return parts.parent.name if parts.name == "model" else parts.name


LIMITS = ("max_body_bytes", "max_text_characters", "max_texts", "max_k", "max_hits")

_HOST = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+")
_ROOT_PATH = re.compile(r"(/[\w.~%+-]+)*")


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _is_host(value: str) -> bool:
    return bool(_HOST.fullmatch(value)) or (_is_network(value) and "/" not in value)
