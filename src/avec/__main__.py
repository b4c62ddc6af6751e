"""`python -m avec` is the command `avec`."""

from avec.cli import main

if __name__ == "__main__":
    main()
