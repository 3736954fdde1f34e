"""`jaxretr quarantine` as a script; --help describes the flags."""

from jaxretr.cli.quarantine import main

if __name__ == "__main__":
    main()
