"""`jaxretr serve` as a script; --help describes the flags."""

from jaxretr.cli.serve import main

if __name__ == "__main__":
    main()
