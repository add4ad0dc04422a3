"""`python -m amalgam` is `amalgam`."""

from amalgam.pipeline.__main__ import main

if __name__ == "__main__":
    main()
