"""The command line, `citemesh`: runs a local mesh, and talks to any mesh over REST."""
