"""`jaxretr train` as a script; --help describes the flags."""

from jaxretr.cli.train import main

if __name__ == "__main__":
    main()
