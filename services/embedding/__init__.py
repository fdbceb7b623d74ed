"""Service embedding: texts in, vectors of one space out."""
