"""`jaxretr evaluate` as a script; --help describes the flags."""

from jaxretr.cli.evaluate import main

if __name__ == "__main__":
    main()
