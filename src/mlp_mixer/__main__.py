"""`python -m mlp_mixer` is the command `mlp-mixer`."""

from .cli import main

if __name__ == "__main__":
    main()
