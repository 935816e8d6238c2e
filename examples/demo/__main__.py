"""The command line: `python -m examples.demo`."""

import sys

if __name__ == "__main__":
    try:
        # Loading the libraries takes a while, in which Ctrl-C may come as well.
        from .passes import main

        status = main()
    except KeyboardInterrupt:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses it twice has been heard
        status = 130
    except ModuleNotFoundError as error:
        sys.exit(f"{error}. What the demo needs is installed by `make demo`.")
    sys.exit(status)
