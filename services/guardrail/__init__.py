"""Guardrail: what may come in, what may go out, and whether an answer is grounded."""
