"""`python -m meshkit.cli` is `citemesh`."""

from meshkit.cli.app import main

if __name__ == "__main__":
    main()
