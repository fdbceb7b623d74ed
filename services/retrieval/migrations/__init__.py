"""Schema `retrieval`: chunks, dense tables, the live-version pointer and the lexical outbox."""
