"""Schema `generation`: answer cache, conversations, answers and feedback."""
