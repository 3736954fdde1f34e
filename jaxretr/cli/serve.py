"""Serve an index as an HTTP API with a search page.

    jaxretr serve --index DIR
    jaxretr serve --index DIR --writable --port 9000
    jaxretr serve --index DIR --reranker MODEL

Listens on this machine only by default. To serve other machines, name a --host and set an API key, in JAXRETR_API_KEY
or in a file. Ctrl-C or SIGTERM stops the service after it has answered all accepted requests. docs/serving.md describes
the API, the limits and the log.
"""

import argparse
import contextlib
import dataclasses
import sys
from typing import Any

from jaxretr.files import AnyPath, model_flag, path_flag
from jaxretr.serve.options import API_KEY_VARIABLE, RERANKER_MAX_LENGTH, ServiceOptions, name_of_model

LIMITS = {field.name: field for field in dataclasses.fields(ServiceOptions) if field.type in (int, float)}


def main() -> None:
    args = flags().parse_args()
    from jaxretr import parallel
    from jaxretr.index.encoder import load_encoder
    from jaxretr.index.rerank import load_reranker
    from jaxretr.serve.app import create_app
    from jaxretr.serve.server import allowed_hosts, read_api_key, run

    parallel.initialize()
    try:
        key = read_api_key(args.api_key_file)
        hosts = allowed_hosts(args.host, key, insecure=args.insecure, names=args.allowed_hosts)
        with contextlib.closing(opened(args.index, writable=args.writable)) as index:
            about = index.describe()
            options = ServiceOptions(
                model=name_of_model(args.model or about["model"]),
                reranker=name_of_model(args.reranker or "reranker"),
                writable=args.writable,
                api_key=key,
                allowed_hosts=hosts,
                root_path=args.root_path,
                forwarded_allow_ips=tuple(args.forwarded_allow_ips),
                cors_origins=tuple(args.cors_origins),
                log_queries=args.log_queries,
                micro_batching=args.micro_batching,
                **{name: getattr(args, name) for name in LIMITS},
            )
            encoder = load_encoder(about, args.model)
            reranker = load_reranker(args.reranker, about, args.reranker_max_length) if args.reranker else None
            app = create_app(index, encoder, options, reranker=reranker)
            code = run(app, options, host=args.host, port=args.port)
    except KeyboardInterrupt:
        sys.exit("Interrupted before the service started")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    sys.exit(code)


def opened(directories: list[AnyPath], *, writable: bool) -> Any:
    """Open the index. If it cannot be written, as on a read-only volume, the error says how to serve it read-only."""
    from jaxretr.index.shards import open_shards

    try:
        return open_shards(directories, writable=writable)
    except OSError as error:
        if not writable or isinstance(error, FileNotFoundError):
            raise
        raise OSError(f"{error}; to serve the index read-only, leave out --writable") from error


def port(value: str) -> int:
    """Parse a port number; 0 selects any free port."""
    if not value.isdecimal() or int(value) > 65_535:
        raise argparse.ArgumentTypeError(f"{value!r} is not a port; expected a number from 0 to 65535")
    return int(value)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--index",
        type=path_flag,
        required=True,
        action="append",
        help="directory of the index; repeat it for each shard",
    )
    add("--model", type=model_flag, help="directory of the model (default: its path when the index was built)")
    add("--reranker", type=model_flag, help="directory or hub name of a cross-encoder; adds /rerank and /v1/rerank")
    add(
        "--reranker_max_length",
        type=int,
        default=RERANKER_MAX_LENGTH,
        help="maximum number of tokens of a query and a passage together (default: %(default)s, or fewer if the "
        "reranker supports fewer)",
    )
    add("--host", default="127.0.0.1", help="default: %(default)s")
    add("--port", type=port, default=8000, help="default: %(default)s; 0 selects any free port")
    add("--writable", action="store_true", help="let clients put and delete passages (default: read-only)")
    add(
        "--api_key_file",
        type=path_flag,
        help=f"file with the key that clients must send (default: ${API_KEY_VARIABLE})",
    )
    add("--insecure", action="store_true", help="serve other machines without a key")
    names: Any = {"nargs": "+", "action": "extend", "default": []}
    add("--allowed_hosts", **names, metavar="HOST", help="further names allowed in the Host header, or '*' for all")
    add("--root_path", default="", help="path prefix of the service behind a reverse proxy, such as /jaxretr")
    add(
        "--forwarded_allow_ips",
        **names,
        metavar="IP",
        help="reverse proxies whose X-Forwarded-For is trusted, or '*' for all",
    )
    add("--cors_origins", **names, metavar="ORIGIN", help="origins whose pages may use the service, or '*' for all")
    add("--log_queries", action="store_true", help="write the texts of queries to the access log")
    add("--no_micro_batching", dest="micro_batching", action="store_false", help="encode requests one at a time")
    for name, field in LIMITS.items():
        add(f"--{name}", type=field.type, default=field.default, help="default: %(default)s")
    return parser
