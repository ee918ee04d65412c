"""The `duosora` command with the arguments behind the backend's name."""

import sys

from duosora.core.cli.main import main

if __name__ == "__main__":
    sys.argv = ["duosora", *sys.argv[2:]]
    main()
