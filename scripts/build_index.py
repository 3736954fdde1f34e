"""`jaxretr build-index` as a script; --help describes the flags."""

from jaxretr.cli.build_index import main

if __name__ == "__main__":
    main()
