"""``python -m callic_archive``: the command line, where the command itself is not on the search path."""

from callic_archive.cli.main import main

if __name__ == "__main__":
    main()
