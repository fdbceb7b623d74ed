"""The lexical index in OpenSearch, shared by any number of retrieval processes.

client.py   one client, its settings, and what an error of OpenSearch means here
mapping.py  fields, analyzers and index settings
writing.py  bulk writes whose every item is checked
index.py    what `LexicalIndex` promises
home.py     aliases and versioned indexes: creating, publishing, sweeping
"""
