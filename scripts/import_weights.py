"""`jaxretr import-weights` as a script; --help describes the flags."""

from jaxretr.cli.import_weights import main

if __name__ == "__main__":
    main()
