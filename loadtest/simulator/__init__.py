"""The simulator: one server that speaks the wire formats of Gemini, Cohere and Anthropic.

The providers' own libraries accept it, so what is tested and tried with it is the code
that calls the real ones. It answers deterministically, keeps quotas, and fails on command.
"""
