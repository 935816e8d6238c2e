"""The command line: `python -m examples.demo`."""

import signal
import sys

if __name__ == "__main__":
    try:
        from .passes import main  # loading the libraries takes a while, in which Ctrl-C may come as well

        status = main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it twice has been heard
        status = 130
    except ModuleNotFoundError as error:
        sys.exit(f"{error}. What the demo needs is installed by `make demo`.")
    sys.exit(status)
