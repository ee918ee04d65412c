"""The `duosora` command with the arguments behind a rank and a number of bytes, beyond which that rank's files cannot
grow, as on a full disk."""

import resource
import sys

from duosora.core.cli.main import main
from duosora.core.parallel.launched import launched

if __name__ == "__main__":
    if launched().rank == int(sys.argv[2]):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), limits[1]))
    sys.argv = ["duosora", *sys.argv[4:]]
    main()
