"""Behaves as its second argument says, on the rank of the third or on all: a program that ranks which wait may get."""

import os
import signal
import sys
import time

from duosora.core.parallel.launched import launched

behaviour, which = sys.argv[2:4]
if which in ("all", str(launched().rank)):
    print("this is", launched().rank)
    match behaviour:
        case "disturb":
            os.environ["DUOSORA_LEFT"] = "behind"
            os.chdir("/")
        case "tell":
            print(os.environ.get("DUOSORA_LEFT"), os.getcwd() == "/", os.getpid())
        case "raise":
            raise ValueError("the reason")
        case "leave":
            sys.exit(2)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
elif behaviour != "tell":
    time.sleep(600)
