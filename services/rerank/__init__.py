"""Service rerank: a second, slower and better opinion on which passages answer."""
