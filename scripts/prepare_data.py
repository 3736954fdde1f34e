"""`jaxretr prepare-data` as a script; --help describes the flags."""

from jaxretr.cli.prepare_data import main

if __name__ == "__main__":
    main()
