"""Migrations of schema `embedding`."""
