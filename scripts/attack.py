"""`jaxretr attack` as a script; --help describes the flags."""

from jaxretr.cli.attack import main

if __name__ == "__main__":
    main()
