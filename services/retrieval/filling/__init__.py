"""Filling embedding spaces beside the active one, and the steps of a space's life.

registry.py   what the embedding service says of the spaces, and the calls to it
work.py       what a space lacks, and the lease of whoever fills it, in Postgres
batches.py    which chunks go into one call (pure)
filler.py     embeds what is lacking, batch by batch, while it has the lease
lives.py      build, pause, switch, drop; keeps this service's view equal to the registry's
describing.py how far each is filled, and what the rest costs
"""
