"""Migrations of schema `usage`: budgets, reservations and the ledger of every spend."""
