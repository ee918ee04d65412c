"""The `duosora` command with the arguments behind a folder, in which each rank has a working folder of its own."""

import os
import sys
from pathlib import Path

from duosora.core.cli.main import main
from duosora.core.parallel.launched import launched

if __name__ == "__main__":
    own = Path(sys.argv[2], str(launched().rank))
    own.mkdir()
    os.chdir(own)
    sys.argv = ["duosora", *sys.argv[3:]]
    main()
