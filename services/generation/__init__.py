"""Generation: questions in, checked answers out."""
