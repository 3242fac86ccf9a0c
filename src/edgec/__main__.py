"""`python -m edgec`: the command line, where the `edgec` script is not on the path."""

from edgec.cli import main

if __name__ == "__main__":
    main()
