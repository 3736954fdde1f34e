"""`jaxretr report-attacks` as a script; --help describes the flags."""

from jaxretr.cli.report_attacks import main

if __name__ == "__main__":
    main()
