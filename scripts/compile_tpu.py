"""`jaxretr compile-tpu` as a script; --help describes the flags."""

from jaxretr.cli.compile_tpu import main

if __name__ == "__main__":
    main()
