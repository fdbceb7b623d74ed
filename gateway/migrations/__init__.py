"""Migrations of schema `gateway`: projects and API keys."""
