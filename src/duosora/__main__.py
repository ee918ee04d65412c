"""`python -m duosora`: the same as the `duosora` command."""

from duosora.core.cli.main import main

if __name__ == "__main__":
    main()
