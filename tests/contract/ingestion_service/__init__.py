"""One ingestion process for all modules of this package (fixtures of scope `package` need one)."""
