"""`python -m jaxretr COMMAND` is `jaxretr COMMAND`, for a Python whose scripts are not on the PATH."""

from jaxretr.cli import main

if __name__ == "__main__":
    main()
