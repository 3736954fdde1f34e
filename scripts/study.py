"""`jaxretr study` as a script; --help describes the flags."""

from jaxretr.cli.study import main

if __name__ == "__main__":
    main()
