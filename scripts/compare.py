"""`jaxretr compare` as a script; --help describes the flags."""

from jaxretr.cli.compare import main

if __name__ == "__main__":
    main()
