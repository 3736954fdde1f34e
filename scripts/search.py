"""`jaxretr search` as a script; --help describes the flags."""

from jaxretr.cli.search import main

if __name__ == "__main__":
    main()
